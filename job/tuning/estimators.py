"""From sampled masks to advantages: who was better than his group, as a whole or in a part of the image."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from job.metrics.overlap import Confusion
from job.metrics.thinning import skeleton_maps
from job.metrics.topology import cldice_of_lengths
from job.reward.terms import OVERLAPS, combine

Masks = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Reward = Callable[[Masks], Numbers]
"""Gives masks `[K, H, W]` of one image their rewards `[K]`; need not be differentiable."""
CENTRELINES = "cldice"
COUNTED = frozenset(OVERLAPS) | {CENTRELINES}
"""Terms that count pixels: of masks, or of their skeletons."""
_BYTES_AT_ONCE = 2**27


def mask_advantages(reward: Reward, masks_KHW: Masks) -> Numbers:
    """Judge whole masks: advantages `[K, 1, 1]`, the same for each pixel."""
    return above_others(reward(masks_KHW))[:, None, None]


def window_advantages(
    reward: Reward, masks_KHW: Masks, base_HW: Masks, side_px: int, shift: tuple[int, int]
) -> Numbers:
    """Judge masks window by window: advantages `[K, H, W]`.

    What a mask says in a window is put into `base_HW`, which all masks share elsewhere, and the whole is
    rewarded: a window is credited with what it alone changes (a difference reward, Wolpert and Tumer 2001).
    The grid of windows begins `shift` pixels before the upper left corner.
    """
    advantages = np.zeros(masks_KHW.shape)
    windows = [
        window
        for window in _windows(base_HW.shape, side_px, shift)
        if (masks_KHW[:, *window] != masks_KHW[:1, *window]).any()  # otherwise there is nothing to tell
    ]
    at_once = max(1, _BYTES_AT_ONCE // masks_KHW.size)
    for first in range(0, len(windows), at_once):
        some = windows[first : first + at_once]
        changed = np.broadcast_to(base_HW, (len(some), *masks_KHW.shape)).copy()
        for w, window in enumerate(some):
            changed[w][:, *window] = masks_KHW[:, *window]
        rewards_WK = reward(changed.reshape(-1, *base_HW.shape)).reshape(len(some), len(masks_KHW))
        for window, reward_K in zip(some, rewards_WK, strict=True):
            advantages[:, *window] = above_others(reward_K)[:, None, None]
    return advantages


def judged_advantages(
    rewards_KYX: Numbers, masks_KHW: Masks, side_px: int, shift: tuple[int, int]
) -> Numbers:
    """Return what `window_advantages` does, of rewards `[K, rows, columns]` of every window's change."""
    differ_HW = (masks_KHW != masks_KHW[:1]).any(axis=0)
    # Where masks agree their rewards do but for rounding, of which nothing must be made.
    is_told_YX = _window_sums(differ_HW[None], side_px, shift)[0] > 0
    return _spread(above_others(rewards_KYX) * is_told_YX, differ_HW.shape, side_px, shift)


def counted_advantages(
    terms: Mapping[str, float],
    masks_KHW: Masks,
    truth_HW: Masks,
    base_HW: Masks,
    side_px: int,
    shift: tuple[int, int],
) -> Numbers:
    """Return what `window_advantages` does, for terms that count pixels: a thousand times the windows.

    `terms` are names of `COUNTED` with their weights. Counts of a changed mask are those of the base, less
    the base's in the window, plus the mask's there. For overlaps that is exact. clDice counts pixels of
    skeletons, which are those of the whole masks: what a window's border would change in them is left out.
    """

    def counted(in_base_HW: Masks, in_masks_KHW: Masks) -> NDArray[np.int64]:
        changes_KYX = _window_sums(in_masks_KHW, side_px, shift) - _window_sums(
            in_base_HW[None], side_px, shift
        )
        return changes_KYX + np.count_nonzero(in_base_HW)

    rewards: dict[str, Numbers] = {}
    if overlaps := terms.keys() & OVERLAPS.keys():
        tp_KYX = counted(base_HW & truth_HW, masks_KHW & truth_HW)
        fp_KYX = counted(base_HW & ~truth_HW, masks_KHW & ~truth_HW)
        n_true = np.count_nonzero(truth_HW)
        counts = Confusion(tp_KYX, fp_KYX, n_true - tp_KYX, truth_HW.size - n_true - fp_KYX)
        rewards |= {term: OVERLAPS[term](counts) for term in overlaps}
    if CENTRELINES in terms:
        thin = skeleton_maps(np.concatenate([truth_HW[None], base_HW[None], masks_KHW]))
        of_truth_HW, of_base_HW, of_masks_KHW = thin[0], thin[1], thin[2:]
        rewards[CENTRELINES] = cldice_of_lengths(
            counted(of_base_HW, of_masks_KHW),
            counted(of_base_HW & truth_HW, of_masks_KHW & truth_HW),
            int(np.count_nonzero(of_truth_HW)),
            counted(base_HW & of_truth_HW, masks_KHW & of_truth_HW),
        )
    return _spread(above_others(combine(rewards, terms)), truth_HW.shape, side_px, shift)


def above_others(rewards_K: Numbers) -> Numbers:
    """Subtract from each reward `[K, ...]` the mean of the group's others: a baseline that leaves no bias."""
    n = len(rewards_K)
    advantages: Numbers = (rewards_K - rewards_K.mean(axis=0)) * (n / (n - 1))
    return advantages


def _windows(size: tuple[int, ...], side_px: int, shift: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for top in range(-shift[0], size[0], side_px):
        for left in range(-shift[1], size[1], side_px):
            yield slice(max(0, top), top + side_px), slice(max(0, left), left + side_px)


def _spread(advantages_KYX: Numbers, size: tuple[int, ...], side_px: int, shift: tuple[int, int]) -> Numbers:
    """Give each pixel `[K, H, W]` its window's advantage."""
    by_pixel = advantages_KYX.repeat(side_px, axis=1).repeat(side_px, axis=2)
    return by_pixel[:, shift[0] : shift[0] + size[0], shift[1] : shift[1] + size[1]]


def _window_sums(is_counted_KHW: Masks, side_px: int, shift: tuple[int, int]) -> NDArray[np.int64]:
    """Count the pixels of each window: `[K, rows, columns]`."""
    height, width = is_counted_KHW.shape[1:]
    below, right = -(height + shift[0]) % side_px, -(width + shift[1]) % side_px
    padded = np.pad(is_counted_KHW, ((0, 0), (shift[0], below), (shift[1], right)))
    blocks = padded.reshape(
        len(padded), padded.shape[1] // side_px, side_px, padded.shape[2] // side_px, side_px
    )
    sums: NDArray[np.int64] = blocks.sum(axis=(2, 4), dtype=np.int64)
    return sums
