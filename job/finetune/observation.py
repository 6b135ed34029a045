"""What a chooser sees of an image: at most 64 standardised numbers that need no truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_OBSERVATION = 64
CLIP = 5.0

Observations = NDArray[np.float32]
Features = NDArray[np.float32]
Matrix = NDArray[np.float64]

# Relative to the size of the values: below it, differences between images are float32 rounding.
_CONSTANT = 1e-5


@dataclass(frozen=True)
class Observer:
    """An affine map from raw features to observations, fitted on training images.

    Raw features are an image's embedding followed by its statistics, F = E + S numbers. `centre_F` is their
    mean over the training images; `projection_FD` holds principal components and scales in one matrix, with
    zeros for what is constant on the training images.
    """

    centre_F: NDArray[np.float32]
    projection_FD: NDArray[np.float32]
    statistic_names: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        embeddings_NE: Features,
        statistics_NS: Features,
        statistic_names: Sequence[str],
        pca_components: int,
    ) -> "Observer":
        """Fit on the raw features of N training images.

        The first k = min(pca_components, N - 1, E) observations are principal components of the embeddings;
        the statistics follow, or their own leading principal components where they would exceed 64 in all.
        Every observation has mean 0 and standard deviation 1 over the training images. Raises ValueError when
        shapes disagree, features are not finite, or nothing is left to observe.
        """
        names = tuple(statistic_names)
        _check_features(embeddings_NE, statistics_NS, len(names))
        n_images, embedding_size = embeddings_NE.shape
        n_components = min(pca_components, n_images - 1, embedding_size, LARGEST_OBSERVATION)
        if n_images < 1 or n_components + len(names) < 1:
            raise ValueError(
                f"nothing to observe: {n_images} images, {n_components} components, no statistics"
            )
        features_NF = np.concatenate([embeddings_NE, statistics_NS], axis=1, dtype=np.float64)
        # The centre is rounded first, so that the fit and every later use subtract the same numbers.
        centre_F = features_NF.mean(axis=0).astype(np.float32)
        centred_NF = features_NF - centre_F
        scale_F = _inverse_scale(centred_NF, np.abs(features_NF).max(axis=0))

        components_EK = _whitening(centred_NF[:, :embedding_size], n_components)
        room = LARGEST_OBSERVATION - n_components
        scales_SS = np.diag(scale_F[embedding_size:])
        if len(names) > room:
            scales_SS = scales_SS @ _whitening(centred_NF[:, embedding_size:] @ scales_SS, room)
        projection_FD = np.zeros((features_NF.shape[1], n_components + scales_SS.shape[1]))
        projection_FD[:embedding_size, :n_components] = components_EK
        projection_FD[embedding_size:, n_components:] = scales_SS
        return cls(centre_F, projection_FD.astype(np.float32), names)

    @property
    def size(self) -> int:
        """Length D of an observation."""
        return int(self.projection_FD.shape[1])

    @property
    def embedding_size(self) -> int:
        """Length E of the embedding that it expects."""
        return len(self.centre_F) - len(self.statistic_names)

    def observe(self, embeddings_NE: Features, statistics_NS: Features) -> Observations:
        """Return observations float32 `[N, D]` in [-5, 5]; ValueError for unfit or non-finite features."""
        _check_features(embeddings_NE, statistics_NS, len(self.statistic_names))
        if embeddings_NE.shape[1] != self.embedding_size:
            raise ValueError(
                f"embeddings of {embeddings_NE.shape[1]} numbers; fitted on {self.embedding_size}"
            )
        features_NF = np.concatenate([embeddings_NE, statistics_NS], axis=1, dtype=np.float64)
        observations_ND = (features_NF - self.centre_F) @ self.projection_FD.astype(np.float64)
        return np.clip(observations_ND, -CLIP, CLIP).astype(np.float32)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Return the arrays for a safetensors file; the statistics' names go into its document."""
        return {"centre": self.centre_F, "projection": self.projection_FD}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]], statistic_names: Sequence[str]) -> "Observer":
        """Rebuild from `to_tensors`; ValueError when a tensor is missing, misshapen or not finite."""
        names = tuple(statistic_names)
        if set(tensors) != {"centre", "projection"}:
            raise ValueError(f"an observer has the tensors centre and projection, got {sorted(tensors)}")
        centre_F, projection_FD = tensors["centre"], tensors["projection"]
        if centre_F.ndim != 1 or projection_FD.ndim != 2 or len(centre_F) != len(projection_FD):
            raise ValueError(f"centre {centre_F.shape} and projection {projection_FD.shape} do not fit")
        if len(names) > len(centre_F) or not 1 <= projection_FD.shape[1] <= LARGEST_OBSERVATION:
            raise ValueError(f"projection {projection_FD.shape} with {len(names)} statistics")
        for values in (centre_F, projection_FD):
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise ValueError(f"an observer is made of finite float32 numbers, got {values.dtype}")
        return cls(centre_F, projection_FD, names)


def _whitening(centred_NX: Matrix, n_components: int) -> Matrix:
    """Give the leading principal directions, each divided by its standard deviation: `[X, n_components]`."""
    whitening_XK = np.zeros((centred_NX.shape[1], n_components))
    if n_components == 0 or not np.abs(centred_NX).max() > 0:
        return whitening_XK
    _, singular_R, directions_RX = np.linalg.svd(centred_NX, full_matrices=False)
    deviations_R = singular_R / np.sqrt(len(centred_NX))
    n_real = min(n_components, int((deviations_R > _CONSTANT * deviations_R[0]).sum()))
    directions_RX = directions_RX[:n_real]
    # LAPACK leaves the sign open; the largest loading is made positive so that every machine agrees.
    largest_R = np.abs(directions_RX).argmax(axis=1)
    signs_R = np.sign(directions_RX[np.arange(n_real), largest_R])
    whitening_XK[:, :n_real] = (directions_RX * (signs_R / deviations_R[:n_real])[:, None]).T
    return whitening_XK


def _inverse_scale(centred_NF: Matrix, largest_F: Matrix) -> Matrix:
    deviation_F = np.sqrt(np.square(centred_NF).mean(axis=0))
    is_constant_F = deviation_F <= _CONSTANT * largest_F
    return np.where(is_constant_F, 0.0, 1.0 / np.where(is_constant_F, 1.0, deviation_F))


def _check_features(embeddings_NE: Features, statistics_NS: Features, n_statistics: int) -> None:
    if embeddings_NE.ndim != 2 or statistics_NS.ndim != 2 or len(embeddings_NE) != len(statistics_NS):
        raise ValueError(f"embeddings {embeddings_NE.shape} and statistics {statistics_NS.shape} do not fit")
    if statistics_NS.shape[1] != n_statistics:
        raise ValueError(f"{statistics_NS.shape[1]} statistics; expected the {n_statistics} that are named")
    if not (np.isfinite(embeddings_NE).all() and np.isfinite(statistics_NS).all()):
        raise ValueError("features contain NaN or infinity")
