"""Connectedness of thin structures: centreline Dice and Betti numbers.

Foreground is 8-connected and background 4-connected: a diagonal vessel of one pixel is one component, and
what it encloses is a hole. One connectivity for both would contradict itself there, and the choice can turn
rankings round (Berger et al. 2024, arXiv:2412.14619).
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from job.metrics.overlap import Counts, Masks, Scores, check_masks

EIGHT_CONNECTED = np.ones((3, 3), dtype=np.bool_)

_skeletonize: Callable[[Masks], Masks] = skeletonize


def cldice(masks_BHW: Masks, truth_HW: Masks) -> Scores:
    """Score each mask by centreline Dice `[B]` (Shit et al., CVPR 2021, equation 2).

    The harmonic mean of topology precision, the share of the mask's skeleton that lies in the truth, and
    topology sensitivity, the share of the truth's skeleton that lies in the mask. Two empty masks score 1,
    one empty mask 0. Raises ValueError when an array is not boolean or the shapes do not fit.
    """
    check_masks(masks_BHW, truth_HW)
    truth_skeleton_HW = _skeleton(truth_HW)
    return np.array(
        [_cldice(mask_HW, truth_HW, truth_skeleton_HW) for mask_HW in masks_BHW], dtype=np.float64
    )


def betti_numbers(mask_HW: Masks) -> tuple[int, int]:
    """Count components (b0) and holes (b1) of a boolean mask `[H, W]`.

    Whatever background touches the border is the outside, not a hole. b1 comes from Euler's formula
    `b0 - b1 = V - E + F`, which needs one pass over 2x2 windows instead of a second labelling.
    """
    b0 = ndimage.label(mask_HW, structure=EIGHT_CONNECTED)[1]
    return b0, b0 - _euler_number(mask_HW)


def betti_errors(masks_BHW: Masks, truth_HW: Masks) -> tuple[Counts, Counts]:
    """Give |b0 - truth's b0| and |b1 - truth's b1|, each int64 `[B]`; ValueError as in `cldice`."""
    check_masks(masks_BHW, truth_HW)
    numbers_B2 = np.array([betti_numbers(mask_HW) for mask_HW in masks_BHW], dtype=np.int64).reshape(-1, 2)
    errors_B2 = np.abs(numbers_B2 - np.array(betti_numbers(truth_HW), dtype=np.int64))
    return errors_B2[:, 0], errors_B2[:, 1]


def _cldice(mask_HW: Masks, truth_HW: Masks, truth_skeleton_HW: Masks) -> float:
    skeleton_HW = _skeleton(mask_HW)
    mask_length = np.count_nonzero(skeleton_HW)
    truth_length = np.count_nonzero(truth_skeleton_HW)
    if mask_length == 0 or truth_length == 0:
        return 1.0 if mask_length == truth_length else 0.0
    precision = float(np.count_nonzero(skeleton_HW & truth_HW) / mask_length)
    sensitivity = float(np.count_nonzero(truth_skeleton_HW & mask_HW) / truth_length)
    if precision == 0.0 or sensitivity == 0.0:
        return 0.0
    return 2 * precision * sensitivity / (precision + sensitivity)


def _skeleton(mask_HW: Masks) -> Masks:
    # Pillow hands pictures of one bit over as booleans whose bytes are 255; scikit-image takes bytes for
    # places in a table and reads beyond its end, which ends the process without a word.
    return _skeletonize(mask_HW.view(np.uint8) != 0)


def _euler_number(mask_HW: Masks) -> int:
    """Euler number of the 8-connected foreground: pixels are closed squares that share edges and corners."""
    padded = np.pad(mask_HW, 1)
    edges_h = padded[1:, :] | padded[:-1, :]
    edges_v = padded[:, 1:] | padded[:, :-1]
    corners = edges_h[:, 1:] | edges_h[:, :-1]
    n_edges = np.count_nonzero(edges_h) + np.count_nonzero(edges_v)
    return int(np.count_nonzero(corners) - n_edges + np.count_nonzero(mask_HW))
