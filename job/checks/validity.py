"""Checks before learning, on training and validation images: after a failure no result can be trusted."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.checks.result import CheckResult

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ValidityEvidence:
    """What the checks look at; rows are training and validation images with a mask, columns actions."""

    dice_NK: Scores
    """True Dice in the action table."""
    diversity_N: Scores
    """Mean pairwise 1 - Dice between the masks of an image's actions."""
    replayed_dice_N: Scores
    """Dice of the no-op as the environment reports it when it is stepped through."""
    baseline_dice_N: Scores
    """Dice of today's mask (first prompt, first post-processing), measured without table or environment."""
    names: tuple[str, ...]
    replay_tolerance: float
    min_mask_diversity: float


def replay_identity(evidence: ValidityEvidence) -> CheckResult:
    """Check 1: the no-op through the environment scores what the segmenter's own mask scores.

    The reference experiment lost 6 to 10 Dice points between its environment and its baseline and could not
    say where; a difference here is a resize, threshold or bookkeeping error.
    """
    differences = np.abs(evidence.replayed_dice_N - evidence.baseline_dice_N)
    worst = int(differences.argmax())
    value = float(differences[worst])
    passed = value <= evidence.replay_tolerance
    return CheckResult(
        "replay_identity",
        value,
        evidence.replay_tolerance,
        "validity",
        passed,
        f"the no-op through the environment {_differs(value)} on {len(differences)} images",
        ""
        if passed
        else f"look at {evidence.names[worst]}: sizes, threshold or scoring differ on the two paths",
    )


def mask_diversity(evidence: ValidityEvidence) -> CheckResult:
    """Check 2: actions make different masks; where they do not, nothing can be chosen between."""
    value = float(evidence.diversity_N.mean())
    passed = value >= evidence.min_mask_diversity
    return CheckResult(
        "mask_diversity",
        value,
        evidence.min_mask_diversity,
        "validity",
        passed,
        f"two actions' masks of an image differ by {value:.3f} (1 - Dice) on average",
        "" if passed else "the actions are inert: use prompts of different meaning, and more thresholds",
    )


def _differs(value: float) -> str:
    return f"differs from the baseline by up to {value:.2g} Dice" if value else "equals the baseline"


VALIDITY: tuple[Callable[[ValidityEvidence], CheckResult], ...] = (replay_identity, mask_diversity)
"""Every validity check, in the order of their numbers."""
