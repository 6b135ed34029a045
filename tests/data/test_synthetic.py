"""Synthetic images as a dataset folder."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from pydantic import ValidationError

from job import workers
from job.data import synthetic
from job.data.dataset import Dataset, read_folder
from job.data.fundus import sample
from job.data.splits import assign
from job.data.synthetic import SIZES, make_dataset
from job.errors import InputError
from job.progress import SILENT
from job.spec.data import AutoSplit, SyntheticSpec

COUNTS = {"train": 2, "validation": 1, "test": 1, "unlabelled": 1}


def make(root: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {**COUNTS, "size": 64, "seed": 3, "annotation": "by_clarity"}
    make_dataset(root, **{**arguments, "progress": SILENT, **changes})
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


@pytest.mark.parametrize(("threads", "worth"), [(3, 10**9), (5, 1)])
def test_any_number_of_threads_or_processes_makes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, worth: int
) -> None:
    """A picture is made from its own seed alone, and the list keeps the pictures' order."""
    alone = contents(make(tmp_path / "alone"))
    started = Mock(side_effect=workers.processes)
    monkeypatch.setattr(workers, "processes", started)
    monkeypatch.setattr(synthetic, "WORTH_PROCESSES", worth)
    assert contents(make(tmp_path / "together", threads=threads)) == alone
    assert started.called == (threads > workers.MOST_THREADS)


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
    (root / ".unfinished").touch()
    assert contents(make(root)) == before
    assert not (root / ".unfinished").exists()


@pytest.mark.parametrize("mine", ["images/mine.png", "images/train_00000.png", "notes.txt", ".hidden"])
def test_what_others_put_into_a_folder_is_left_alone(tmp_path: Path, mine: str) -> None:
    """A folder that holds anything but a half-made data set is refused, and no byte of it changes."""
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        make(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / mine]
    assert (tmp_path / mine).read_text() == "mine"


def test_a_file_is_no_place_for_a_data_set(tmp_path: Path) -> None:
    """A file where the folder should be is refused; an empty folder is taken."""
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        make(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert len(read_folder(make(tmp_path / "empty"))) == 5


@pytest.mark.parametrize("size", [1, 16, 48, 63, 64, 65, 72, 128, 1008, 1024, 1040])
def test_sizes_are_those_of_the_spec(size: int) -> None:
    """The sizes that can be made are exactly those that `data.synthetic.size` may name."""
    try:
        SyntheticSpec(size=size)
    except ValidationError:
        assert size not in SIZES
    else:
        assert size in SIZES


@pytest.mark.parametrize("size", [0, 1, 32, 100, 2048])
def test_other_sizes_are_refused(tmp_path: Path, size: int) -> None:
    """A size that the spec would refuse ends with the sizes that there are, and nothing is written."""
    with pytest.raises(InputError, match=f"{size} x {size}") as caught:
        make(tmp_path / "d", size=size)
    assert "multiple of 16 from 64 to 1024" in caught.value.advice
    assert not (tmp_path / "d").exists()


def test_a_data_set_of_no_image_is_refused(tmp_path: Path) -> None:
    """Zero images in all are no data set."""
    with pytest.raises(InputError, match="no image"):
        make(tmp_path / "d", train=0, validation=0, test=0, unlabelled=0)
    assert not (tmp_path / "d").exists()


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

    stop = StopsAtTheThird()
    with pytest.raises(Stop):
        make(tmp_path, train=200, progress=stop)
    assert stop.done == 3
    assert 3 <= len(list(tmp_path.glob("images/*.png"))) < 203
    assert not (tmp_path / "annotations.json").exists()
    assert len(read_folder(make(tmp_path))) == 5


def test_counts_are_bounded(tmp_path: Path) -> None:
    """A split larger than its range of indices would repeat another's images, and is refused."""
    with pytest.raises(InputError, match="1,000,001 train") as caught:
        make(tmp_path, train=1_000_001)
    assert "0 to 1,000,000" in caught.value.advice
