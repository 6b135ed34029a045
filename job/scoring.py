"""One image under every action: its row of the action table."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from job.actions import LARGEST_LOGIT, ActionSpace, blocks_of, iter_masks, resize_bilinear
from job.data.dataset import Loaded
from job.data.features import statistics_vector
from job.metrics.overlap import Confusion
from job.progress import Task
from job.reward import free_judges
from job.reward.terms import TOPOLOGICAL, from_counts, score
from job.rows import Row
from job.segmenters.protocol import Segmentation

PIXELS_AT_ONCE, FEWEST_AT_ONCE = 64_000_000, 4
"""Masks that are scored between two looks for a stop request: half a second of skeletons, which are cheapest
for 64 masks at once. Each time the truth's own is drawn again, so that of large images too it is a few."""
DIVERSITY_PIXELS = 65_536
"""Mask diversity and the free judges are measured on a regular grid of at most this many pixels."""


@dataclass(frozen=True)
class Measured:
    """What an accelerator found of an image's K masks, see `job/masks_on_device.py`."""

    counts: Confusion | None
    """Against the truth, where there is one."""
    sampled_KX: NDArray[np.uint8]
    """The masks on the grid that they are sampled on, as packed bits."""
    surfaces_PX: NDArray[np.float32]
    """Logits at those pixels."""
    masks_KX: NDArray[np.uint8] | None
    """The whole masks as packed bits, where somebody wants them."""

    @property
    def n_bytes(self) -> int:
        """What it takes."""
        whole = 0 if self.masks_KX is None else self.masks_KX.nbytes
        return self.sampled_KX.nbytes + self.surfaces_PX.nbytes + whole


def score_image(
    loaded: Loaded,
    segmentation: Segmentation,
    space: ActionSpace,
    terms: Sequence[str],
    at_once: int,
    task: Task,
    measured: Measured | None = None,
) -> Row:
    """Score an image's masks under every action, at most `at_once` of them in memory; NaN without a truth.

    What an accelerator `measured` is not computed again. `task` is looked at for a stop request all along;
    its steps are the caller's.
    """
    size = (loaded.image.shape[0], loaded.image.shape[1])
    scores = {term: np.full(len(space), np.nan) for term in terms}
    if measured is None:
        stride = sampling_stride(size)
        masks = iter_masks(space, segmentation.logits_PHW, size, at_once)
        packed_KX = _scored(loaded.truth, masks, scores, stride, task)
        surfaces_PX = np.stack([_sampled(space, one, size, stride) for one in segmentation.logits_PHW])
    else:
        packed_KX, surfaces_PX = measured.sampled_KX, measured.surfaces_PX
        if measured.counts is not None:
            scores |= from_counts(measured.counts, terms)
        of_shape = {term: scores[term] for term in terms if term in TOPOLOGICAL}
        if of_shape and measured.masks_KX is not None:
            masks = unpacked(measured.masks_KX, size, blocks_of(space, at_once))
            _scored(loaded.truth, masks, of_shape, None, task)
    task.advance(0)
    names, statistics = statistics_vector(loaded.image, loaded.fov, segmentation.logits_PHW)
    return Row(
        scores=scores,
        judges=_judged_free(space, packed_KX, surfaces_PX),
        diversity=_mean_pairwise_distance(packed_KX),
        embedding_E=segmentation.embedding_D,
        statistics_S=statistics,
        statistic_names=names,
        company=segmentation.company,
    )


def sampling_stride(size: tuple[int, int]) -> int:
    """Return which rows and columns of an image are on the grid of `DIVERSITY_PIXELS`: every how many."""
    return math.ceil(math.sqrt(size[0] * size[1] / DIVERSITY_PIXELS))


def unpacked(
    masks_KX: NDArray[np.uint8], size: tuple[int, int], blocks: Iterable[range]
) -> Iterator[tuple[range, NDArray[np.bool_]]]:
    """Yield blocks of masks `[B, H, W]` that are given as packed bits."""
    for block in blocks:
        bits_BX = np.unpackbits(masks_KX[block.start : block.stop], axis=1, count=size[0] * size[1])
        yield block, bits_BX.view(np.bool_).reshape(-1, *size)


def needs_whole_masks(terms: Sequence[str]) -> bool:
    """Return whether counts of pixels are not enough for all of the terms."""
    return bool(TOPOLOGICAL & set(terms))


def _scored(
    truth_HW: NDArray[np.bool_] | None,
    masks: Iterable[tuple[range, NDArray[np.bool_]]],
    scores: dict[str, NDArray[np.float64]],
    stride: int | None,
    task: Task,
) -> NDArray[np.uint8]:
    """Fill in the scores of masks, and return those pixels of them that are on the grid, as packed bits."""
    packed = []
    for actions, masks_BHW in masks:
        task.advance(0)
        if stride is not None:
            sampled_BX = masks_BHW[:, ::stride, ::stride].reshape(len(masks_BHW), -1)
            packed.append(np.packbits(sampled_BX, axis=1))
        unseen = max(FEWEST_AT_ONCE, PIXELS_AT_ONCE // math.prod(masks_BHW.shape[1:]))
        for few in range(0, len(actions) if truth_HW is not None else 0, unseen):
            assert truth_HW is not None
            part = slice(few, few + unseen)
            for term, values in score(masks_BHW[part], truth_HW, list(scores)).items():
                scores[term][actions.start + few :][: len(values)] = values
            task.advance(0)
    return np.concatenate(packed) if packed else np.zeros((0, 0), np.uint8)


def _judged_free(
    space: ActionSpace, packed_KX: NDArray[np.uint8], surfaces_PX: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Ask the judges that need neither truth nor training about the sampled masks of all actions: `[K]`."""
    probability_PX: NDArray[np.float32] = expit(surfaces_PX)
    masks_KX = np.unpackbits(packed_KX, axis=1, count=len(probability_PX[0])).view(np.bool_)
    masks_PQX = masks_KX.reshape(len(space.prompts), len(space.postprocess), -1)
    by_prompt = zip(masks_PQX, probability_PX, strict=True)
    return {
        "confidence": np.concatenate([free_judges.confidence(*of_prompt) for of_prompt in by_prompt]),
        "consensus": free_judges.consensus(masks_KX),
    }


def _sampled(
    space: ActionSpace, logits_HW: NDArray[np.float16], size: tuple[int, int], stride: int
) -> NDArray[np.float32]:
    """Return a prompt's logits `[X]` on the grid that masks are sampled on, resized as masks are."""
    clipped_HW = np.clip(logits_HW.astype(np.float32), -LARGEST_LOGIT, LARGEST_LOGIT)
    return resize_bilinear(clipped_HW, size, space.by_way_of)[::stride, ::stride].ravel()


def _mean_pairwise_distance(packed_KX: NDArray[np.uint8]) -> float:
    """Mean of 1 - Dice over all pairs of masks, given as packed bits; two empty masks are equal."""
    if len(packed_KX) < 2:
        return 0.0
    area_K = np.bitwise_count(packed_KX).sum(axis=1, dtype=np.int64)
    distances = []
    for k in range(len(packed_KX) - 1):
        shared = np.bitwise_count(packed_KX[k + 1 :] & packed_KX[k]).sum(axis=1, dtype=np.int64)
        total = area_K[k + 1 :] + area_K[k]
        distances.append(np.where(total > 0, 1 - 2 * shared / np.maximum(total, 1), 0.0))
    return float(np.concatenate(distances).mean())
