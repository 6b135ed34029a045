"""Challenger against champion: who is promoted, who stays, and how that is said."""

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from job.evaluation.challenge import Opponent, judge
from job.evaluation.results import Verdict
from job.evaluation.verdict import decide
from job.metrics.statistics import Interval, paired_uplift, patient_interval
from job.publish.training_info import Promotion

PATIENTS = [f"p{i // 2}" for i in range(16)]
"""Eight patients, two images each."""


def verdict_of(after: ArrayLike, before: float = 0.7, *, valid: bool = True, ships: str = "ridge") -> Verdict:
    """The verdict on what ships against a no-op of constant Dice."""
    after_N = np.asarray(after, dtype=np.float64)
    patients, before_N = PATIENTS[: len(after_N)], np.full(len(after_N), before)
    return decide(
        valid=valid,
        ships=ships,
        before=patient_interval(before_N, patients),
        after=patient_interval(after_N, patients),
        vs_noop=paired_uplift(after_N, before_N, patients),
        learned_vs_best_fixed={},
        smallest_effect=0.01,
    )


def opponent(dice: ArrayLike, *, is_challenger: bool = False) -> Opponent:
    """A champion of generation 3 with this Dice."""
    dice_N = np.asarray(dice, dtype=np.float64)
    return Opponent("runs/x/one", "best_fixed: threshold 0.7", 3, is_challenger, dice_N, None)


def scores(mean: float, seed: int, sd: float = 0.004) -> NDArray[np.float64]:
    return mean + np.random.default_rng(seed).normal(0, sd, 16)


def test_a_sure_gain_over_the_champion_is_promoted_with_the_numbers_of_the_pairs() -> None:
    """The difference is paired by image and averaged by patient: recomputed here by hand."""
    mine, theirs = scores(0.80, 1), scores(0.78, 2)
    found = judge(verdict_of(mine), mine, PATIENTS, opponent(theirs))
    assert found.decision == "promote"
    by_patient = (mine - theirs).reshape(8, 2).mean(axis=1)
    assert found.vs_champion is not None
    assert found.vs_champion.mean == pytest.approx(by_patient.mean())
    assert found.vs_champion.sd == pytest.approx(by_patient.std(ddof=1))
    assert found.challenger_dice is not None
    assert found.champion_dice is not None
    assert found.challenger_dice.mean == pytest.approx(mine.mean())
    assert found.champion_dice.mean == pytest.approx(theirs.mean())
    assert (found.n_images, found.n_patients, found.left_out, found.generation) == (16, 8, 0, 3)
    assert found.champion == "runs/x/one"
    words = (
        "Ridge regression beats the champion of generation 3 (best_fixed: threshold 0.7)",
        f"Dice {theirs.mean():.3f} -> {mine.mean():.3f}",
        "16 test images of 8 patients",
    )
    for word in words:
        assert word in found.sentence


def test_both_hurdles_must_be_taken() -> None:
    """Better than the champion is not enough without a gain over the no-op, and the other way round."""
    mine = scores(0.80, 1)
    not_over_noop = judge(verdict_of(mine, before=0.80), mine, PATIENTS, opponent(scores(0.7, 2)))
    assert not_over_noop.decision == "keep"
    assert "must beat what you have today as well" in not_over_noop.sentence
    not_over_champion = judge(verdict_of(mine), mine, PATIENTS, opponent(scores(0.80, 2)))
    assert not_over_champion.decision == "keep"
    assert "not shown that ridge regression beats" in not_over_champion.sentence


def test_images_that_the_champion_learned_from_count_on_neither_side() -> None:
    """Two patients are left out, on which the champion would have won by far."""
    mine, theirs = scores(0.80, 1), scores(0.78, 2)
    mine[:4] = 0.75
    known = theirs.copy()
    known[:4] = np.nan
    found = judge(verdict_of(mine), mine, PATIENTS, opponent(known))
    assert (found.n_images, found.n_patients, found.left_out) == (12, 6, 4)
    assert found.challenger_dice is not None
    assert found.challenger_dice.mean == pytest.approx(mine[4:].mean())
    assert found.vs_champion == paired_uplift(mine[4:], theirs[4:], PATIENTS[4:])
    assert "4 images that the champion learned from are left out" in found.sentence
    assert found.decision == "promote"


def test_five_patients_promote_nothing() -> None:
    """However large the gain: no sign-flip test over five patients can reach 5 %."""
    mine, theirs = scores(0.80, 1), scores(0.70, 2)
    theirs[10:] = np.nan
    found = judge(verdict_of(mine), mine, PATIENTS, opponent(theirs))
    assert found.vs_champion is not None
    assert found.vs_champion.low > 0
    assert found.decision == "keep"
    assert "at least 6 are needed" in found.sentence


def test_a_champion_that_learned_from_every_test_image_stays() -> None:
    """Nothing can be compared, and that is said."""
    mine = scores(0.80, 1)
    found = judge(verdict_of(mine), mine, PATIENTS, opponent(np.full(16, np.nan)))
    assert found.decision == "keep"
    assert (found.n_images, found.left_out) == (0, 16)
    assert found.vs_champion is found.champion_dice is found.challenger_dice is None
    assert "learned from every test image" in found.sentence


def test_what_is_in_use_already_is_kept() -> None:
    """The same masks need no comparison; nor do candidates that differ and score alike win."""
    mine = scores(0.80, 1)
    same = judge(verdict_of(mine), mine, PATIENTS, opponent(mine, is_challenger=True))
    assert same.decision == "keep"
    assert "is what is in use already" in same.sentence
    alike = judge(verdict_of(mine), mine, PATIENTS, opponent(mine))
    assert alike.decision == "keep"
    assert "scores what the champion" in alike.sentence


def test_an_invalid_run_changes_nothing_and_shows_no_figures() -> None:
    """With and without a champion."""
    mine = scores(0.80, 1)
    verdict = verdict_of(mine, valid=False, ships="noop")
    for champion in (None, opponent(scores(0.7, 2))):
        found = judge(verdict, mine, PATIENTS, champion)
        assert found.decision == "invalid"
        assert found.vs_champion is found.champion_dice is found.challenger_dice is None
        assert found.n_images == 0


def test_without_a_champion_the_no_op_is_the_champion() -> None:
    """The verdict alone decides, and its figures are the comparison's."""
    mine = scores(0.80, 1)
    first = judge(verdict_of(mine), mine, PATIENTS, None)
    assert (first.decision, first.champion, first.generation) == ("promote", None, 0)
    assert first.vs_champion == verdict_of(mine).vs_noop
    assert first.champion_dice == Interval(pytest.approx(0.7), pytest.approx(0.7), pytest.approx(0.7), 8)
    assert first.sentence.startswith("There is no champion yet. Ridge regression beats what you have today")
    worse = judge(verdict_of(mine, before=0.8), mine, PATIENTS, None)
    assert worse.decision == "keep"


def test_one_patient_is_survived() -> None:
    """Its interval is infinite, which the document can hold."""
    mine = scores(0.80, 1)[:2]
    found = judge(verdict_of(mine), mine, PATIENTS[:2], opponent(scores(0.7, 2)[:2]))
    assert found.decision == "keep"
    again = Promotion.model_validate_json(found.model_dump_json())
    assert again.vs_champion is not None
    assert again.vs_champion.high == math.inf


@pytest.mark.parametrize("n_patients", [6, 9, 14])
def test_equal_candidates_are_hardly_ever_promoted(n_patients: int) -> None:
    """On null data: at most 5 % of 300 nights, though every night's challenger beats the no-op."""
    rng = np.random.default_rng(n_patients)
    patients = [f"p{i}" for i in range(n_patients)]
    promoted = 0
    for _ in range(300):
        images = rng.normal(0.8, 0.03, n_patients)
        mine, theirs = images + rng.normal(0, 0.01, (2, n_patients))
        promoted += judge(_improved(), mine, patients, opponent(theirs)).decision == "promote"
    assert promoted <= 15


def test_a_real_gain_is_found_most_nights() -> None:
    """The rule is no refusal: one standard deviation over 14 patients is promoted in at least 80 of 100."""
    rng = np.random.default_rng(0)
    patients = [f"p{i}" for i in range(14)]
    promoted = 0
    for _ in range(100):
        images = rng.normal(0.8, 0.03, 14)
        mine, theirs = images + rng.normal(0.01, 0.01, 14), images
        promoted += judge(_improved(), mine, patients, opponent(theirs)).decision == "promote"
    assert promoted >= 80


def _improved() -> Verdict:
    found = verdict_of(scores(0.80, 1))
    assert found.verdict == "improved"
    return found
