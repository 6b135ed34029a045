"""Pictures looked at once: what is of no use, by how many it is told, and what is odd."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from job import workers
from job.data import inspection
from job.data.dataset import read_folder, require_readable
from job.data.images import read_image, stored_pixels, write_image, write_mask
from job.data.inspection import (
    BadImage,
    Look,
    look,
    look_at,
    look_at_each,
    oddities,
    refuse_bad,
    refuse_empty,
)
from job.data.samples import Polygons
from job.errors import InputError, TryAgain
from tests.data.another_user import another_user, open_folder

__all__ = ["open_folder"]

SIZE = (40, 50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path, 4)


def make(root: Path, n: int) -> Path:
    for i in range(n):
        rng = np.random.default_rng(i)
        write_image(root / "images" / f"a{i:02d}.png", rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
        write_mask(root / "masks" / f"a{i:02d}.png", rng.random(SIZE) < 0.2)
    return root


def looked(root: Path) -> tuple[list[Look], list[BadImage]]:
    found = [look_at("data.uri", root, sample) for sample in read_folder(root)]
    return [f for f in found if isinstance(f, Look)], [f for f in found if isinstance(f, BadImage)]


@pytest.mark.parametrize(("threads", "worth"), [(1, 10**9), (3, 10**9), (5, 1)])
def test_any_number_of_threads_or_processes_sees_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, threads: int, worth: int
) -> None:
    """In the samples' order, what cannot be decoded among them; the task counts each once."""
    cut(folder)
    expected = [look_at("data.uri", folder, sample) for sample in read_folder(folder)]
    assert sum(isinstance(one, BadImage) for one in expected) == 1
    started = Mock(side_effect=workers.processes)
    monkeypatch.setattr(workers, "processes", started)
    monkeypatch.setattr(inspection, "WORTH_PROCESSES", worth)
    task = Mock()
    items = [("data.uri", folder, sample) for sample in read_folder(folder)]
    seen = list(look_at_each(items, threads=threads, task=task))
    assert list(map(_told, seen)) == list(map(_told, expected))
    assert started.called == (threads > workers.MOST_THREADS)
    assert sum(call.args[:1] != (0,) for call in task.advance.call_args_list) == len(expected)


def test_sizes_are_told_before_pictures_are_decoded(folder: Path) -> None:
    """By the header; what has none says nothing, and a pipe is not waited for."""
    picture, pipe = folder / "images" / "a00.png", folder / "pipe.png"
    assert stored_pixels(picture) == SIZE[0] * SIZE[1]
    picture.write_bytes(picture.read_bytes()[:20])
    os.mkfifo(pipe)
    assert [stored_pixels(path) for path in (picture, pipe, folder / "none.png", folder)] == [0] * 4


def cut(root: Path) -> None:
    path = root / "images" / "a01.png"
    path.write_bytes(path.read_bytes()[:-100])


def other_size(root: Path) -> None:
    write_mask(root / "masks" / "a01.png", np.ones(SIZE[::-1], bool))


def field_of_another_size(root: Path) -> None:
    write_mask(root / "fov" / "a01.png", np.ones((8, 8), bool))


def float_image(root: Path) -> None:
    Image.fromarray(np.ones(SIZE, np.float32)).save(root / "images" / "a01.png", format="TIFF")


def empty_file(root: Path) -> None:
    (root / "masks" / "a01.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "file", "what"),
    [
        (cut, "images/a01.png", "cannot be decoded"),
        (float_image, "images/a01.png", "floating-point"),
        (other_size, "masks/a01.png", "has 40 x 50 pixels, a01.png has 50 x 40"),
        (field_of_another_size, "fov/a01.png", "has 8 x 8 pixels"),
        (empty_file, "masks/a01.png", "cannot be decoded"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(
    folder: Path, spoil: Callable[[Path], None], file: str, what: str
) -> None:
    """The file that is to blame, below the folder; the other images are seen as before."""
    spoil(folder)
    looks, (bad,) = looked(folder)
    assert (bad.dataset, bad.name, bad.file) == ("data.uri", "a01", file)
    assert what in bad.what
    assert str(folder) not in bad.what
    assert [look.sample.name for look in looks] == ["a00", "a02", "a03"]


def test_a_mask_is_told_as_empty_or_grey(folder: Path) -> None:
    """Both are allowed: they are counted."""
    write_mask(folder / "masks" / "a00.png", np.zeros(SIZE, bool))
    levels = np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))
    Image.fromarray(levels).save(folder / "masks" / "a02.png")
    looks, _ = looked(folder)
    assert [look.is_empty for look in looks] == [True, False, False, False]
    assert [look.is_grey for look in looks] == [False, False, True, False]
    grey, empty = oddities(looks)
    assert grey.startswith("1 of 4 masks have grey levels")
    assert empty.startswith("1 of 4 masks are empty")
    assert not any(name in grey + empty for name in ("a00", "a02"))


def test_masks_that_look_inverted_are_counted(folder: Path) -> None:
    """What covers most of its image may be the background."""
    write_mask(folder / "masks" / "a01.png", np.ones(SIZE, bool))
    looks, _ = looked(folder)
    assert [look.covers_most for look in looks] == [False, True, False, False]
    (told,) = oddities(looks)
    assert told.startswith("1 of 4 masks cover more than half of their image: are they inverted?")


def test_polygons_without_a_point_are_an_empty_mask(folder: Path) -> None:
    """A text without outlines says that there is nothing, which a picture of zeros says too."""
    samples = [replace(sample, mask=Polygons(())) for sample in read_folder(folder)]
    looks = [look(sample) for sample in samples]
    assert all(look.is_empty for look in looks)
    with pytest.raises(InputError, match="masks of all 4 test images are empty"):
        refuse_empty(looks, "test")
    refuse_empty(looks[:0], "test")


def test_up_to_ten_bad_files_are_named(tmp_path: Path) -> None:
    """Of thirteen ten are shown, the others counted: nobody mends one, starts again, and finds the next."""
    make(tmp_path, 14)
    for i in range(13):
        (tmp_path / "images" / f"a{i:02d}.png").write_bytes(b"x")
    _, bad = looked(tmp_path)
    with pytest.raises(InputError) as caught:
        refuse_bad(bad, 14, tmp_path, on_bad="fail", max_share=0.5)
    message = str(caught.value)
    assert "13 of 14 images cannot be used" in message
    assert [f"a{i:02d}.png" in message for i in range(13)] == [True] * 10 + [False] * 3
    assert "and 3 more" in message
    assert "data.on_bad_image" in caught.value.advice


@pytest.mark.parametrize(("n_bad", "max_share", "passes"), [(0, 0.0, True), (2, 0.2, True), (3, 0.2, False)])
def test_the_share_that_may_be_skipped_is_bounded(n_bad: int, max_share: float, passes: bool) -> None:
    """At the bound it passes; beyond, the message names the bound."""
    bad = [BadImage("data.uri", f"a{i}", f"images/a{i}.png", "cannot be decoded") for i in range(n_bad)]
    if passes:
        refuse_bad(bad, 10, Path("/d"), on_bad="skip", max_share=max_share)
        return
    with pytest.raises(InputError, match=r"3 of 10 images .*, more than data\.max_bad_share 0\.2"):
        refuse_bad(bad, 10, Path("/d"), on_bad="skip", max_share=max_share)


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
def test_a_failing_machine_makes_no_picture_bad(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Without memory or with a failing disk nothing is skipped: the next attempt may read it."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises((MemoryError, TryAgain)):
        read_image(folder / "images" / "a00.png")


def test_files_that_may_not_be_read_are_named_together(open_folder: Path) -> None:
    """No bad images but a missing right: told before anything is read, by name, with what to type."""
    make(open_folder, 3)
    with another_user():
        require_readable(open_folder)
    (open_folder / "images" / "a01.png").chmod(0)
    (open_folder / "masks").chmod(0)
    with another_user(), pytest.raises(InputError) as caught:
        require_readable(open_folder)
    assert "2 files or folders may not be read" in str(caught.value)
    assert f"{open_folder / 'images' / 'a01.png'}\n" in str(caught.value)
    assert str(open_folder / "masks") in str(caught.value)
    assert "chmod" in caught.value.advice


def _told(one: Look | BadImage) -> dict[str, Any]:
    fields = asdict(one)
    return fields | {name: value.tolist() for name, value in fields.items() if isinstance(value, np.ndarray)}
