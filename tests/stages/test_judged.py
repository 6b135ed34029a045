"""Judging is kept block by block, and goes on where it was interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from job.data import synthetic
from job.data.dataset import Dataset, read_folder
from job.errors import Interrupted
from job.progress import SILENT, SharedTask, Task
from job.stages import judged, table
from job.stages.stage import StageContext
from tests.stages.made_up_stages import finished, spec_of


class Judge:
    """A judge that counts the images it was shown; its scores depend on image and mask."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, image_HWC: NDArray[np.uint8], masks_BHW: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return a share of foreground, moved by the image's mean."""
        self.images += 1
        return np.asarray(masks_BHW.mean((1, 2)) / 2 + image_HWC.mean() / 1000, np.float64)


class Follows:
    """A Progress that lists its tasks and counts their steps, and asks to stop at the n-th."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.steps = 0
        self._stop_at = stop_at

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator[Task]:
        """Give itself."""
        self.tasks.append((what, total))
        yield self

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count."""
        self.steps += steps
        if self.steps == self._stop_at:
            raise Interrupted("stop")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    """A stage of four actions that keeps two images at a time."""
    monkeypatch.setattr(judged, "BLOCK", 2)
    return finished(tmp_path / "run", spec_of())


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five small images."""
    synthetic.make_dataset(
        tmp_path / "data", train=5, validation=0, test=0, unlabelled=0, size=64, seed=0, annotation="all",
        progress=SILENT,
    )  # fmt: skip
    return Dataset(read_folder(tmp_path / "data"), None)


def call(context: StageContext, dataset: Dataset, judge: Judge, key: str = "k") -> NDArray[np.float64]:
    """Judge all images."""
    return judged.judge(context, dataset, dataset.samples, lambda sample: judge, name="scores", key=key)


@pytest.mark.parametrize(("stop_at", "left"), [(1, 5), (2, 5), (3, 3), (5, 1)])
def test_an_interrupted_judging_loses_one_block(
    context: StageContext, dataset: Dataset, stop_at: int, left: int
) -> None:
    """The scores are those of one go, rows that were kept are not judged again, progress counts them once."""
    with SILENT.task("judging masks", 5, "images") as task:
        rows = table.judge(context, dataset, dataset.samples, lambda sample: Judge(), SharedTask(task))
        whole = np.stack(list(rows))
    assert len(np.unique(whole[:, 0])) == 5
    with pytest.raises(Interrupted):
        call(replace(context, progress=Follows(stop_at)), dataset, Judge())
    again, judge = Follows(), Judge()
    found = call(replace(context, progress=again), dataset, judge)
    np.testing.assert_array_equal(found, whole)
    assert judge.images == left
    assert (again.tasks, again.steps) == ([("judging masks", 5)], 5)


def test_other_judges_judge_all_again(context: StageContext, dataset: Dataset) -> None:
    """Rows of another key, of fewer samples or in a damaged file are not taken."""
    first = call(context, dataset, Judge())
    kept = context.scratch / "scores.safetensors"
    same, other, damaged = Judge(), Judge(), Judge()
    np.testing.assert_array_equal(call(context, dataset, same), first)
    assert same.images == 0
    call(context, dataset, other, key="other")
    assert other.images == 5
    kept.write_bytes(kept.read_bytes()[:-1])
    np.testing.assert_array_equal(call(context, dataset, damaged, key="other"), first)
    assert damaged.images == 5
    fewer = Judge()
    found = judged.judge(
        context, dataset, dataset.samples[:3], lambda sample: fewer, name="scores", key="other"
    )
    np.testing.assert_array_equal(found, first[:3])
    assert fewer.images == 3
