"""Results, put together and recomputed."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from job.evaluation.assess import Choices, Measured, assess, choose, winner
from job.evaluation.ladder import Ladder
from job.evaluation.results import EvaluationResults
from job.reward.terms import METRICS
from job.table import ActionTable
from tests.evaluation.conftest import World

VALIDATION, TEST = range(12, 18), range(18, 24)


@pytest.fixture(scope="module")
def ladder(world: World) -> Ladder:
    return world.ladder(policy=world.policy)


@pytest.fixture(scope="module")
def tables(world: World) -> tuple[ActionTable, ActionTable]:
    return world.table.rows(VALIDATION), world.table.rows(TEST)


@pytest.fixture(scope="module")
def choices(ladder: Ladder, tables: tuple[ActionTable, ActionTable]) -> Choices:
    return choose(ladder, *tables)


@pytest.fixture(scope="module")
def measured(choices: Choices, tables: tuple[ActionTable, ActionTable]) -> dict[str, Measured]:
    """Dice as the test table has it, other metrics made up."""
    rng = np.random.default_rng(0)
    dice_NK = tables[1].scores["dice"]
    return {
        name: {m: dice_NK[np.arange(6), actions] if m == "dice" else rng.random(6) for m in METRICS}
        for name, actions in choices.test.items()
    }


def results_of(
    ladder: Ladder, choices: Choices, tables: tuple[ActionTable, ActionTable], measured: dict[str, Measured],
    ships: str, *, valid: bool = True, confidence: float = 0.9,
) -> EvaluationResults:  # fmt: skip
    return assess(
        ladder, choices, *tables, measured, ships=ships, valid=valid, n_actions=4, smallest_effect=0.01,
        confidence=confidence,
    )  # fmt: skip


def of_patients(values: np.ndarray) -> np.ndarray:
    """Two images a patient, in order."""
    return values.reshape(-1, 2).mean(axis=1)


def test_every_rung_chooses_on_both_tables(
    ladder: Ladder, choices: Choices, tables: tuple[ActionTable, ActionTable]
) -> None:
    """As it would by itself."""
    for chosen, table in ((choices.validation, tables[0]), (choices.test, tables[1])):
        assert list(chosen) == [rung.name for rung in ladder.rungs]
        for rung in ladder.rungs:
            np.testing.assert_array_equal(chosen[rung.name], rung.choose(table))


def test_validation_alone_chooses_what_ships(
    ladder: Ladder, choices: Choices, tables: tuple[ActionTable, ActionTable]
) -> None:
    """The candidate that reacts to brightness wins, the oracle never; after a failed check nothing does."""
    ships = winner(ladder, choices, tables[0], valid=True)
    assert ships == "ridge"
    assert winner(ladder, choices, tables[0], valid=False) == "noop"
    ruined = Choices(choices.validation, {name: actions * 0 for name, actions in choices.test.items()})
    assert winner(ladder, ruined, tables[0], valid=True) == ships
    poor = dict.fromkeys(choices.validation, choices.validation["noop"])
    poor["oracle"] = choices.validation["oracle"]
    assert winner(ladder, Choices(poor, choices.test), tables[0], valid=True) == "noop"


def test_every_row_is_that_of_scipy(
    ladder: Ladder, choices: Choices, tables: tuple[ActionTable, ActionTable], measured: dict[str, Measured]
) -> None:
    """Means over patients with t-intervals, and paired differences to the no-op and the best fixed action."""
    results = results_of(ladder, choices, tables, measured, "ridge")
    for row in results.ladder:
        for metric, found in row.test.items():
            values = of_patients(measured[row.candidate][metric])
            if values.std() > 0:
                low, high = stats.t.interval(0.9, 2, values.mean(), stats.sem(values))
                assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
        validation = tables[0].scores["dice"][np.arange(6), choices.validation[row.candidate]]
        assert row.validation_dice.mean == pytest.approx(of_patients(validation).mean())
        for uplift, other in ((row.vs_noop, "noop"), (row.vs_best_fixed, "best_fixed")):
            gaps = of_patients(measured[row.candidate]["dice"] - measured[other]["dice"])
            assert uplift.mean == pytest.approx(gaps.mean(), abs=1e-12)
            if gaps.std() > 1e-9:
                interval = stats.ttest_1samp(gaps, 0).confidence_interval(0.9)
                assert (uplift.low, uplift.high) == pytest.approx((interval.low, interval.high))
    assert [row.candidate for row in results.ladder if row.ships] == ["ridge"]
    assert [row.candidate for row in results.ladder if not row.can_ship] == ["oracle"]


def test_the_verdict_is_of_what_ships_and_learning_of_the_policy(
    ladder: Ladder, choices: Choices, tables: tuple[ActionTable, ActionTable], measured: dict[str, Measured]
) -> None:
    """The two answers never mix; without a policy there is no second one."""
    results = results_of(ladder, choices, tables, measured, "ridge")
    rows = {row.candidate: row for row in results.ladder}
    verdict = results.verdict
    assert (verdict.ships, verdict.verdict) == ("ridge", "improved")
    assert verdict.vs_noop == rows["ridge"].vs_noop
    assert verdict.vs_best_fixed == rows["ppo"].vs_best_fixed
    assert (verdict.dice_before, verdict.dice_after) == (
        rows["noop"].test["dice"],
        rows["ridge"].test["dice"],
    )
    assert results_of(ladder, choices, tables, measured, "noop", valid=False).verdict.verdict == "invalid"
    without = replace(ladder, rungs=tuple(rung for rung in ladder.rungs if rung.name != "ppo"))
    assert results_of(without, choices, tables, measured, "ridge").verdict.vs_best_fixed is None


def test_every_test_image_has_its_line(
    ladder: Ladder, choices: Choices, tables: tuple[ActionTable, ActionTable], measured: dict[str, Measured]
) -> None:
    """Before, after, the best there was, and what the network thought of it."""
    results, test = results_of(ladder, choices, tables, measured, "ridge"), tables[1]
    assert [image.name for image in results.images] == list(test.names)
    for i, image in enumerate(results.images):
        assert image.patient == test.patients[i]
        assert image.action == choices.test["ridge"][i]
        assert image.before == {m: measured["noop"][m][i] for m in METRICS}
        assert image.after == {m: measured["ridge"][m][i] for m in METRICS}
        assert image.oracle_dice == max(test.scores["dice"][i])
        assert image.predicted_quality == test.scores["reward_net"][i, image.action]
        assert image.oracle_dice >= image.after["dice"]
    assert results.actions_chosen == [list(choices.test["ridge"]).count(k) for k in range(4)]


def test_results_come_back_from_their_json_also_for_one_patient(
    ladder: Ladder, choices: Choices, tables: tuple[ActionTable, ActionTable], measured: dict[str, Measured]
) -> None:
    """Intervals of one patient are infinite: as words in strict JSON, and numbers again when read."""
    one = tuple(replace(table, patients=("a",) * 6) for table in tables)
    results = results_of(ladder, choices, (one[0], one[1]), measured, "ridge")
    assert results.verdict.verdict == "inconclusive"
    text = results.model_dump_json()
    assert '"high":"Infinity"' in text
    assert '"sd":"NaN"' in text
    again = EvaluationResults.model_validate_json(text)
    assert repr(again) == repr(results)
