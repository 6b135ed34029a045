"""The action table: every image x every action, scored once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.actions import ActionSpace, apply_all, iter_masks
from job.data.dataset import Dataset, Loaded, Sample
from job.data.features import statistics_vector
from job.progress import Progress, track
from job.reward.terms import Judge, score
from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Segmentation
from job.storage.digests import tensors_digest
from job.storage.tensor_file import read_tensors, write_tensors

TABLE = "table.safetensors"
BYTES_PER_MASK_PIXEL = 16
"""What scoring needs per pixel of a mask: the mask, its labels, and the products of the overlap counts."""
DIVERSITY_PIXELS = 65_536
"""Mask diversity is measured on a regular grid of at most this many pixels."""


@dataclass(frozen=True)
class ActionTable:
    """Scores and raw features of N images under K actions.

    `scores[term]` is float64 `[N, K]`, NaN in the rows of unlabelled images; `diversity_N` is the mean
    pairwise 1 - Dice between the masks of an image's actions; `embeddings_NE` and `statistics_NS` are float32
    features that need no truth, the latter named by `statistic_names`.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    scores: Mapping[str, NDArray[np.float64]]
    diversity_N: NDArray[np.float64]
    embeddings_NE: NDArray[np.float32]
    statistics_NS: NDArray[np.float32]
    statistic_names: tuple[str, ...]

    def of(self, *splits: str) -> "ActionTable":
        """Return the rows of the named splits, in order."""
        return self.rows([i for i, split in enumerate(self.splits) if split in splits])

    def rows(self, indices: Sequence[int]) -> "ActionTable":
        """Return the given rows."""
        picked = list(indices)
        return replace(
            self,
            names=tuple(self.names[i] for i in picked),
            patients=tuple(self.patients[i] for i in picked),
            splits=tuple(self.splits[i] for i in picked),
            scores={term: values[picked] for term, values in self.scores.items()},
            diversity_N=self.diversity_N[picked],
            embeddings_NE=self.embeddings_NE[picked],
            statistics_NS=self.statistics_NS[picked],
        )

    def with_scores(self, **scores: NDArray[np.float64]) -> "ActionTable":
        """Return the table with further terms `[N, K]`."""
        return replace(self, scores={**self.scores, **scores})

    def digest(self) -> str:
        """Return a sha256 over names, scores and features."""
        return tensors_digest(self._tensors(), {"rows": [self.names, self.patients, self.splits]})

    def save(self, folder: Path) -> None:
        """Write `table.safetensors` into `folder`."""
        rows = {"names": self.names, "patients": self.patients, "splits": self.splits}
        columns = {"statistic_names": self.statistic_names, "terms": sorted(self.scores)}
        write_tensors(folder / TABLE, self._tensors(), {**rows, **columns})

    @classmethod
    def load(cls, folder: Path) -> "ActionTable":
        """Read what `save` wrote; raises `IntegrityError` for a damaged file."""
        tensors, rows = read_tensors(folder / TABLE)
        return cls(
            names=tuple(rows["names"]),
            patients=tuple(rows["patients"]),
            splits=tuple(rows["splits"]),
            scores={term: tensors[f"scores.{term}"] for term in rows["terms"]},
            diversity_N=tensors["diversity"],
            embeddings_NE=tensors["embeddings"],
            statistics_NS=tensors["statistics"],
            statistic_names=tuple(rows["statistic_names"]),
        )

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        features = {"embeddings": self.embeddings_NE, "statistics": self.statistics_NS}
        scores = {f"scores.{term}": values for term, values in self.scores.items()}
        return {"diversity": self.diversity_N, **features, **scores}


def build(
    dataset: Dataset,
    samples: Sequence[Sample],
    space: ActionSpace,
    cache: SegmentationCache,
    *,
    terms: Sequence[str],
    batch_size: int,
    memory_bytes: int,
    progress: Progress,
) -> ActionTable:
    """Segment every sample with every prompt, apply every post-processing, and score against the truth.

    Memory is bounded by `memory_bytes` for masks, whatever the number of images. Samples without a mask get
    NaN scores.
    """
    rows: list[_Row] = []
    with progress.task("action table", len(samples), "images") as task:
        for start in range(0, len(samples), batch_size):
            batch = [dataset.load(sample) for sample in samples[start : start + batch_size]]
            for loaded, segmentation in zip(batch, cache.get([b.image for b in batch]), strict=True):
                rows.append(_score(loaded, segmentation, space, terms, memory_bytes))
                task.advance()
    statistic_names = rows[0].statistic_names
    return ActionTable(
        names=tuple(sample.name for sample in samples),
        patients=tuple(sample.patient for sample in samples),
        splits=tuple(sample.split or "" for sample in samples),
        scores={term: np.stack([row.scores[term] for row in rows]) for term in terms},
        diversity_N=np.array([row.diversity for row in rows]),
        embeddings_NE=np.stack([row.embedding for row in rows]),
        statistics_NS=np.stack([row.statistics for row in rows]),
        statistic_names=statistic_names,
    )


@dataclass(frozen=True)
class _Row:
    scores: dict[str, NDArray[np.float64]]
    diversity: float
    embedding: NDArray[np.float32]
    statistics: NDArray[np.float32]
    statistic_names: tuple[str, ...]


def _score(
    loaded: Loaded, segmentation: Segmentation, space: ActionSpace, terms: Sequence[str], memory_bytes: int
) -> _Row:
    height, width = loaded.image.shape[:2]
    stride = math.ceil(math.sqrt(height * width / DIVERSITY_PIXELS))
    scores = {term: np.full(len(space), np.nan) for term in terms}
    packed: dict[int, NDArray[np.uint8]] = {}
    for actions, masks_BHW in mask_blocks(space, segmentation.logits_PHW, (height, width), memory_bytes):
        sampled_BX = masks_BHW[:, ::stride, ::stride].reshape(len(masks_BHW), -1)
        packed |= zip(actions, np.packbits(sampled_BX, axis=1), strict=True)
        if loaded.truth is not None:
            for term, values in score(masks_BHW, loaded.truth, terms).items():
                scores[term][actions] = values
    names, statistics = statistics_vector(loaded.image, loaded.fov, segmentation.logits_PHW)
    diversity = _mean_pairwise_distance([packed[action] for action in range(len(space))])
    return _Row(scores, diversity, segmentation.embedding_D, statistics, names)


def mask_blocks(
    space: ActionSpace, logits_PHW: NDArray[np.float16], size: tuple[int, int], memory_bytes: int
) -> Iterator[tuple[list[int], NDArray[np.bool_]]]:
    """Yield (actions, their masks `[B, H, W]`) until every action was there; all at once where they fit."""
    fitting = max(1, memory_bytes // (size[0] * size[1] * BYTES_PER_MASK_PIXEL))
    if fitting >= len(space):
        yield list(range(len(space))), apply_all(space, logits_PHW, size)
        return
    for first in range(0, len(space.postprocess), fitting):
        part = replace(space, postprocess=space.postprocess[first : first + fitting])
        for p, masks_BHW in enumerate(iter_masks(part, logits_PHW, size)):
            start = space.index(p, first)
            yield list(range(start, start + len(masks_BHW))), masks_BHW


def _mean_pairwise_distance(packed: Sequence[NDArray[np.uint8]]) -> float:
    """Mean of 1 - Dice over all pairs of masks, given as packed bits; two empty masks are equal."""
    if len(packed) < 2:
        return 0.0
    packed_KX = np.stack(packed)
    area_K = np.bitwise_count(packed_KX).sum(axis=1, dtype=np.int64)
    distances = []
    for k in range(len(packed) - 1):
        shared = np.bitwise_count(packed_KX[k + 1 :] & packed_KX[k]).sum(axis=1, dtype=np.int64)
        total = area_K[k + 1 :] + area_K[k]
        distances.append(np.where(total > 0, 1 - 2 * shared / np.maximum(total, 1), 0.0))
    return float(np.concatenate(distances).mean())


def judge_table(
    dataset: Dataset,
    samples: Sequence[Sample],
    space: ActionSpace,
    cache: SegmentationCache,
    judge_of: Callable[[Sample], Judge],
    *,
    memory_bytes: int,
    progress: Progress,
) -> NDArray[np.float64]:
    """Score every sample's masks without the truth, by the judge that `judge_of` names for it: `[N, K]`."""
    scores_NK = np.empty((len(samples), len(space)))
    for i, sample in enumerate(track(progress, "judging masks", samples, len(samples), "images")):
        image = dataset.load(sample).image
        logits_PHW = cache.get([image])[0].logits_PHW
        judge, size = judge_of(sample), (image.shape[0], image.shape[1])
        # A judge reads the image once a call: few large blocks cost less than many small ones.
        for actions, masks_BHW in mask_blocks(space, logits_PHW, size, memory_bytes):
            judged = score(masks_BHW, None, ["reward_net"], image_HWC=image, judge=judge)
            scores_NK[i, actions] = judged["reward_net"]
    return scores_NK
