"""Sums of windows: those of the changed masks, which nobody has to make."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from job.reward import mask_sums
from job.reward.inputs import mask_coverage, working_size
from job.reward.mask_sums import MaskSums, WindowedMasks, whole_sums

MAX_SIDE = 32


def changed(
    masks_KHW: NDArray[np.bool_], base_HW: NDArray[np.bool_], side: int, shift: tuple[int, int]
) -> NDArray[np.bool_]:
    """Make all masks, by window from left to right and from above, then by sample."""
    made = []
    for top in range(-shift[0], base_HW.shape[0], side):
        for left in range(-shift[1], base_HW.shape[1], side):
            window = slice(max(0, top), top + side), slice(max(0, left), left + side)
            for mask_HW in masks_KHW:
                one = base_HW.copy()
                one[window] = mask_HW[window]
                made.append(one)
    return np.stack(made)


def assert_close(found: MaskSums, wanted: MaskSums) -> None:
    for name in ("shared_BKR", "mask_BK1", "squares_BK1"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.shape == other.shape, name
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [(30, 21), (64, 64), (75, 59), (1, 40)], ids=str)
@pytest.mark.parametrize(("side", "shift"), [(8, (0, 0)), (9, (4, 7)), (13, (12, 1)), (90, (60, 5))])
def test_windows_have_the_sums_of_changed_masks(
    size: tuple[int, int], side: int, shift: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On grids as fine as the image or coarser, wherever a border crosses a cell, all at once or in parts."""
    rng = np.random.default_rng(0)
    base, masks = rng.random(size) < 0.3, rng.random((3, *size)) < 0.4
    grid = working_size(*size, MAX_SIDE)
    truths = torch.from_numpy(rng.random((2, grid[0] * grid[1]), dtype=np.float32))
    coverage = mask_coverage(changed(masks, base, side, shift), grid).flatten(1)
    wanted = whole_sums(coverage[None], truths[None])
    assert wanted.mask_BK1.std() > 0
    for at_once in (1, 2**20):
        monkeypatch.setattr(mask_sums, "_PIXELS_AT_ONCE", at_once)
        windowed = WindowedMasks(masks, base, side, shift, max_side=MAX_SIDE, device="cpu")
        assert_close(windowed.sums(truths), wanted)
