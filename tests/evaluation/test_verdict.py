"""The verdict at its boundaries."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from job.evaluation.results import Verdict
from job.evaluation.verdict import decide
from job.metrics.statistics import Interval, Uplift, paired_uplift, t_interval

UPLIFT = Uplift(mean=0.02, low=0.01, high=0.03, sd=0.01, n_patients=6, n_images=12, wins=9, ties=1, losses=2)


def verdict_of(uplift: Uplift, *, valid: bool = True, ships: str = "ridge", **more: object) -> Verdict:
    arguments: dict[str, object] = {"learned_vs_best_fixed": None, "smallest_effect": 0.01, **more}
    return decide(
        valid=valid, ships=ships, before=Interval(0.7, 0.6, 0.8, 6), after=Interval(0.72, 0.62, 0.82, 6),
        vs_noop=uplift, **arguments,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        (np.nextafter(0, 1), 0.03, "improved"),
        (0.0, 0.03, "inconclusive"),
        (-0.01, 0.01, "inconclusive"),
        (-0.01, np.nextafter(0.01, 0), "no-improvement"),
        (0.001, 0.005, "improved"),
        (-0.05, -0.02, "no-improvement"),
        (0.0, 0.0, "no-improvement"),
        (-math.inf, math.inf, "inconclusive"),
    ],
)
def test_each_name_has_its_side_of_each_boundary(low: float, high: float, name: str) -> None:
    """`improved` above 0, `no-improvement` below the smallest effect, neither in between."""
    found = verdict_of(replace(UPLIFT, low=low, high=high))
    assert found.verdict == name
    assert (found.patients_needed is not None) == (name == "inconclusive")
    assert verdict_of(replace(UPLIFT, low=low, high=high), valid=False).verdict == "invalid"


def test_one_patient_decides_nothing_and_breaks_nothing() -> None:
    """There is no spread to judge by, and so no number of patients that would do."""
    found = verdict_of(paired_uplift([0.9, 0.8], [0.5, 0.5], ["a", "a"]))
    assert found.verdict == "inconclusive"
    assert found.patients_needed is None
    assert "not decided" in found.sentence
    assert Verdict.model_validate_json(found.model_dump_json()).vs_noop.high == math.inf


def test_identical_scores_are_no_improvement() -> None:
    """What ships is the no-op: nothing beats what the user has."""
    scores = [0.6, 0.7, 0.8]
    found = verdict_of(paired_uplift(scores, scores, ["a", "b", "c"]), ships="noop")
    assert found.verdict == "no-improvement"
    assert found.sentence.startswith("Nothing beats")


@pytest.mark.parametrize(
    ("mean", "sd", "confidence"), [(0.005, 0.03, 0.95), (-0.02, 0.05, 0.95), (0.015, 0.03, 0.8)]
)
def test_patients_needed_would_give_the_power_that_is_promised(
    mean: float, sd: float, confidence: float
) -> None:
    """By the noncentral t distribution: 80 % with so many, less with one fewer."""
    uplift = replace(UPLIFT, mean=mean, low=mean - 0.04, high=mean + 0.04, sd=sd, n_patients=3)
    needed = verdict_of(uplift, confidence=confidence).patients_needed
    assert needed is not None
    assert needed > 4

    def power(n: int) -> float:
        critical = stats.t.ppf((1 + confidence) / 2, n - 1)
        shift = max(abs(mean), 0.01) / sd * math.sqrt(n)
        return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))

    assert power(needed - 1) < 0.8 <= power(needed)


def test_more_patients_are_needed_than_there_are() -> None:
    """An undecided result cannot ask for fewer than it had."""
    found = verdict_of(replace(UPLIFT, mean=0.05, low=-0.001, high=0.1, sd=0.001, n_patients=40))
    assert found.patients_needed == 41


def test_equal_candidates_are_called_improved_no_more_often_than_promised() -> None:
    """5 % two-sided is 2.5 % on the good side, for as few as four patients with two images each."""
    rng = np.random.default_rng(1)
    patients = [f"p{i // 2}" for i in range(8)]
    names = []
    for _ in range(600):
        before, after = rng.normal(0.7, 0.05, (2, 8)) + np.repeat(rng.normal(0, 0.05, 4), 2)
        names.append(verdict_of(paired_uplift(after, before, patients)).verdict)
    assert abs(names.count("improved") / len(names) - 0.025) < 4 * math.sqrt(0.025 * 0.975 / len(names))
    assert names.count("inconclusive") > names.count("no-improvement")


def test_a_real_gain_is_found() -> None:
    """Three standard deviations on ten patients."""
    rng = np.random.default_rng(2)
    gain = rng.normal(0.03, 0.01, 10)
    found = verdict_of(paired_uplift(0.7 + gain, np.full(10, 0.7), [str(i) for i in range(10)]))
    assert found.verdict == "improved"
    interval = t_interval(gain)
    assert found.vs_noop.low == pytest.approx(interval.low)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.001, 0.03, "added something"),
        (-0.03, -0.001, "is worse"),
        (-0.01, 0.005, "nothing worth having"),
        (-0.01, 0.01, "has not been shown"),
        (0.0, 0.02, "has not been shown"),
    ],
)
def test_what_learning_added_is_a_question_of_its_own(low: float, high: float, words: str) -> None:
    """Answer (b) does not touch answer (a)."""
    learned = replace(UPLIFT, mean=(low + high) / 2, low=low, high=high)
    found = verdict_of(UPLIFT, learned_vs_best_fixed=learned)
    assert words in found.learning
    assert (found.verdict, found.vs_best_fixed) == ("improved", learned)
    assert "No policy" in verdict_of(UPLIFT).learning


def test_sentences_name_what_ships_and_the_figures() -> None:
    """One sentence that a person can pass on."""
    assert verdict_of(UPLIFT).sentence == (
        "Ridge regression beats what you have today: Dice 0.700 -> 0.720 (+0.020, interval +0.010 to +0.030)."
    )
    worse = replace(UPLIFT, mean=-0.02, low=-0.03, high=-0.01)
    assert "Ridge regression does not beat what you have today by 0.01 Dice" in verdict_of(worse).sentence
    undecided = verdict_of(replace(UPLIFT, low=-0.01, sd=0.04))
    assert f"about {undecided.patients_needed} test patients would decide" in undecided.sentence
    assert "nothing ships" in verdict_of(UPLIFT, valid=False).sentence


def test_the_no_op_is_never_undecided_against_itself() -> None:
    """One test patient has no interval, but equal masks need none."""
    alone = replace(UPLIFT, mean=0.0, low=-math.inf, high=math.inf, sd=math.nan, n_patients=1)
    verdict = verdict_of(alone, ships="noop")
    assert verdict.verdict == "no-improvement"
    assert verdict.sentence.startswith("Nothing beats what you have today")
    assert "inf" not in verdict_of(alone, ships="ridge").sentence
