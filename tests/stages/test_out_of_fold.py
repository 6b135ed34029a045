"""Folds put together: counts, coverage and checks of all of them, recomputed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.checks import CheckResult
from job.evaluation.conventions import INSIDE, SCORING, WHOLE, conventions
from job.evaluation.results import Coverage
from job.stages import out_of_fold
from job.stages.evaluate import COUNTS
from job.stages.out_of_fold import Fold
from job.stages.stage import StageResult
from job.storage.run_folder import RunFolder
from job.storage.tensor_file import write_tensors
from tests.report.factory import make_info
from tests.stages.made_up_stages import finished, make_table, spec_of

SHIPPED = ("ridge", "noop", "ppo")


def check(name: str, outcome: Any, value: float = 0.0) -> CheckResult:
    return CheckResult(name, value, 0.0, "validity", outcome, f"found {value:g}", "")


def coverage(held: float, n_test: int, halfwidth: float, n_calibration: int) -> Coverage:
    return Coverage(promised=0.9, held=held, halfwidth=halfwidth, n_calibration=n_calibration, n_test=n_test)


@pytest.fixture
def counted(tmp_path: Path) -> tuple[list[Fold], list[dict[str, np.ndarray]]]:
    """Three folds whose evaluation counted the pixels of no-op, best fixed action and what it shipped."""
    folds, written = [], []
    for number, ships in enumerate(SHIPPED, 1):
        rng = np.random.default_rng(number)
        counts = {
            "/".join((region, SCORING, name)): rng.integers(1, 50, (number + 1, 4))
            for region in (WHOLE, INSIDE)
            for name in dict.fromkeys(("noop", "best_fixed", ships))
        }
        folder = tmp_path / str(number) / "evaluate"
        write_tensors(folder / COUNTS, counts, {})
        context = finished(tmp_path / str(number) / "others", spec_of())
        done = StageResult("evaluate", "f" * 32, folder, {}, 1.0, reused=False)
        context = replace(context, done={**context.done, "evaluate": done})
        folds.append(Fold(number, context, RunFolder(tmp_path, "x", str(number))))
        written.append(counts)
    return folds, written


def test_pixels_of_all_folds_are_counted_together(
    counted: tuple[list[Fold], list[dict[str, np.ndarray]]],
) -> None:
    """What each fold shipped under one name; a candidate that only some folds shipped has no row."""
    folds, written = counted
    joined = out_of_fold._joined_counts(folds, SHIPPED)
    assert sorted(joined) == sorted(
        (region, SCORING, name) for region in (WHOLE, INSIDE) for name in ("noop", "best_fixed", "selected")
    )
    for region in (WHOLE, INSIDE):
        for name, parts in (("noop", ("noop",) * 3), ("selected", SHIPPED)):
            wanted = [
                counts[f"{region}/{SCORING}/{part}"] for counts, part in zip(written, parts, strict=True)
            ]
            np.testing.assert_array_equal(joined[region, SCORING, name], np.concatenate(wanted))
    tp, fp, fn, _ = joined[WHOLE, SCORING, "selected"].sum(axis=0)
    (pooled,) = [
        row for row in conventions(joined, list("aabbbcccc"))
        if (row.region, row.aggregation) == (WHOLE, "pooled over pixels")
    ]  # fmt: skip
    assert pooled.metrics["selected"]["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_tables_of_all_folds_stand_one_below_the_other() -> None:
    """Every column of every row, in the order of folds."""
    first, second = make_table(1), make_table(2).rows([3, 4])
    stacked = out_of_fold._stacked([first, second])
    back = [stacked.rows(range(14)), stacked.rows([14, 15])]
    assert [table.digest() for table in back] == [first.digest(), second.digest()]
    assert len(stacked.names) == 16


def test_coverage_counts_every_image_with_the_interval_of_its_fold() -> None:
    """9 of 10 and 1 of 2 are 10 of 12; it rests on the fewest images; without one fold's there is none."""
    results = make_info("improved").results
    of_folds = [
        results.model_copy(update={"coverage": part})
        for part in (coverage(0.9, 10, 0.1, 8), coverage(0.5, 2, 0.3, 6))
    ]
    found = out_of_fold._coverage(of_folds)
    assert found is not None
    assert found.held == pytest.approx(10 / 12)
    assert (found.n_test, found.n_calibration, found.promised) == (12, 6, 0.9)
    assert found.halfwidth == pytest.approx(0.2)
    without = results.model_copy(update={"coverage": None})
    assert out_of_fold._coverage([*of_folds, without]) is None


def test_a_check_that_failed_in_any_fold_failed() -> None:
    """The first fold where it did speaks for all, and says in how many; otherwise the first fold."""
    folds = [
        [check("diversity", "passed", 1), check("replay", "passed", 2)],
        [check("diversity", "passed", 3), check("replay", "failed", 4)],
        [check("diversity", "unmeasured", 5), check("replay", "failed", 6), check("learning", "passed", 7)],
    ]
    found = {result.name: result for result in out_of_fold._worst(folds)}
    assert list(found) == ["diversity", "replay", "learning"]
    assert found["replay"].failed
    assert found["replay"].value == 4
    assert found["replay"].finding == "failed in 2 of 3 folds; fold 2: found 4"
    assert found["diversity"].finding == "fold 1: found 1"
    assert found["learning"].finding == "fold 3: found 7"
