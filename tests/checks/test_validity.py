"""Checks before learning."""

from dataclasses import replace

import numpy as np
import pytest

from job.checks import VALIDITY, ValidityEvidence
from job.checks.validity import mask_diversity, replay_identity


def evidence_of(**changes: object) -> ValidityEvidence:
    sound = ValidityEvidence(
        dice_NK=np.full((3, 2), 0.7),
        diversity_N=np.array([0.1, 0.2, 0.3]),
        replayed_dice_N=np.array([0.7, 0.6, 0.8]),
        baseline_dice_N=np.array([0.7, 0.6, 0.8]),
        names=("a", "b", "c"),
        replay_tolerance=0.01,
        min_mask_diversity=0.05,
    )
    return replace(sound, **changes)  # type: ignore[arg-type]


def test_sound_evidence_passes_every_check() -> None:
    """Each says what it measured and against what; there is nothing to advise."""
    results = [check(evidence_of()) for check in VALIDITY]
    assert [(r.name, r.passed, r.severity, r.advice) for r in results] == [
        ("replay_identity", True, "validity", ""),
        ("mask_diversity", True, "validity", ""),
    ]
    assert [(r.value, r.threshold) for r in results] == [(0.0, 0.01), (pytest.approx(0.2), 0.05)]


def test_a_path_that_scores_otherwise_fails_and_names_the_worst_image() -> None:
    """The largest difference counts, whatever its sign: a mean would hide one wrong resize."""
    result = replay_identity(evidence_of(replayed_dice_N=np.array([0.71, 0.54, 0.8])))
    assert not result.passed
    assert result.value == pytest.approx(0.06)
    assert "look at b" in result.advice
    assert "on 3 images" in result.finding


def test_a_difference_of_just_the_tolerance_passes() -> None:
    """The boundary belongs to what is allowed."""
    at = evidence_of(replayed_dice_N=np.array([0.75, 0.6, 0.8]), replay_tolerance=0.75 - 0.7)
    assert replay_identity(at).passed
    assert not replay_identity(replace(at, replay_tolerance=np.nextafter(0.75 - 0.7, 0))).passed


def test_an_image_that_was_never_replayed_fails() -> None:
    """A missing number is no small number."""
    result = replay_identity(evidence_of(replayed_dice_N=np.array([0.7, np.nan, 0.8])))
    assert not result.passed
    assert np.isnan(result.value)
    assert "look at b" in result.advice


def test_actions_that_make_the_same_masks_fail() -> None:
    """Nothing can be chosen between them; the boundary passes, and a missing number does not."""
    result = mask_diversity(evidence_of(diversity_N=np.zeros(3)))
    assert not result.passed
    assert "inert" in result.advice
    assert mask_diversity(evidence_of(diversity_N=np.full(3, 0.25), min_mask_diversity=0.25)).passed
    assert not mask_diversity(evidence_of(diversity_N=np.array([0.5, np.nan, 0.5]))).passed
