"""What lies in a dataset folder: special files, links, odd names, and files that belong to several images."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from job.data.annotations import list_folder
from job.data.checking import check_folder
from job.data.dataset import Dataset, read_folder
from job.data.folders import MOST_ERRORS
from job.data.images import write_image, write_mask


@pytest.fixture(autouse=True)
def _never_waits() -> Iterator[None]:
    """Whoever opens a pipe that nobody writes to would wait for ever: the alarm ends the test run."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def put(root: Path, name: str, *, mask: bool = True) -> None:
    write_image(root / "images" / name, np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8))
    if mask:
        write_mask(root / "masks" / name, np.eye(8, 9, dtype=bool))


def errors(root: Path) -> dict[str, str]:
    return {finding.where: finding.what for finding in list_folder(root).findings}


def test_pipes_and_devices_are_errors_and_nobody_waits(tmp_path: Path) -> None:
    """In images/ and masks/, in an entry, and in place of annotations.json itself; so for `dataset check`."""
    put(tmp_path, "a.png")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    os.mkfifo(tmp_path / "masks" / "pipe.png")
    (tmp_path / "images" / "zero.png").symlink_to("/dev/zero")
    what = "is no file but a pipe, a socket or a device"
    places = ("images/pipe.png", "masks/pipe.png", "images/zero.png")
    assert errors(tmp_path) == dict.fromkeys(places, what)
    assert {finding.where for finding in check_folder(tmp_path) if finding.what == what} == set(places)
    (tmp_path / "annotations.json").write_text('[{"image": "images/a.png", "mask": "masks/pipe.png"}]')
    assert errors(tmp_path) == {"annotations.json[0].mask": f"'masks/pipe.png' {what}"}
    (tmp_path / "annotations.json").unlink()
    os.mkfifo(tmp_path / "annotations.json")
    assert errors(tmp_path) == {"annotations.json": what}


def test_links_that_hide_pictures_are_errors(tmp_path: Path) -> None:
    """One that leads nowhere or to itself, one to a folder, and an annotations.json out of the folder."""
    root = tmp_path / "data"
    put(root, "a.png")
    (root / "images" / "gone.png").symlink_to("nowhere.png")
    (root / "images" / "loop.png").symlink_to("loop.png")
    (root / "images" / "more").symlink_to(root / "masks")
    assert errors(root) == {
        "images/gone.png": "is a link that leads nowhere",
        "images/loop.png": "is a link that leads nowhere",
        "images/more": "is a link to a folder, which is not followed",
    }
    (tmp_path / "elsewhere.json").write_text("[]")
    (root / "annotations.json").symlink_to(tmp_path / "elsewhere.json")
    assert errors(root) == {"annotations.json": "is a link out of the dataset folder"}


def test_a_mask_of_two_images_of_one_stem_is_an_error(tmp_path: Path) -> None:
    """Whose it is cannot be told; without masks, images may share a stem and are one patient's."""
    put(tmp_path, "a.png", mask=False)
    put(tmp_path, "A.bmp", mask=False)
    assert [sample.patient.lower() for sample in read_folder(tmp_path)] == ["a", "a"]
    write_mask(tmp_path / "masks" / "a.png", np.eye(8, 9, dtype=bool))
    assert errors(tmp_path) == {"masks/a.png": "belongs to several images: images/A.bmp, images/a.png"}


@pytest.mark.parametrize(
    "stem", ["line\nbreak", "-rf", "--set", "ümläut 図", "x" * 251, "a\tb\x1b[31m", "'; drop", " ", "%s{0}"]
)
def test_odd_names_are_read_and_told_on_one_line(tmp_path: Path, stem: str) -> None:
    """Whatever a file is called, its sample has a safe name, and a message about it is one line."""
    put(tmp_path, f"{stem}.png")
    (sample,) = read_folder(tmp_path)
    assert Dataset([sample]).load(sample).truth is not None
    assert sample.name
    assert set(sample.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    (tmp_path / "images" / f"{stem}.png").write_bytes(b"no picture")
    broken = [finding for finding in check_folder(tmp_path) if "cannot be decoded" in finding.what]
    assert len(broken) == 1
    assert broken[0].what.isprintable()


def test_a_folder_of_strays_is_not_looked_through_for_ever(tmp_path: Path) -> None:
    """A list of wrong entries is given up after a thousand."""
    (tmp_path / "annotations.json").write_text("[" + "0," * (10 * MOST_ERRORS) + "0]")
    findings = list_folder(tmp_path).findings
    assert len(findings) == MOST_ERRORS + 1
    assert findings[-1].what == "is the last entry that was looked at"
