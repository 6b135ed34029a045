"""The verdict at its boundaries."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from job.evaluation.results import Verdict
from job.evaluation.verdict import LEAST_PATIENTS_TO_IMPROVE, decide
from job.metrics.statistics import Interval, Uplift, paired_uplift

UPLIFT = Uplift(
    mean=0.02, low=0.01, high=0.03, sd=0.01, n_patients=6, n_images=12, wins=9, ties=1, losses=2,
    p_value=2 / 64, method="t",
)  # fmt: skip


def verdict_of(uplift: Uplift, *, valid: bool = True, ships: str = "ridge", **more: object) -> Verdict:
    arguments: dict[str, object] = {"learned_vs_best_fixed": {}, "smallest_effect": 0.01, **more}
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
    assert "with 1 patient no gain can be shown" in found.sentence
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


@pytest.mark.parametrize(
    ("n_patients", "p_value", "confidence", "name"),
    [
        (6, 0.05, 0.95, "improved"),
        (6, np.nextafter(0.05, 1), 0.95, "inconclusive"),
        (5, 0.01, 0.95, "inconclusive"),
        (40, 0.2, 0.8, "improved"),
        (40, 0.06, 0.95, "inconclusive"),
        (7, 0.0, 0.99, "inconclusive"),
        (8, 0.0079, 0.99, "improved"),
        (6, math.nan, 0.95, "inconclusive"),
    ],
)
def test_improved_takes_enough_patients_and_a_test_that_agrees(
    n_patients: int, p_value: float, confidence: float, name: str
) -> None:
    """Of an interval above 0 alone nothing follows; at 99 % six patients are too few for the test."""
    found = verdict_of(replace(UPLIFT, n_patients=n_patients, p_value=p_value), confidence=confidence)
    assert found.verdict == name


def test_too_few_patients_are_told_so_and_how_many_it_takes() -> None:
    """Four equal gains: the interval is a point above 0, and yet nothing is shown."""
    found = verdict_of(paired_uplift([0.8] * 4, [0.7] * 4, list("abcd")))
    assert found.verdict == "inconclusive"
    assert found.patients_needed == LEAST_PATIENTS_TO_IMPROVE
    assert found.sentence.endswith(
        "; with 4 patients no gain can be shown: at least 6 are needed; about 6 test patients would decide."
    )


@pytest.mark.parametrize(
    ("low", "p_value", "disagree"), [(0.01, 0.09, True), (-0.01, 0.04, True), (-0.01, 0.2, False)]
)
def test_a_disagreement_is_named(low: float, p_value: float, disagree: bool) -> None:
    """Where interval and test contradict each other the reader learns it, in both answers."""
    uplift = replace(UPLIFT, low=low, n_patients=9, p_value=p_value)
    found = verdict_of(uplift, learned_vs_best_fixed={"ppo": uplift})
    assert found.verdict == "inconclusive"
    words = f"interval and sign-flip test (p = {p_value:.3f}) disagree"
    assert (words in found.sentence, words in found.learning) == (disagree, disagree)
    assert "has not been shown" in found.learning


def test_few_patients_can_still_show_that_nothing_is_gained() -> None:
    """An upper bound below the smallest effect needs no sixth patient."""
    found = verdict_of(replace(UPLIFT, low=-0.03, high=-0.02, n_patients=4, p_value=0.125))
    assert found.verdict == "no-improvement"


NULLS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed": lambda rng, shape: 1 - rng.exponential(size=shape),
}
"""Differences with mean 0, of images and of patients alike. The skewed ones are small gains and few large
losses: the bad side, on which a gain is seen too easily."""
STUDIES = {4: 4_000, 8: 20_000, 14: 20_000, 40: 4_000}
"""Simulated studies a number of patients; the standard error of a share of 3.5 % is 0.13 % (40: 0.29 %)."""
HOPELESS_T = 1.8
"""Studies whose plain t statistic is lower cannot end `improved`, so that most need not be judged in full."""


def simulated(null: str, n_patients: int) -> tuple[np.ndarray, np.ndarray]:
    """Differences `[studies, patients, 2 images]` without an effect, and each study's t statistic."""
    rng = np.random.default_rng([n_patients, len(null)])
    shape = (STUDIES[n_patients], n_patients)
    differences = 0.01 * (NULLS[null](rng, (*shape, 1)) + NULLS[null](rng, (*shape, 2)))
    return differences, stats.ttest_1samp(differences.mean(axis=2), 0, axis=1).statistic


def is_improved(differences: np.ndarray) -> bool:
    """Judge one study `[patients, 2 images]` as a job does."""
    patients = [f"p{i // 2}" for i in range(differences.size)]
    uplift = paired_uplift(0.7 + differences.ravel(), np.full(differences.size, 0.7), patients)
    # A smallest effect beyond reach spares the power analysis, which has no part in `improved`.
    return verdict_of(uplift, smallest_effect=9.0).verdict == "improved"


@pytest.mark.parametrize("n_patients", STUDIES)
@pytest.mark.parametrize("null", NULLS)
def test_no_effect_is_called_improved_in_four_of_a_hundred_studies_at_most(
    null: str, n_patients: int
) -> None:
    """With four patients never; from 8 to 40: normal 1.7-2.4 %, heavy tails 1.5-2.8 %, skewed 2.8-3.5 %."""
    differences, t_statistics = simulated(null, n_patients)
    wrong = sum(map(is_improved, differences[t_statistics > HOPELESS_T]))
    if n_patients < LEAST_PATIENTS_TO_IMPROVE:
        assert wrong == 0
    else:
        assert 0.01 < wrong / len(differences) <= 0.04


@pytest.mark.parametrize("n_patients", [8, 40])
@pytest.mark.parametrize("null", NULLS)
def test_studies_that_were_not_judged_in_full_are_hopeless(null: str, n_patients: int) -> None:
    """The best fifty of them are not `improved` either."""
    differences, t_statistics = simulated(null, n_patients)
    below = np.flatnonzero(t_statistics <= HOPELESS_T)
    nearest = below[np.argsort(t_statistics[below])[-50:]]
    assert not any(map(is_improved, differences[nearest]))


def test_a_real_gain_is_found() -> None:
    """Three standard deviations on ten patients."""
    rng = np.random.default_rng(2)
    gain = rng.normal(0.03, 0.01, 10)
    found = verdict_of(paired_uplift(0.7 + gain, np.full(10, 0.7), [str(i) for i in range(10)]))
    assert found.verdict == "improved"
    assert found.patients_needed is None
    assert found.vs_noop.p_value == 2 / 2**10


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
    found = verdict_of(UPLIFT, learned_vs_best_fixed={"ppo": learned})
    assert words in found.learning
    assert (found.verdict, found.vs_best_fixed) == ("improved", learned)
    assert "No policy" in verdict_of(UPLIFT).learning


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.001, 0.03, "has not been shown to add anything"),
        (-0.03, -0.001, "nothing worth having"),
    ],
)
@pytest.mark.parametrize("doubt", [{"n_patients": 4, "p_value": 0.125}, {"n_patients": 9, "p_value": 0.07}])
def test_what_learning_added_is_judged_by_the_same_rule(
    low: float, high: float, words: str, doubt: dict[str, float]
) -> None:
    """Neither a gain nor a loss is stated on an interval alone."""
    learned = replace(UPLIFT, mean=(low + high) / 2, low=low, high=high, **doubt)
    assert words in verdict_of(UPLIFT, learned_vs_best_fixed={"ppo": learned}).learning


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
