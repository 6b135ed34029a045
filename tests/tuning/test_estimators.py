"""Advantages: the policy gradient that they give is the true one where that can be computed."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from job.reward.terms import OVERLAPS, TERMS, combine, score
from job.tuning.estimators import (
    Masks,
    Numbers,
    above_others,
    counted_advantages,
    mask_advantages,
    window_advantages,
)
from job.tuning.sampling import log_probability

TRUTH = np.array([[True, False], [True, False]])
LOGITS = torch.tensor([[0.5, -0.3], [-1.0, 0.2]])


def dice(masks: Masks) -> Numbers:
    return score(masks, TRUTH, ["dice"])["dice"]


def all_masks() -> NDArray[np.bool_]:
    return np.array(list(itertools.product([False, True], repeat=4))).reshape(16, 2, 2)


def probabilities_of(masks: NDArray[np.bool_], logits: torch.Tensor) -> torch.Tensor:
    return log_probability(logits, torch.from_numpy(masks)).sum((1, 2)).exp()


def exact_gradient() -> torch.Tensor:
    """Differentiate the expected Dice, all 16 masks counted."""
    logits = LOGITS.clone().requires_grad_()
    expected = (probabilities_of(all_masks(), logits) * torch.from_numpy(dice(all_masks()))).sum()
    (gradient,) = torch.autograd.grad(expected, logits)
    return gradient


def estimated_gradient(n_groups: int, n_samples: int) -> torch.Tensor:
    """Average the score-function gradient of groups of independent masks."""
    rng = np.random.default_rng(0)
    probabilities = LOGITS.sigmoid().numpy()
    masks = rng.random((n_groups, n_samples, 2, 2)) < probabilities
    advantages = np.stack([mask_advantages(dice, group) for group in masks])
    logits = LOGITS.clone().requires_grad_()
    gain = torch.from_numpy(advantages) * log_probability(logits, torch.from_numpy(masks))
    (gradient,) = torch.autograd.grad(gain.sum((2, 3)).mean(), logits)
    return gradient


def test_whole_masks_give_the_gradient_of_the_expected_reward() -> None:
    """With the leave-one-out baseline the mean over groups is the exact gradient, each pixel's."""
    exact, estimated = exact_gradient(), estimated_gradient(10_000, 4)
    assert torch.allclose(estimated, exact, atol=0.005)
    assert exact.abs().min() > 0.02  # otherwise closeness would prove nothing
    assert (torch.sign(estimated) == torch.tensor([[1.0, -1.0], [1.0, -1.0]])).all()


def test_windows_of_one_pixel_credit_what_that_pixel_changes() -> None:
    """A window's advantage is the reward of the base with that pixel changed, less that of the others."""
    masks, base = all_masks(), np.array([[True, True], [False, False]])
    advantages = window_advantages(dice, masks, base, 1, (0, 0))
    for y, x in itertools.product(range(2), repeat=2):
        changed = np.repeat(base[None], 16, axis=0)
        changed[:, y, x] = masks[:, y, x]
        assert np.allclose(advantages[:, y, x], above_others(dice(changed)))
    assert np.sign(advantages[-1]).tolist() == [[1, -1], [1, -1]]


def test_windows_are_a_grid_that_may_be_shifted() -> None:
    """Every pixel is in one window; where all masks agree with the base there is nothing to credit."""
    rng = np.random.default_rng(1)
    truth, masks = rng.random((11, 9)) < 0.4, rng.random((3, 11, 9)) < 0.5
    masks[:, 8:, :] = truth[8:, :]
    advantages = window_advantages(lambda some: score(some, truth, ["dice"])["dice"], masks, truth, 4, (0, 3))
    assert (advantages[:, 8:] == 0).all()
    blocks = [advantages[:, 0:4, 0:1], advantages[:, 0:4, 1:5], advantages[:, 4:8, 5:9]]
    assert all((block == block[:, :1, :1]).all() and block.any() for block in blocks)
    assert np.allclose(advantages.sum(axis=0), 0)


def test_the_whole_image_as_one_window_is_the_whole_mask() -> None:
    """Windows as large as the image give the advantages of whole masks."""
    masks = all_masks()
    whole = mask_advantages(dice, masks)
    windows = window_advantages(dice, masks, np.zeros((2, 2), np.bool_), 2, (0, 0))
    assert np.allclose(windows, np.broadcast_to(whole, windows.shape))


@pytest.mark.parametrize(("side", "shift"), [(4, (0, 0)), (4, (3, 1)), (5, (2, 4)), (40, (7, 0))])
def test_counting_gives_what_changing_masks_gives(side: int, shift: tuple[int, int]) -> None:
    """Terms that count pixels have a quicker way to the same credit, any weights of any of them."""
    rng = np.random.default_rng(2)
    truth, base, masks = rng.random((13, 18)) < 0.4, rng.random((13, 18)) < 0.4, rng.random((5, 13, 18)) < 0.5
    names = [name for name in OVERLAPS if name in TERMS]
    terms = dict(zip(names, rng.normal(size=len(names)).tolist(), strict=True))
    slow = window_advantages(
        lambda some: combine(score(some, truth, list(terms)), terms), masks, base, side, shift
    )
    quick = counted_advantages(terms, masks, truth, base, side, shift)
    assert np.allclose(quick, slow, atol=1e-12)
    assert np.abs(slow).max() > 1e-3


def vessels(rng: np.random.Generator, n: int) -> Masks:
    """Draw masks of straight vessels, three pixels wide, each in a cell of 12 px with background around."""
    masks = np.zeros((n, 36, 48), np.bool_)
    for mask in masks:
        for top, left in itertools.product(range(0, 36, 12), range(0, 48, 12)):
            y, x = rng.integers(2, 7, 2)
            length = int(rng.integers(0, 6))
            vessel = (
                (slice(y, y + 3), slice(x, x + length))
                if rng.random() < 0.5
                else (slice(y, y + length), slice(x, x + 3))
            )
            mask[top : top + 12, left : left + 12][vessel] = True
    return masks


def test_centrelines_are_credited_where_they_run() -> None:
    """Where no vessel crosses a window's border, counting skeletons is the same as changing masks."""
    rng = np.random.default_rng(3)
    (truth, base), masks = vessels(rng, 2), vessels(rng, 5)
    terms = {"cldice": 0.6, "dice": 0.4}
    slow = window_advantages(
        lambda some: combine(score(some, truth, list(terms)), terms), masks, base, 12, (0, 0)
    )
    quick = counted_advantages(terms, masks, truth, base, 12, (0, 0))
    assert np.allclose(quick, slow, atol=1e-12)
    assert np.abs(slow).max() > 1e-3


def test_one_window_of_centrelines_is_the_whole_mask() -> None:
    """Whatever the masks look like: then there is no border."""
    rng = np.random.default_rng(4)
    truth, base, masks = rng.random((13, 18)) < 0.4, rng.random((13, 18)) < 0.4, rng.random((5, 13, 18)) < 0.5
    whole = mask_advantages(lambda some: score(some, truth, ["cldice"])["cldice"], masks)
    quick = counted_advantages({"cldice": 1.0}, masks, truth, base, 40, (0, 0))
    assert np.allclose(quick, np.broadcast_to(whole, quick.shape), atol=1e-12)
