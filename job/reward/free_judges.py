"""Two judges of masks that cost no training: a reward network that does not beat them is not worth its time.

They are features of the action table and never enter a reward: a policy that is paid for confidence or for
agreement learns nothing of the truth. Masks are flattened, whole or sampled on a regular grid.
"""

import numpy as np
from numpy.typing import NDArray

from job.metrics import overlap

Masks = NDArray[np.bool_]
Scores = NDArray[np.float64]


def confidence(masks_BX: Masks, probability_X: NDArray[np.floating]) -> Scores:
    """Give the segmenter's mean probability over each mask's foreground: float64 `[B]`, 0 for an empty mask.

    `probability_X` is of the prompt that the B masks come from. Raises ValueError when the shapes do not fit.
    """
    if masks_BX.ndim != 2 or probability_X.shape != masks_BX.shape[1:]:
        raise ValueError(
            f"need masks [B, X] and probabilities [X], got {masks_BX.shape} and {probability_X.shape}"
        )
    # Foreground is a tenth of the pixels: picking it beats multiplying all of them.
    means = [probability_X[mask_X].mean(dtype=np.float64) if mask_X.any() else 0.0 for mask_X in masks_BX]
    return np.array(means, dtype=np.float64)


def consensus(masks_KX: Masks) -> Scores:
    """Give the Dice of each action's mask with the majority vote of all K masks of the image: float64 `[K]`.

    A pixel that exactly half of the masks hold is not in the majority. Empty masks are right where the
    majority is empty. Raises ValueError unless there is a mask.
    """
    if masks_KX.ndim != 2 or not len(masks_KX):
        raise ValueError(f"need masks [K, X] of at least one action, got {masks_KX.shape}")
    votes_X = masks_KX.sum(axis=0, dtype=np.uint16)
    majority_X = 2 * votes_X.astype(np.int64) > len(masks_KX)
    return overlap.dice(overlap.confusion(masks_KX[:, None], majority_X[None]))
