"""Rows and verdict, put together and recomputed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from job.errors import Interrupted
from job.evaluation.arms import Arms
from job.evaluation.assess import (
    Assessment,
    Choices,
    Measured,
    arms_of,
    assess,
    choose,
    images_of,
    winner,
)
from job.evaluation.ladder import Ladder, Tables, build
from job.evaluation.results import LadderRow, Verdict
from job.metrics.sign_flip import sign_flip_p
from job.metrics.statistics import paired_uplift
from job.reward.terms import METRICS
from tests.evaluation.conftest import World
from tests.questions import Questions

VALIDATION, TEST = range(12, 18), range(18, 24)
EXPERIMENTS = ("best_fixed_prompt", "best_fixed_postprocess", "ppo")
PIXELS = tuple(f"digest {i}" for i in range(6))


@pytest.fixture(scope="module")
def ladder(world: World) -> Ladder:
    return world.ladder(policies=world.policies)


@pytest.fixture(scope="module")
def tables(world: World) -> tuple[Tables, Tables]:
    return Tables(world.table.rows(VALIDATION)), Tables(world.table.rows(TEST))


@pytest.fixture(scope="module")
def choices(ladder: Ladder, tables: tuple[Tables, Tables]) -> Choices:
    return choose(ladder, *tables)


@pytest.fixture(scope="module")
def measured(choices: Choices, tables: tuple[Tables, Tables]) -> dict[str, Measured]:
    """Dice as the test table has it, other metrics made up."""
    rng = np.random.default_rng(0)
    dice_NK = tables[1].base.scores["dice"]
    return {
        name: {m: dice_NK[np.arange(6), actions] if m == "dice" else rng.random(6) for m in METRICS}
        for name, actions in choices.test.items()
    }


@pytest.fixture(scope="module")
def arms(
    ladder: Ladder, choices: Choices, tables: tuple[Tables, Tables], measured: dict[str, Measured]
) -> Arms:
    return arms_of(ladder, choices, *tables, measured, PIXELS)


def assessed(
    arms: Arms, ships: str = "ridge", *, valid: bool = True, dropped: dict[str, list[str]] | None = None
) -> Assessment:
    return assess(arms, ships=ships, valid=valid, dropped=dropped or {}, smallest_effect=0.01, confidence=0.9)


def rows_of(judged: Assessment) -> dict[str, LadderRow]:
    return {row.candidate: row for row in judged.ladder}


def of_patients(values: np.ndarray) -> np.ndarray:
    """Two images a patient, in order."""
    means: np.ndarray = values.reshape(-1, 2).mean(axis=1)
    return means


def with_dice(arms: Arms, dice: dict[str, np.ndarray]) -> Arms:
    """Give some arms another Dice on the test images."""
    changed = [
        replace(arm, test={**arm.test, "dice": dice.get(arm.name, arm.test["dice"])}) for arm in arms.arms
    ]
    return replace(arms, arms=tuple(changed))


def test_every_rung_chooses_on_both_tables(
    ladder: Ladder, choices: Choices, tables: tuple[Tables, Tables]
) -> None:
    """As it would by itself."""
    for chosen, table in ((choices.validation, tables[0].base), (choices.test, tables[1].base)):
        assert list(chosen) == [rung.name for rung in ladder.rungs]
        for rung in ladder.rungs:
            np.testing.assert_array_equal(chosen[rung.name], rung.choose(table))


def test_a_stop_is_noticed_between_candidates(arms: Arms) -> None:
    """Of thousands of patients each comparison takes a second."""
    facts: Any = {"ships": "ridge", "valid": True, "dropped": {}, "smallest_effect": 0.01, "confidence": 0.9}
    questions = Questions()
    assert assess(arms, **facts, progress=questions) == assessed(arms)
    assert questions.asked == 2 * len(arms.arms)
    with pytest.raises(Interrupted):
        assess(arms, **facts, progress=Questions(stop_at=3))


def test_validation_alone_chooses_what_ships(
    ladder: Ladder, choices: Choices, tables: tuple[Tables, Tables]
) -> None:
    """The candidate that reacts to brightness wins, the oracle never; after a failed check nothing does."""
    ships = winner(ladder, choices, tables[0], valid=True, dropped={})
    assert ships == "ridge"
    assert winner(ladder, choices, tables[0], valid=False, dropped={}) == "noop"
    ruined = Choices(choices.validation, {name: actions * 0 for name, actions in choices.test.items()})
    assert winner(ladder, ruined, tables[0], valid=True, dropped={}) == ships
    poor = dict.fromkeys(choices.validation, choices.validation["noop"])
    for name in ("uniform", "confidence", "consensus", "oracle"):
        poor[name] = choices.validation["oracle"]
    assert winner(ladder, Choices(poor, choices.test), tables[0], valid=True, dropped={}) == "noop"


def test_what_a_candidate_check_dropped_does_not_ship(
    ladder: Ladder, choices: Choices, tables: tuple[Tables, Tables]
) -> None:
    """Were the policy as good as the oracle it would ship, unless a check speaks against it."""
    best = dict.fromkeys(choices.validation, choices.validation["noop"])
    best["ppo"] = choices.validation["oracle"]
    chosen = Choices(best, choices.test)
    assert winner(ladder, chosen, tables[0], valid=True, dropped={}) == "ppo"
    assert winner(ladder, chosen, tables[0], valid=True, dropped={"ppo": []}) == "ppo"
    assert winner(ladder, chosen, tables[0], valid=True, dropped={"ppo": ["learning"]}) == "noop"


def test_arms_hold_what_was_chosen_and_scored(
    arms: Arms, ladder: Ladder, choices: Choices, tables: tuple[Tables, Tables]
) -> None:
    """Validation Dice and predicted quality come from the tables, row by row."""
    validation, test = (both.base for both in tables)
    assert [arm.name for arm in arms.arms] == [rung.name for rung in ladder.rungs]
    assert (arms.names, arms.patients, arms.pixels) == (test.names, test.patients, PIXELS)
    assert arms.validation_patients == validation.patients
    for arm in arms.arms:
        rung = ladder[arm.name]
        assert (arm.description, arm.experiment, arm.can_ship) == (
            rung.description, rung.experiment, rung.can_ship,
        )  # fmt: skip
        for i, action in enumerate(choices.validation[arm.name]):
            assert arm.validation_dice_M[i] == validation.scores["dice"][i, action]
        for i, action in enumerate(choices.test[arm.name]):
            assert arm.actions_N[i] == action
            assert arm.quality_N[i] == test.scores["reward_net"][i, action]


def test_every_row_is_that_of_scipy(
    arms: Arms, choices: Choices, tables: tuple[Tables, Tables], measured: dict[str, Measured]
) -> None:
    """Means over patients with t-intervals, and mean paired differences to the no-op and the best fixed."""
    judged = assessed(arms)
    for row in judged.ladder:
        for metric, found in row.test.items():
            values = of_patients(measured[row.candidate][metric])
            if values.std() > 0:
                low, high = stats.t.interval(0.9, 2, values.mean(), stats.sem(values))
                assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
        validation = tables[0].base.scores["dice"][np.arange(6), choices.validation[row.candidate]]
        assert row.validation_dice.mean == pytest.approx(of_patients(validation).mean())
        for uplift, other in ((row.vs_noop, "noop"), (row.vs_best_fixed, "best_fixed")):
            before, after = measured[other]["dice"], measured[row.candidate]["dice"]
            assert uplift.mean == pytest.approx(of_patients(after - before).mean(), abs=1e-12)
            assert repr(uplift) == repr(paired_uplift(after, before, arms.patients, 0.9))
    assert [row.candidate for row in judged.ladder if row.ships] == ["ridge"]


def test_regret_and_the_closed_gap_are_shares_of_what_the_oracle_could(arms: Arms) -> None:
    """Of patient means: the best fixed action closes 0 of the gap, the oracle 1, a worse one less than 0."""
    arms = replace(arms, patients=tuple("aaabbc"))
    judged = assessed(arms)

    def over_patients(dice: np.ndarray) -> float:
        return float((dice[:3].mean() + dice[3:5].mean() + dice[5]) / 3)

    mean = {arm.name: over_patients(arm.test["dice"]) for arm in arms.arms}
    gap = mean["oracle"] - mean["best_fixed"]
    assert gap > 0.01
    for row in judged.ladder:
        assert row.regret == pytest.approx(mean["oracle"] - mean[row.candidate], abs=1e-12)
        assert row.gap_closed == pytest.approx((mean[row.candidate] - mean["best_fixed"]) / gap, abs=1e-12)
    rows = rows_of(judged)
    assert (rows["best_fixed"].gap_closed, rows["oracle"].gap_closed) == (0, 1)
    assert (rows["noop"].gap_closed or 0) < 0


def test_without_a_gap_no_share_of_it_is_closed(arms: Arms) -> None:
    """Where one action is best for every image there is nothing to learn, and no division by rounding."""
    best = arms["best_fixed"].test["dice"]
    judged = assessed(with_dice(arms, {"oracle": best + 1e-13}))
    assert {row.gap_closed for row in judged.ladder} == {None}


def test_holm_corrects_the_three_experiments_and_no_other_row(arms: Arms) -> None:
    """Step by step after Holm: the least p times 3, the next times 2, the last as it is, never falling."""
    rng = np.random.default_rng(5)
    noop = arms["noop"].test["dice"]
    gains = {"best_fixed_prompt": 0.001, "best_fixed_postprocess": 0.05, "ppo": 0.02}
    arms = replace(arms, patients=tuple("abcdef"), validation_patients=tuple("abcdef"))
    made = with_dice(arms, {name: noop + gain + rng.normal(0, 0.02, 6) for name, gain in gains.items()})
    rows = rows_of(assessed(made))
    raw = {name: sign_flip_p(made[name].test["dice"] - noop) for name in EXPERIMENTS}
    assert len(set(raw.values())) > 1
    largest = 0.0
    for factor, name in zip((3, 2, 1), sorted(raw, key=lambda name: raw[name]), strict=True):
        largest = max(largest, min(1.0, factor * raw[name]))
        assert rows[name].holm_p == pytest.approx(largest)
        assert rows[name].vs_noop.p_value == pytest.approx(raw[name])
    assert {name for name, row in rows.items() if row.holm_p is not None} == set(EXPERIMENTS)


def test_a_row_says_which_checks_dropped_it(arms: Arms) -> None:
    """Its figures stay: what was dropped is shown, not hidden."""
    rows = rows_of(assessed(arms, dropped={"ppo": ["learning", "stability"]}))
    assert rows["ppo"].dropped_by == ["learning", "stability"]
    assert rows["ppo"].test == rows_of(assessed(arms))["ppo"].test
    assert {name for name, row in rows.items() if row.dropped_by} == {"ppo"}


def test_the_verdict_is_of_what_ships_and_learning_of_the_policy(arms: Arms) -> None:
    """The two answers never mix; without a policy there is no second one; three patients are too few."""
    judged = assessed(arms)
    rows, verdict = rows_of(judged), judged.verdict
    assert (verdict.ships, verdict.verdict) == ("ridge", "inconclusive")
    assert verdict.vs_noop == rows["ridge"].vs_noop
    assert verdict.vs_best_fixed == rows["ppo"].vs_best_fixed
    assert (verdict.dice_before, verdict.dice_after) == (
        rows["noop"].test["dice"],
        rows["ridge"].test["dice"],
    )
    invalid = assessed(arms, "noop", valid=False)
    assert invalid.verdict.verdict == "invalid"
    assert not any(row.ships for row in invalid.ladder)
    without = replace(arms, arms=tuple(arm for arm in arms.arms if arm.name != "ppo"))
    assert assessed(without).verdict.vs_best_fixed is None


def test_six_patients_with_a_sure_gain_are_improved(arms: Arms) -> None:
    """The same arms with every image a patient of its own, and a gain in each."""
    gain = np.array([0.05, 0.06, 0.055, 0.045, 0.05, 0.06])
    alone = replace(arms, patients=tuple("abcdef"), validation_patients=tuple("abcdef"))
    judged = assessed(with_dice(alone, {"ridge": arms["noop"].test["dice"] + gain}))
    assert judged.verdict.verdict == "improved"
    assert judged.verdict.vs_noop.mean == pytest.approx(gain.mean())


def test_every_test_image_has_its_line(
    arms: Arms, choices: Choices, tables: tuple[Tables, Tables], measured: dict[str, Measured]
) -> None:
    """Before, after, the best there was, and what the network thought of it."""
    images, test = images_of(arms, "ridge"), tables[1].base
    assert [image.name for image in images] == list(test.names)
    for i, image in enumerate(images):
        assert image.patient == test.patients[i]
        assert image.action == choices.test["ridge"][i]
        assert image.before == {m: measured["noop"][m][i] for m in METRICS}
        assert image.after == {m: measured["ridge"][m][i] for m in METRICS}
        assert image.oracle_dice == max(test.scores["dice"][i])
        assert image.predicted_quality == test.scores["reward_net"][i, image.action]
        assert image.oracle_dice >= image.after["dice"]


def test_results_come_back_from_their_json_also_for_one_patient(arms: Arms) -> None:
    """Intervals of one patient are infinite: as words in strict JSON, and numbers again when read."""
    judged = assessed(replace(arms, patients=("a",) * 6, validation_patients=("a",) * 6))
    assert judged.verdict.verdict == "inconclusive"
    text = judged.verdict.model_dump_json()
    assert '"high":"Infinity"' in text
    assert '"sd":"NaN"' in text
    assert repr(Verdict.model_validate_json(text)) == repr(judged.verdict)
    for row in judged.ladder:
        assert repr(LadderRow.model_validate_json(row.model_dump_json())) == repr(row)


def test_a_phase_is_judged_by_its_own_table(world: World) -> None:
    """Its fixed action is that of its validation rows; scores of the job's own segmenter play no part."""
    own = [world.table.rows(rows) for rows in (VALIDATION, TEST)]
    better = [
        replace(rows, scores={name: 0.9 - values for name, values in rows.scores.items()}) for rows in own
    ]
    validation, test = (Tables(base, {"sft": tuned}) for base, tuned in zip(own, better, strict=True))
    built = build(
        world.table.rows(range(12)), world.labels, 2, world.observer, {}, seed=7, tuned=validation.tuned
    )
    means_K = (better[0].scores["dice"][::2] + better[0].scores["dice"][1::2]).mean(axis=0) / 2
    rung = built["sft"]
    assert (rung.fixed, rung.phase, rung.can_ship) == (int(means_K.argmax()), "sft", True)
    assert rung.fixed != int(own[0].scores["dice"].mean(axis=0).argmax())
    assert [one.name for one in built.rungs[-2:]] == ["sft", "oracle"]
    choices = choose(built, validation, test)
    rng = np.random.default_rng(0)
    measured = {name: {m: rng.random(6) for m in METRICS} for name in choices.test}
    arm = arms_of(built, choices, validation, test, measured, PIXELS)["sft"]
    np.testing.assert_array_equal(arm.validation_dice_M, better[0].scores["dice"][:, rung.fixed])
    np.testing.assert_array_equal(arm.quality_N, better[1].scores["reward_net"][:, rung.fixed])


def test_what_a_phase_learned_is_told_beside_the_policy(arms: Arms) -> None:
    """Each in a sentence of its own, the policy first; the figures are the policy's."""
    tuned = replace(arms["ridge"], name="grpo_2")
    judged = assessed(replace(arms, arms=(*arms.arms[:-1], tuned, arms.arms[-1])))
    rows = rows_of(judged)
    policy, phase = judged.verdict.learning.split(". The segmenter", 1)
    assert policy.startswith("The learned policy (PPO)")
    assert phase.startswith(" after GRPO (phase grpo_2)")
    assert judged.verdict.vs_best_fixed == rows["ppo"].vs_best_fixed
    alone = replace(arms, arms=tuple(a for a in (*arms.arms[:-1], tuned, arms.arms[-1]) if a.name != "ppo"))
    assert assessed(alone).verdict.vs_best_fixed == rows["grpo_2"].vs_best_fixed
