"""Connectedness of thin structures: centreline Dice and Betti numbers.

Foreground is 8-connected and background 4-connected: a diagonal vessel of one pixel is one component, and
what it encloses is a hole. One connectivity for both would contradict itself there, and the choice can turn
rankings round (Berger et al. 2024, arXiv:2412.14619).
"""

import numpy as np
from scipy import ndimage

from job.metrics import thinning
from job.metrics.overlap import Counts, Masks, Scores, check_masks

EIGHT_CONNECTED = np.ones((3, 3), dtype=np.bool_)


def cldice(masks_BHW: Masks, truth_HW: Masks) -> Scores:
    """Score each mask by centreline Dice `[B]` (Shit et al., CVPR 2021, equation 2).

    The harmonic mean of topology precision, the share of the mask's skeleton that lies in the truth, and
    topology sensitivity, the share of the truth's skeleton that lies in the mask. Two empty masks score 1,
    one empty mask 0. Raises ValueError when an array is not boolean or the shapes do not fit.
    """
    check_masks(masks_BHW, truth_HW)
    (truth_at_N,) = (skeletons.at_N for skeletons in thinning.skeletons(truth_HW[None]))
    # The bytes of Pillow's booleans are 255, which numpy miscounts.
    masks_BX = masks_BHW.view(np.uint8).reshape(len(masks_BHW), truth_HW.size)
    truth_X = truth_HW.view(np.uint8).ravel()
    lengths, lengths_inside = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for skeletons in thinning.skeletons(masks_BHW):
        lengths.append(np.count_nonzero(skeletons.of_NB, axis=0))
        lengths_inside.append(np.count_nonzero(skeletons.of_NB[truth_X[skeletons.at_N] != 0], axis=0))
    return cldice_of_lengths(
        np.concatenate(lengths),
        np.concatenate(lengths_inside),
        len(truth_at_N),
        np.count_nonzero(masks_BX[:, truth_at_N], axis=1),
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


def cldice_of_lengths(
    length_B: Counts, length_in_truth_B: Counts, truth_length: int, truth_length_in_B: Counts
) -> Scores:
    """Give centreline Dice by the skeletons' lengths in pixels, and how much of each is in the other's mask.

    The arrays may have any shape.
    """
    precision_B = length_in_truth_B / np.maximum(length_B, 1)
    sensitivity_B = truth_length_in_B / max(truth_length, 1)
    both_B = precision_B + sensitivity_B
    scores_B: Scores = 2 * precision_B * sensitivity_B / np.where(both_B > 0, both_B, 1)
    if truth_length == 0:
        scores_B[length_B == 0] = 1.0
    return scores_B


def _euler_number(mask_HW: Masks) -> int:
    """Euler number of the 8-connected foreground: pixels are closed squares that share edges and corners."""
    padded = np.pad(mask_HW, 1)
    edges_h = padded[1:, :] | padded[:-1, :]
    edges_v = padded[:, 1:] | padded[:, :-1]
    corners = edges_h[:, 1:] | edges_h[:, :-1]
    n_edges = np.count_nonzero(edges_h) + np.count_nonzero(edges_v)
    return int(np.count_nonzero(corners) - n_edges + np.count_nonzero(mask_HW))
