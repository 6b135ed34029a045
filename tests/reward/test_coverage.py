"""Shares of cells that masks cover."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from job.reward.coverage import coverage, coverage_bytes

SIDES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.integers(0, 3), st.sampled_from([0.05, 0.5, 1.0]))
def test_it_is_torch_s_adaptive_mean_to_the_bit(
    shape: tuple[int, int], size: tuple[int, int], n: int, density: float
) -> None:
    """Of any sides, also where cells share pixels, or a grid is the larger one."""
    masks = np.random.default_rng(0).random((n, *shape)) < density
    expected = F.adaptive_avg_pool2d(torch.from_numpy(masks).float(), size) if n else torch.zeros((0, *size))
    assert np.array_equal(coverage(masks, size), expected.numpy())
    assert np.array_equal(coverage_bytes(masks, size), (expected * 255).round().byte().numpy())


@pytest.mark.parametrize("shape", [(40, 2000), (2000, 40), (1500, 700)])
def test_cells_of_more_pixels_than_a_byte_counts(shape: tuple[int, int]) -> None:
    """Full masks too: no sum overflows, neither of a cell nor of its rows."""
    masks = np.random.default_rng(1).random((3, *shape)) < 0.5
    masks[0] = True
    expected = F.adaptive_avg_pool2d(torch.from_numpy(masks).float(), (4, 3))
    assert np.array_equal(coverage(masks, (4, 3)), expected.numpy())
    assert coverage_bytes(masks, (4, 3))[0].min() == 255


def test_masks_are_read_and_no_more() -> None:
    """A read-only view that is not contiguous gives what its copy does, and is as it was."""
    whole = np.random.default_rng(2).random((4, 60, 90)) < 0.3
    whole.flags.writeable = False
    view, copy = whole[::2, ::3, ::2], whole[::2, ::3, ::2].copy()
    assert np.array_equal(coverage(view, (7, 9)), coverage(copy, (7, 9)))
    assert np.array_equal(view, copy)
