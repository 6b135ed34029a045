"""A sweep: every point is trained, validation images choose one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from job import sweep
from job.publish.training_info import SweepPoint
from job.spec.job import JobSpec
from job.spec.sweep import points
from job.stages.stage import StageContext
from tests.stages.made_up_stages import finished, make_table, spec_of

RATES = [1e-4, 2e-4, 3e-4, 4e-4]
SPEC = spec_of(sweep={"finetune.learning_rate": RATES}, evaluate={"confidence": 0.9})
Train = Callable[[JobSpec], StageContext]


class Trainer:
    """Trains nothing: the policy of each learning rate always chooses the action given for it."""

    def __init__(self, root: Path, actions: dict[float, int | None], failed: tuple[float, ...] = ()) -> None:
        self.root, self.actions, self.failed = root, actions, failed
        self.trained: list[JobSpec] = []

    def __call__(self, spec: JobSpec) -> StageContext:
        self.trained.append(spec)
        rate = spec.finetune.learning_rate
        return finished(
            self.root / str(rate), spec, action=self.actions[rate], passed=rate not in self.failed,
            reused=("table", "reward") if len(self.trained) > 1 else (),
        )  # fmt: skip


def swept(trainer: Trainer) -> tuple[JobSpec, list[SweepPoint]]:
    """Run the sweep; what is logged must be what is returned."""
    logged: list[SweepPoint] = []
    chosen, rows = sweep.choose(SPEC, trainer, logged.append)
    assert logged == rows
    assert [row.values for row in rows] == [{"finetune.learning_rate": rate} for rate in RATES]
    return chosen, rows


def of_patients(action: int) -> np.ndarray:
    """Mean validation Dice of patients u, v, v, w, x, x under one action."""
    dice_M = make_table().scores["dice"][6:12, action]
    return np.array([dice_M[0], dice_M[1:3].mean(), dice_M[3], dice_M[4:].mean()])


def test_the_point_of_the_best_validation_dice_is_chosen(tmp_path: Path) -> None:
    """Every point is trained once, in order, on its own spec; the spec of the best comes back."""
    trainer = Trainer(tmp_path, dict(zip(RATES, (1, 3, 0, 2), strict=True)))
    chosen, rows = swept(trainer)
    assert trainer.trained == [spec for _, spec in points(SPEC)]
    assert chosen == trainer.trained[1]
    assert [row.chosen for row in rows] == [False, True, False, False]
    assert [row.label for row in rows] == [f"learning_rate {rate}" for rate in RATES]


def test_the_table_has_each_point_s_interval_and_its_difference_to_the_first(tmp_path: Path) -> None:
    """Over patients, by scipy; seeds, time and shared stages beside them."""
    actions = (1, 3, 0, 2)
    _, rows = swept(Trainer(tmp_path, dict(zip(RATES, actions, strict=True))))
    for row, action in zip(rows, actions, strict=True):
        means, gaps = of_patients(action), of_patients(action) - of_patients(1)
        low, high = stats.t.interval(0.9, 3, means.mean(), stats.sem(means))
        assert row.validation_dice is not None
        assert row.vs_first is not None
        found = (row.validation_dice.mean, row.validation_dice.low, row.validation_dice.high)
        assert found == pytest.approx((means.mean(), low, high))
        assert row.vs_first.mean == pytest.approx(gaps.mean(), abs=1e-12)
        assert (row.vs_first.n_patients, row.vs_first.n_images) == (4, 6)
        assert row.seeds_dice == [0.6 + action / 100]
        assert row.valid
    assert [row.reused for row in rows] == [[], *[["table", "reward"]] * 3]
    assert [row.seconds for row in rows] == [15.0, 12.0, 12.0, 12.0]


def test_a_patient_counts_once_however_many_images_it_has(tmp_path: Path) -> None:
    """Action 1 is better for v and x with two images each, action 2 by more for u and w with one."""
    table = make_table()
    table.scores["dice"][6:12, 1] = [0.5, 0.7, 0.7, 0.5, 0.7, 0.7]
    table.scores["dice"][6:12, 2] = [0.8, 0.5, 0.5, 0.8, 0.5, 0.5]
    actions = dict(zip(RATES, (1, 2), strict=False))

    def train(spec: JobSpec) -> StageContext:
        rate = spec.finetune.learning_rate
        return finished(tmp_path / str(rate), spec, action=actions[rate], table=table)

    chosen, _ = sweep.choose(spec_of(sweep={"finetune.learning_rate": RATES[:2]}), train, lambda _: None)
    assert chosen.finetune.learning_rate == RATES[1]


def test_of_equal_points_the_first_is_chosen(tmp_path: Path) -> None:
    """Order in the spec breaks ties, so that it puts the setting that is trusted first."""
    chosen, rows = swept(Trainer(tmp_path, dict(zip(RATES, (1, 3, 3, 3), strict=True))))
    assert chosen.finetune.learning_rate == RATES[1]
    assert [row.chosen for row in rows] == [False, True, False, False]


def test_a_point_that_failed_a_validity_check_is_shown_and_not_chosen(tmp_path: Path) -> None:
    """Also where its policy would be the best; the others are compared with the first that counts."""
    trainer = Trainer(tmp_path, dict(zip(RATES, (3, None, 1, 2), strict=True)), failed=(RATES[0], RATES[1]))
    chosen, rows = swept(trainer)
    assert chosen.finetune.learning_rate == RATES[3]
    assert [row.valid for row in rows] == [False, False, True, True]
    for row in rows[:2]:
        assert (row.validation_dice, row.vs_first, row.seeds_dice) == (None, None, [])
    assert rows[3].vs_first is not None
    assert rows[3].vs_first.mean == pytest.approx((of_patients(2) - of_patients(1)).mean())


def test_where_no_point_could_be_trained_the_first_says_why(tmp_path: Path) -> None:
    """Its stages and checks go on to the report."""
    chosen, rows = swept(Trainer(tmp_path, dict.fromkeys(RATES), failed=tuple(RATES)))
    assert chosen.finetune.learning_rate == RATES[0]
    assert [row.chosen for row in rows] == [True, False, False, False]
    assert not any(row.valid for row in rows)
