"""Corrupted masks: shapes, purity, and what each corruption may and may not do."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from job.data.fundus import sample
from job.metrics import overlap
from job.reward.corruptions import CORRUPTIONS, corrupted, drop_thin, shift, swap

ONLY_REMOVE = ["drop_thin", "break_vessels", "lose_region", "erode"]
ONLY_ADD = ["dilate", "add_islands", "add_rim"]


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """All vessels of a synthetic photograph, 96 px."""
    return sample(0, seed=5, size=96, annotation="all").mask_HW


@pytest.mark.parametrize("name", CORRUPTIONS)
@given(seed=st.integers(0, 2**32), shape=st.tuples(st.integers(1, 40), st.integers(1, 40)))
@example(seed=0, shape=(1, 2))
@example(seed=3, shape=(3, 40))
@settings(max_examples=15, deadline=None)
def test_any_mask_gives_a_new_mask_of_its_shape(name: str, seed: int, shape: tuple[int, int]) -> None:
    """Equal generators give equal masks, the mask that came in stays as it was; empty and full ones too."""
    rng = np.random.default_rng(seed)
    for mask in (rng.uniform(size=shape) < 0.3, np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)):
        before = mask.copy()
        first, second = (CORRUPTIONS[name](mask, np.random.default_rng(seed)) for _ in range(2))
        assert first.dtype == np.bool_
        assert first.shape == shape
        assert np.array_equal(first, second)
        assert np.array_equal(mask, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_spoils_vessels_by_various_degrees(name: str, truth: np.ndarray) -> None:
    """Dice falls below 1 in nearly every draw, and differs from draw to draw."""
    masks = np.stack([CORRUPTIONS[name](truth, np.random.default_rng(seed)) for seed in range(12)])
    scores = overlap.dice(overlap.confusion(masks, truth))
    assert np.count_nonzero(scores < 1) >= 9
    assert scores.std() > 0.01
    assert scores.max() > 0.2


@pytest.mark.parametrize("name", ONLY_REMOVE + ONLY_ADD)
def test_losses_add_nothing_and_additions_lose_nothing(name: str, truth: np.ndarray) -> None:
    """What removes gives a subset, what adds a superset."""
    for seed in range(10):
        mask = CORRUPTIONS[name](truth, np.random.default_rng(seed))
        inner, outer = (mask, truth) if name in ONLY_REMOVE else (truth, mask)
        assert not (inner & ~outer).any()


def test_thick_vessels_survive_the_loss_of_thin_ones() -> None:
    """A line of one pixel may go, a bar of seven stays whole."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:17, 5:60] = True
    mask[40, 5:60] = True
    results = [drop_thin(mask, np.random.default_rng(seed)) for seed in range(20)]
    assert all(result[10:17, 5:60].all() for result in results)
    assert any(not result[40].any() for result in results)


def test_a_shift_moves_without_wrapping_around() -> None:
    """What leaves on one side does not come back on the other, and nothing else changes."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[0, 0] = mask[30, 30] = True
    for seed in range(30):
        moved = shift(mask, np.random.default_rng(seed))
        assert not moved[50:, :].any()
        assert not moved[:, 50:].any()
        assert np.count_nonzero(moved[10:50, 10:50]) == 1


def test_the_set_holds_extremes_the_truth_and_a_swapped_mask(truth: np.ndarray) -> None:
    """Empty, full and true masks close the set; the swapped one has the other image's vessels."""
    other = sample(1, seed=5, size=64, annotation="all").mask_HW
    masks = corrupted(truth, [other], np.random.default_rng(0))
    assert len(masks) == len(CORRUPTIONS) + 5
    assert not masks[-3].any()
    assert masks[-2].all()
    assert np.array_equal(masks[-1], truth)
    assert np.array_equal(masks[-4], swap(truth, other))
    assert len(corrupted(truth, [], np.random.default_rng(0))) == len(masks) - 1


def test_a_swapped_mask_is_the_other_one_at_this_size() -> None:
    """A mask of half the size is doubled pixel by pixel, and one of equal size copied."""
    other = np.random.default_rng(0).uniform(size=(10, 20)) < 0.4
    assert np.array_equal(swap(np.zeros((20, 40), dtype=bool), other), other.repeat(2, 0).repeat(2, 1))
    same = swap(np.zeros((10, 20), dtype=bool), other)
    assert np.array_equal(same, other)
    assert same is not other
