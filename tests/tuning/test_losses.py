"""Supervised losses: least where the mask is right, and with a gradient that leads there."""

import numpy as np
import pytest
import torch

from job.data.fundus import sample
from job.metrics.topology import cldice
from job.tuning.losses import soft_cldice_loss, soft_dice_loss, soft_skeleton, supervised_loss


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    return torch.from_numpy(sample(0, seed=2, size=96, annotation="all").mask_HW)[None]


def test_the_truth_has_the_least_loss(truth: torch.Tensor) -> None:
    """Sure and right is next to nothing; each error costs, and all weights count."""
    right = torch.where(truth, 20.0, -20.0)
    wrong = right.clone()
    wrong[:, ::7] *= -1
    for weight in (0.0, 1.0):
        assert supervised_loss(right, truth, weight) < 0.02
        assert supervised_loss(wrong, truth, weight) > 1
    assert supervised_loss(wrong, truth, 1.0) > supervised_loss(wrong, truth, 0.0)


def test_dice_of_hard_masks_is_that_of_the_metric(truth: torch.Tensor) -> None:
    """On zeros and ones, soft Dice is Dice but for one pixel."""
    mask = truth.roll(1, dims=2)
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert float(1 - soft_dice_loss(mask.float(), truth.float())) == pytest.approx(float(dice), abs=1e-3)


def test_cldice_sees_a_gap_that_dice_does_not(truth: torch.Tensor) -> None:
    """Thin breaks cost more of soft clDice, as they cost of the metric."""
    broken = truth.clone()
    broken[:, ::12] = False
    loss = float(soft_cldice_loss(broken.float(), truth.float()))
    metric = 1 - float(cldice(broken.numpy(), truth[0].numpy())[0])
    assert loss == pytest.approx(metric, abs=0.05)
    assert loss > 0.02


def test_soft_skeletons_are_thin_centre_lines() -> None:
    """Of a bar of five pixels the middle stays."""
    bar = torch.zeros(1, 21, 40)
    bar[:, 8:13, 4:36] = 1
    skeleton = soft_skeleton(bar)[0, :, 10:30]
    assert np.flatnonzero(skeleton.numpy().mean(1) > 0.5).tolist() == [10]


def test_an_empty_truth_is_no_nan() -> None:
    """Crops without a vessel have finite losses and gradients."""
    logits = torch.zeros(1, 16, 16, requires_grad=True)
    supervised_loss(logits, torch.zeros(1, 16, 16, dtype=torch.bool), 1.0).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
