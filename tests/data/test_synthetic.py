"""Synthetic images as a dataset folder."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.data.dataset import Dataset, read_folder
from job.data.fundus import sample
from job.data.splits import assign
from job.data.synthetic import make_dataset
from job.errors import InputError
from job.progress import SILENT
from job.spec.data import AutoSplit

COUNTS = {"train": 2, "validation": 1, "test": 1, "unlabelled": 1}


def make(root: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {**COUNTS, "size": 64, "seed": 3, "annotation": "by_clarity"}
    make_dataset(root, **arguments | changes, progress=SILENT)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.*")) if p.is_file()}


def test_the_folder_reads_back_as_it_was_rendered(tmp_path: Path) -> None:
    """Every sample has the renderer's pixels and its own side; unlabelled ones have no mask."""
    samples = read_folder(make(tmp_path / "d"))
    sides = assign(samples, AutoSplit())
    assert sides.decided_by == "column"
    assert [list(sides.splits.values()).count(side) for side in COUNTS] == list(COUNTS.values())
    loaded = Dataset(samples).load(samples[1])
    expected = sample(1, seed=3, size=64)
    np.testing.assert_array_equal(loaded.image, expected.image_HWC)
    np.testing.assert_array_equal(loaded.truth, expected.mask_HW)
    np.testing.assert_array_equal(loaded.fov, expected.fov_HW)
    assert [s.mask is None for s in samples] == [False] * 4 + [True]
    assert len({s.patient for s in samples}) == 5


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    """Two folders of the same arguments are the same file by file; another seed differs."""
    one = contents(make(tmp_path / "one"))
    assert one == contents(make(tmp_path / "two"))
    other = contents(make(tmp_path / "other", seed=4))
    assert one.keys() == other.keys()
    assert one["images/train_00000.png"] != other["images/train_00000.png"]


def test_growing_a_split_leaves_the_others(tmp_path: Path) -> None:
    """More images of any split change no image that was there, and no picture comes twice."""
    small, large = (
        make(tmp_path / "small"),
        make(tmp_path / "large", train=3, validation=2, test=2, unlabelled=2),
    )
    before, after = contents(small), contents(large)
    del before["annotations.json"]
    assert before.items() <= after.items()
    pictures = [data for name, data in after.items() if name.startswith("images/")]
    assert len(set(pictures)) == len(pictures) == 9


def test_the_annotation_style_changes_masks_alone(tmp_path: Path) -> None:
    """The images of both styles are the same: only what is annotated differs."""
    counts = {"train": 6, "validation": 0, "test": 0, "unlabelled": 0}
    clarity, everything = make(tmp_path / "c", **counts), make(tmp_path / "a", **counts, annotation="all")
    one, two = contents(clarity), contents(everything)
    different = {name for name in one if one[name] != two[name]}
    assert different
    assert all(name.startswith("masks/") for name in different)


def test_no_data_set_is_overwritten(tmp_path: Path) -> None:
    """A folder that holds a data set is left alone; what an interrupted attempt left is completed."""
    root = make(tmp_path / "d")
    before = contents(root)
    with pytest.raises(InputError, match="holds a data set already"):
        make(root, seed=9)
    assert contents(root) == before
    (root / "annotations.json").unlink()
    (root / "images" / "test_00000.png").unlink()
    assert contents(make(root)) == before


def test_annotations_come_last(tmp_path: Path) -> None:
    """An interruption leaves no annotations.json, so a half-made folder is never taken for a whole one."""

    class Stop(Exception):
        pass

    class StopsAtTheThird:
        done = 0

        def task(self, what: str, total: int, unit: str) -> nullcontext["StopsAtTheThird"]:
            return nullcontext(self)

        def advance(self, steps: int = 1, **figures: float) -> None:
            self.done += steps
            if self.done == 3:
                raise Stop

    with pytest.raises(Stop):
        make_dataset(tmp_path, **COUNTS, size=64, seed=0, annotation="all", progress=StopsAtTheThird())
    assert len(list(tmp_path.glob("images/*.png"))) == 3
    assert not (tmp_path / "annotations.json").exists()


def test_counts_are_bounded(tmp_path: Path) -> None:
    """A split larger than its range of indices would repeat another's images, and is refused."""
    with pytest.raises(ValueError, match="1,000,000"):
        make(tmp_path, train=1_000_001)
