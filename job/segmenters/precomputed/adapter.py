"""Probabilities in files as a segmenter: images are known by name, logits are at the image's own size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.data.image_names import ImageNames
from job.errors import InputError
from job.segmenters.precomputed.layout import Layout
from job.segmenters.precomputed.reading import read_probabilities
from job.segmenters.protocol import Segmentation

REVISION = 1
"""Raised when the same files give other logits than before."""
LEAST = 2.0**-12
"""Probabilities are kept this far from 0 and 1, where logits are infinite."""
_GRID = 4
_QUANTILES = (5, 25, 50, 75, 95)
_ALIKE = 1.05


class PrecomputedSegmenter:
    """Reads a file an image and prompt; computes the embedding from the image, for there is no encoder."""

    def __init__(self, layout: Layout, names: ImageNames, key: str) -> None:
        self._layout = layout
        self._names = names
        self._key = key
        self._looked_for: set[tuple[str, ...]] = set()

    @property
    def key(self) -> str:
        """Of every file in the folder."""
        return self._key

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Return the files' logits at each image's size; probabilities are averaged where they shrink.

        Raises ValueError when there is no prompt or an image is not uint8 RGB, `InputError` for images
        without a name and for missing files (at the first question those of all images), `IntegrityError` for
        damaged ones.
        """
        if not prompts:
            raise ValueError("segment needs at least one prompt")
        for position, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image {position} must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
        names = [self._names(image) for image in images]
        if tuple(prompts) not in self._looked_for:
            self._layout.files(sorted(self._names.known()), prompts)
            self._looked_for.add(tuple(prompts))
        files = self._layout.files(names, prompts)
        return [
            Segmentation(
                np.stack([_logits(files[name, prompt], image.shape[:2]) for prompt in prompts]),
                embedding_of(image),
            )
            for name, image in zip(names, images, strict=True)
        ]


def embedding_of(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 `[37]`: mean, deviation, quantiles of each channel, and mean greys of a 4 x 4 grid."""
    channels_3N = image.reshape(-1, 3).T.astype(np.float32) / 255
    moments = [channels_3N.mean(1), channels_3N.std(1), *np.percentile(channels_3N, _QUANTILES, axis=1)]
    grey = Image.fromarray(image).convert("L").resize((_GRID, _GRID), Image.Resampling.BOX)
    parts = [*moments, np.asarray(grey).ravel() / 255]
    return np.concatenate(parts).astype(np.float32)


def _logits(path: Path, size: tuple[int, ...]) -> NDArray[np.float16]:
    probabilities = read_probabilities(path)
    _require_upright(path, probabilities.shape, size)
    if probabilities.shape != size:
        method = Image.Resampling.BOX if probabilities.shape[0] > size[0] else Image.Resampling.BILINEAR
        # Of probabilities, not logits: a sure pixel beside an unsure one must not outweigh it.
        probabilities = np.asarray(Image.fromarray(probabilities).resize((size[1], size[0]), method))
    kept = np.clip(probabilities.astype(np.float64), LEAST, 1 - LEAST)
    return np.log(kept / (1 - kept)).astype(np.float16)


def _require_upright(path: Path, shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Raise `InputError` for a map that fits its image only when it is laid on its side."""
    mine, wanted = shape[0] / shape[1], size[0] / size[1]
    if not _alike(mine, wanted) and _alike(1 / mine, wanted):
        raise InputError(
            f"{path}: the map of {shape[0]} x {shape[1]} (height x width) lies on its side: its image has"
            f" {size[0]} x {size[1]}",
            advice="transpose it; images are taken upright, as their EXIF orientation says",
        )


def _alike(one: float, other: float) -> bool:
    return max(one / other, other / one) < _ALIKE
