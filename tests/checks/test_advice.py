"""Checks 6 and 7."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from job.checks import GapEvidence, LadderEvidence, Thresholds, ladder_check, oracle_gap
from tests.checks.samples import N_IMAGES, PATIENTS, dice_table

HELD = Thresholds()
LADDER = LadderEvidence(
    dice={"uniform": 0.5, "noop": 0.6, "best_fixed": 0.75, "ridge": 0.77, "ppo": 0.875, "oracle": 0.9},
    simple=("uniform", "noop", "best_fixed"),
    learned="ppo",
)


def gap_evidence(**changes: object) -> GapEvidence:
    """Twelve images whose best action differs; the left-out best fixed action is always 1."""
    sound = GapEvidence(PATIENTS, dice_table(), np.ones(N_IMAGES, dtype=np.int64), n_test_patients=100)
    return replace(sound, **changes)  # type: ignore[arg-type]


def test_a_learned_candidate_ahead_of_the_simple_ones_passes() -> None:
    """Its lead is over the best of them; other learned candidates and the oracle do not count."""
    result = ladder_check(LADDER, HELD)
    assert (result.outcome, result.value, result.advice) == ("passed", 0.125, "")
    assert result.severity == "advice"
    assert dict(result.details) == dict(LADDER.dice)


@pytest.mark.parametrize("ppo", [0.75, 0.7])
def test_a_simpler_candidate_that_does_as_well_is_named(ppo: float) -> None:
    """A draw goes to the simpler one."""
    result = ladder_check(replace(LADDER, dice=dict(LADDER.dice) | {"ppo": ppo}), HELD)
    assert result.failed
    assert result.advice == "a simpler candidate does as well: best fixed"


@pytest.mark.parametrize(
    "evidence",
    [
        replace(LADDER, learned=None),
        replace(LADDER, dice=dict(LADDER.dice) | {"ppo": math.nan}),
        replace(LADDER, simple=()),
    ],
)
def test_without_two_sides_nothing_is_compared(evidence: LadderEvidence) -> None:
    """Where nothing was trained there is nothing to doubt."""
    assert ladder_check(evidence, HELD).outcome == "unmeasured"


def test_the_gap_is_over_the_better_fixed_action_and_its_bar_is_what_a_t_test_finds() -> None:
    """Recomputed from patient means; at the threshold the noncentral t distribution gives the power."""
    evidence = gap_evidence()
    result = oracle_gap(evidence, HELD)
    per_image = evidence.dice_NK.max(axis=1) - evidence.dice_NK[:, 1]
    per_patient = per_image.reshape(-1, 2).mean(axis=1)
    assert result.value == pytest.approx(per_patient.mean())
    assert "over the best fixed action" in result.finding
    n, sd = 100, per_patient.std(ddof=1)
    critical = stats.t.ppf(0.975, n - 1)
    shift = result.threshold / sd * math.sqrt(n)
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert result.outcome == "passed"


def test_the_no_op_is_the_reference_where_it_is_better() -> None:
    """Beating a poor fixed action would be no gain."""
    evidence = gap_evidence(left_out_N=np.full(N_IMAGES, 3))
    result = oracle_gap(evidence, HELD)
    assert "over the no-op" in result.finding
    expected = (evidence.dice_NK.max(axis=1) - evidence.dice_NK[:, 0]).mean()
    assert result.value == pytest.approx(expected)


def test_too_few_test_patients_are_told_with_the_number_that_would_do() -> None:
    """Two patients cannot show what a hundred can; with the number advised the same gap passes."""
    few = oracle_gap(gap_evidence(n_test_patients=2), HELD)
    assert few.failed
    assert few.advice.startswith("even a perfect chooser could hardly be told from the best fixed action")
    needed = int(few.details["patients_needed"])
    assert oracle_gap(gap_evidence(n_test_patients=needed), HELD).outcome == "passed"
    assert oracle_gap(gap_evidence(n_test_patients=needed - 1), HELD).failed


@pytest.mark.parametrize(("n_test", "said"), [(0, "0 test patients"), (1, "1 test patient")])
def test_a_single_test_patient_shows_nothing(n_test: int, said: str) -> None:
    """There is no interval over one patient, whatever the gap."""
    result = oracle_gap(gap_evidence(n_test_patients=n_test), HELD)
    assert result.failed
    assert math.isinf(result.threshold)
    assert f"{said} can show nothing" in result.finding


def test_no_gap_at_all_fails() -> None:
    """With deviations of 0 every effect could be detected, and there is none."""
    result = oracle_gap(gap_evidence(dice_NK=np.tile([0.5, 0.7, 0.6, 0.1], (N_IMAGES, 1))), HELD)
    assert (result.value, result.failed) == (0.0, True)


def test_one_patient_to_learn_from_says_nothing_of_others() -> None:
    """The deviation between patients is unknown."""
    assert oracle_gap(gap_evidence(patients=("p",) * N_IMAGES), HELD).outcome == "unmeasured"


def test_a_missing_dice_fails() -> None:
    """Never a crash."""
    holed_NK = dice_table()
    holed_NK[0, 0] = np.nan
    result = oracle_gap(gap_evidence(dice_NK=holed_NK), HELD)
    assert result.failed
    assert "the Dice of an image of p0 is not a number" in result.finding


@settings(max_examples=25)
@given(st.permutations(range(N_IMAGES)))
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    """Rows and their patients move together."""
    before = oracle_gap(gap_evidence(), HELD)
    after = oracle_gap(
        gap_evidence(dice_NK=dice_table()[order], patients=tuple(PATIENTS[i] for i in order)), HELD
    )
    assert (after.outcome, after.finding) == (before.outcome, before.finding)
    assert after.threshold == pytest.approx(before.threshold)
