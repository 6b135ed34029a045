"""`dataset check`: every mistake is found, and a sound folder is left in peace."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from job.data.checking import check_folder
from job.data.fundus import sample
from job.data.images import read_mask, write_image, write_mask

N = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound data set of twelve patients with a full split column."""
    entries = []
    for i in range(N):
        rng = np.random.default_rng(i)
        name = f"a{i:02d}.png"
        write_image(tmp_path / "images" / name, rng.integers(0, 256, (64, 80, 3)).astype(np.uint8))
        write_mask(tmp_path / "masks" / name, rng.random((64, 80)) < 0.1)
        split = ("train", "validation", "test")[i % 3]
        entries.append(
            {"image": f"images/{name}", "mask": f"masks/{name}", "patient": f"p{i}", "split": split}
        )
    (tmp_path / "annotations.json").write_text(json.dumps(entries))
    return tmp_path


def edit(root: Path, i: int, **values: Any) -> None:
    path = root / "annotations.json"
    entries = json.loads(path.read_text())
    entries[i] |= values
    path.write_text(json.dumps(entries))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def invert(path: Path) -> None:
    write_mask(path, ~read_mask(path))


def blank_out(path: Path) -> None:
    write_mask(path, np.zeros((64, 80), bool))


def save_as_jpeg(path: Path) -> None:
    Image.fromarray(np.where(read_mask(path), 255, 0).astype(np.uint8)).save(path, format="JPEG", quality=30)


def transpose(path: Path) -> None:
    write_mask(path, read_mask(path).T)


def flatten(path: Path) -> None:
    write_image(path, np.full((64, 80, 3), 90, np.uint8))


def shrink(root: Path) -> None:
    write_image(
        root / "images" / "a00.png", np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    )
    write_mask(root / "masks" / "a00.png", np.eye(32, 40, dtype=bool))


def field_elsewhere(root: Path) -> None:
    field = np.zeros((64, 80), bool)
    field[:20] = True
    write_mask(root / "fov" / "a00.png", field)
    edit(root, 0, fov="fov/a00.png")


def empty_field(root: Path) -> None:
    blank_out(root / "masks" / "a01.png")
    edit(root, 0, fov="masks/a01.png")
    edit(root, 1, mask="masks/a02.png")


def withhold(root: Path) -> None:
    edit(root, 2, mask=None, split=None)
    edit(root, 2, patient="p5")


MISTAKES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("truncated image", lambda r: truncate(r / "images" / "a00.png"), "error", "cannot be decoded"),
    ("empty file", lambda r: (r / "images" / "a00.png").write_bytes(b""), "error", "BMP: the file is empty"),
    ("truncated mask", lambda r: truncate(r / "masks" / "a00.png"), "error", "cannot be decoded"),
    (
        "size",
        lambda r: transpose(r / "masks" / "a00.png"),
        "error",
        "the mask has 64 x 80 pixels, the image 80 x 64",
    ),
    ("missing", lambda r: (r / "masks" / "a00.png").unlink(), "error", "is not there"),
    ("empty mask", lambda r: blank_out(r / "masks" / "a00.png"), "warning", "the mask is empty"),
    ("inverted mask", lambda r: invert(r / "masks" / "a00.png"), "warning", "looks inverted"),
    ("grey mask", lambda r: save_as_jpeg(r / "masks" / "a00.png"), "warning", "pixels are grey"),
    ("flat image", lambda r: flatten(r / "images" / "a00.png"), "warning", "of one colour"),
    ("small image", shrink, "warning", "only 40 x 32 pixels"),
    ("field elsewhere", field_elsewhere, "warning", "outside the field of view"),
    ("empty field", empty_field, "warning", "the field of view is empty"),
    ("no mask", lambda r: edit(r, 0, mask=None, split=None), "warning", "1 images have no mask"),
    ("leak", lambda r: shutil.copy(r / "images" / "a00.png", r / "images" / "a01.png"), "error", "a leak"),
    ("torn patient", lambda r: edit(r, 1, patient="p0"), "error", "patients on two sides: p0"),
    ("gap in the column", lambda r: edit(r, 0, split=None), "warning", "1 annotated images have no split"),
    ("withheld", withhold, "warning", "held out will not be used: a02"),
    ("unknown split", lambda r: edit(r, 0, split="dev"), "error", "unknown split 'dev'"),
    (
        "not listed",
        lambda r: shutil.copy(r / "images" / "a00.png", r / "images" / "z.png"),
        "warning",
        "not listed",
    ),
]


def test_a_sound_folder_has_no_findings(folder: Path) -> None:
    """Nothing is found where nothing is wrong."""
    assert check_folder(folder) == []


@pytest.mark.parametrize(
    ("mistake", "severity", "words"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_each_mistake_is_found(
    folder: Path, mistake: Callable[[Path], object], severity: str, words: str
) -> None:
    """One mistake put into a sound folder is found with its severity, and no error is invented beside it."""
    mistake(folder)
    findings = check_folder(folder)
    assert [f for f in findings if f.severity == severity and words in f.what], findings
    if words != "not listed":  # an image of an entry with a mistake is listed
        assert not [f for f in findings if "is not listed" in f.what]
    if severity == "warning":
        assert not [f for f in findings if f.severity == "error"]


def test_all_mistakes_come_at_once_errors_first(folder: Path) -> None:
    """An unreadable image does not hide an inverted mask elsewhere."""
    truncate(folder / "images" / "a00.png")
    invert(folder / "masks" / "a05.png")
    findings = check_folder(folder)
    assert [f.severity for f in findings] == ["error", "warning"]
    assert [f.where for f in findings] == ["a00", "a05"]


def test_the_same_picture_of_one_patient_is_no_leak(folder: Path) -> None:
    """A picture twice under one patient and split is a warning: it weighs double, no more."""
    shutil.copy(folder / "images" / "a00.png", folder / "images" / "a03.png")
    edit(folder, 3, patient="p0")
    (finding,) = check_folder(folder)
    assert (finding.severity, finding.where, finding.what) == ("warning", "a00, a03", "the same picture")


def test_a_leak_is_found_in_another_file_format(folder: Path) -> None:
    """Copies are told by what they show, so one as BMP is found."""
    with Image.open(folder / "images" / "a00.png") as image:
        image.save(folder / "images" / "copy.bmp")
    edit(folder, 1, image="images/copy.bmp")
    assert any("a leak" in f.what for f in check_folder(folder))


def test_a_leak_is_found_in_a_smaller_mirrored_jpeg(folder: Path) -> None:
    """A copy need not have the same pixels: the job would find it too, and end invalid."""
    original = sample(0, seed=0, size=128, annotation="all")
    for i, image in enumerate([original.image_HWC, original.image_HWC[::2, ::-2]]):
        Image.fromarray(image).save(folder / "images" / f"copy{i}.jpg", quality=70)
        write_mask(folder / "masks" / f"copy{i}.png", original.mask_HW[:: i + 1, :: 1 - 3 * i])
        edit(folder, i, image=f"images/copy{i}.jpg", mask=f"masks/copy{i}.png", fov=None)
    leaks = [f for f in check_folder(folder) if "a leak" in f.what]
    assert [(f.severity, f.where) for f in leaks] == [("error", "copy0, copy1")]


def test_blank_pictures_are_no_leak(folder: Path) -> None:
    """Two pictures of one colour are each warned of, and are not taken for copies."""
    for i in range(2):
        flatten(folder / "images" / f"a{i:02d}.png")
    assert {f.what for f in check_folder(folder)} == {"the image is of one colour"}


@pytest.mark.parametrize(("n", "severity"), [(2, "error"), (5, "warning")])
def test_few_patients(folder: Path, n: int, severity: str) -> None:
    """Fewer patients than sides is an error, fewer than ten a warning."""
    entries = json.loads((folder / "annotations.json").read_text())[:n]
    (folder / "annotations.json").write_text(json.dumps([entry | {"split": None} for entry in entries]))
    found = [f for f in check_folder(folder) if f.where == "patients"]
    assert [f.severity for f in found] == [severity]
    assert f"{n} patients" in found[0].what


def test_one_training_patient_is_too_few_for_the_reward_network(folder: Path) -> None:
    """The check says what a run would end with, and what would do."""
    entries = json.loads((folder / "annotations.json").read_text())[:3]
    for entry, side in zip(entries, ("train", "validation", "test"), strict=True):
        entry["split"] = side
    (folder / "annotations.json").write_text(json.dumps(entries))
    warned = {f.where: f for f in check_folder(folder)}
    assert "training images of one patient only" in warned["split"].what
    assert "reward.network.epochs to 0" in warned["split"].advice
    assert "folds" not in warned["patients"].advice


@pytest.mark.parametrize(
    ("n", "words"), [(0, "no image has a mask"), (1, "1 patient has a mask: three are needed")]
)
def test_too_few_masks_are_told_as_such(folder: Path, n: int, words: str) -> None:
    """No mask at all, and masks of one patient, are told apart."""
    for i in range(n, N):
        edit(folder, i, mask=None, split=None)
    (finding,) = [f for f in check_folder(folder) if f.where == "patients"]
    assert finding.severity == "error"
    assert words in finding.what


def test_an_undecodable_name_is_a_finding(folder: Path) -> None:
    """Files whose names are not UTF-8 are found, listed or not, and every finding can be printed."""
    try:
        shutil.copy(folder / "images" / "a00.png", folder / "images" / os.fsdecode(b"p\xf3.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    assert [f.where for f in check_folder(folder)] == [r"images/p\xf3.png"]
    (folder / "annotations.json").unlink()
    findings = check_folder(folder)
    assert [f.where for f in findings if f.severity == "error" and "not UTF-8" in f.what] == [
        r"images/p\xf3.png"
    ]
    str(findings).encode()


def test_an_empty_side_is_an_error(folder: Path) -> None:
    """A full column that names no test image cannot be used."""
    for i in range(2, N, 3):
        edit(folder, i, split="train")
    assert [f.what for f in check_folder(folder) if f.severity == "error"] == [
        "no annotated image is on the side test"
    ]


def test_a_missing_folder_is_a_finding(tmp_path: Path) -> None:
    """A folder that is not there is told, not raised."""
    (finding,) = check_folder(tmp_path / "no")
    assert (finding.severity, finding.what) == ("error", "does not exist")


def test_a_copy_is_named_as_users_know_it(folder: Path) -> None:
    """The folder may be a copy in a cache, where nobody can mend anything."""
    truncate(folder / "images" / "a00.png")
    findings = check_folder(folder, as_users_know=lambda text: text.replace(str(folder), "s3://b/data"))
    assert any("s3://b/data/images/a00.png" in finding.what for finding in findings)
    assert not any(str(folder) in f"{f.where}{f.what}{f.advice}" for f in findings)
    (finding,) = check_folder(folder / "no", as_users_know=lambda text: text.replace(str(folder), "s3://b"))
    assert finding.where == "s3://b/no"
