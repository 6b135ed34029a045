"""One image under every action: its row of the action table."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from job.actions import LARGEST_LOGIT, ActionSpace, iter_masks, resize_bilinear
from job.data.dataset import Loaded
from job.data.features import statistics_vector
from job.progress import Task
from job.reward import free_judges
from job.reward.terms import score
from job.rows import Row
from job.segmenters.protocol import Segmentation

PIXELS_AT_ONCE, FEWEST_AT_ONCE = 64_000_000, 4
"""Masks that are scored between two looks for a stop request: half a second of skeletons, which are cheapest
for 64 masks at once. Each time the truth's own is drawn again, so that of large images too it is a few."""
DIVERSITY_PIXELS = 65_536
"""Mask diversity and the free judges are measured on a regular grid of at most this many pixels."""


def score_image(
    loaded: Loaded,
    segmentation: Segmentation,
    space: ActionSpace,
    terms: Sequence[str],
    at_once: int,
    task: Task,
) -> Row:
    """Score an image's masks under every action, at most `at_once` of them in memory; NaN without a truth.

    `task` is looked at for a stop request all along; its steps are the caller's.
    """
    size = (loaded.image.shape[0], loaded.image.shape[1])
    stride = math.ceil(math.sqrt(size[0] * size[1] / DIVERSITY_PIXELS))
    unseen = max(FEWEST_AT_ONCE, PIXELS_AT_ONCE // (size[0] * size[1]))
    scores = {term: np.full(len(space), np.nan) for term in terms}
    packed: dict[int, NDArray[np.uint8]] = {}
    for actions, masks_BHW in iter_masks(space, segmentation.logits_PHW, size, at_once):
        task.advance(0)
        sampled_BX = masks_BHW[:, ::stride, ::stride].reshape(len(masks_BHW), -1)
        packed |= zip(actions, np.packbits(sampled_BX, axis=1), strict=True)
        for few in range(0, len(actions) if loaded.truth is not None else 0, unseen):
            assert loaded.truth is not None
            part = slice(few, few + unseen)
            for term, values in score(masks_BHW[part], loaded.truth, terms).items():
                scores[term][actions.start + few :][: len(values)] = values
            task.advance(0)
    packed_KX = np.stack([packed[action] for action in range(len(space))])
    task.advance(0)
    names, statistics = statistics_vector(loaded.image, loaded.fov, segmentation.logits_PHW)
    return Row(
        scores=scores,
        judges=_judged_free(space, packed_KX, segmentation.logits_PHW, size, stride),
        diversity=_mean_pairwise_distance(packed_KX),
        embedding_E=segmentation.embedding_D,
        statistics_S=statistics,
        statistic_names=names,
        company=segmentation.company,
    )


def _judged_free(
    space: ActionSpace,
    packed_KX: NDArray[np.uint8],
    logits_PHW: NDArray[np.float16],
    size: tuple[int, int],
    stride: int,
) -> dict[str, NDArray[np.float64]]:
    """Ask the judges that need neither truth nor training about the sampled masks of all actions: `[K]`."""
    probability_PX = [_sampled_probability(space, logits_HW, size, stride) for logits_HW in logits_PHW]
    masks_KX = np.unpackbits(packed_KX, axis=1, count=len(probability_PX[0])).view(np.bool_)
    masks_PQX = masks_KX.reshape(len(space.prompts), len(space.postprocess), -1)
    by_prompt = zip(masks_PQX, probability_PX, strict=True)
    return {
        "confidence": np.concatenate([free_judges.confidence(*of_prompt) for of_prompt in by_prompt]),
        "consensus": free_judges.consensus(masks_KX),
    }


def _sampled_probability(
    space: ActionSpace, logits_HW: NDArray[np.float16], size: tuple[int, int], stride: int
) -> NDArray[np.float32]:
    """Return a prompt's probabilities `[X]` on the grid that masks are sampled on, resized as masks are."""
    clipped_HW = np.clip(logits_HW.astype(np.float32), -LARGEST_LOGIT, LARGEST_LOGIT)
    probability_HW: NDArray[np.float32] = expit(
        resize_bilinear(clipped_HW, size, space.by_way_of)[::stride, ::stride]
    )
    return probability_HW.ravel()


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
