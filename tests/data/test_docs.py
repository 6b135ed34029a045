"""docs/data.md: its snippets run on downloads of the true file names, and its examples are read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from job.data.annotations import KEYS
from job.data.dataset import Dataset, Sample, read_folder
from job.data.folders import FOV_ENDINGS, MASK_ENDINGS
from job.data.splits import assign
from job.spec.data import AutoSplit

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
SIZE = (60, 48)


def snippet(title: str) -> list[str]:
    """Return the command that runs the section's snippet."""
    section = PAGE.split(f"### {title}\n")[1].split("\n### ")[0]
    language, code = re.search(r"```(python|sh)\n(.*?)```", section, re.DOTALL).groups()
    return [sys.executable, "-c", code] if language == "python" else ["sh", "-euc", code]


def put(path: Path, *, mask: bool = False) -> None:
    """Write a tiny picture or mask in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.name.encode()))
    shape = SIZE[::-1] if mask else (*SIZE[::-1], 3)
    pixels = rng.integers(0, 256, shape) // 128 * 255 if mask else rng.integers(0, 256, shape)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def drive(root: Path) -> None:
    for i in range(21, 41):
        put(root / f"DRIVE/training/images/{i}_training.tif")
        put(root / f"DRIVE/training/1st_manual/{i}_manual1.gif", mask=True)
        put(root / f"DRIVE/training/mask/{i}_training_mask.gif", mask=True)


def stare(root: Path) -> None:
    for i in (1, 2, 3, 4, 5, 44, 77, 81, 82, 139, 162, 163):
        put(root / f"STARE/im{i:04d}.ppm")
        if i != 3:
            put(root / f"STARE/im{i:04d}.ah.ppm", mask=True)
        put(root / f"STARE/im{i:04d}.vk.ppm", mask=True)


def hrf(root: Path) -> None:
    for i in range(1, 16):
        for kind in ("dr", "g", "h"):
            put(root / f"HRF/images/{i:02d}_{kind}.{'JPG' if kind == 'dr' else 'jpg'}")
            put(root / f"HRF/manual1/{i:02d}_{kind}.tif", mask=True)
            put(root / f"HRF/mask/{i:02d}_{kind}_mask.tif", mask=True)


def chase(root: Path) -> None:
    for i in range(1, 15):
        for eye in "LR":
            put(root / f"CHASEDB1/Image_{i:02d}{eye}.jpg")
            put(root / f"CHASEDB1/Image_{i:02d}{eye}_1stHO.png", mask=True)
            put(root / f"CHASEDB1/Image_{i:02d}{eye}_2ndHO.png", mask=True)


def prepared(tmp_path: Path, title: str, uri: str) -> list[Sample]:
    subprocess.run(snippet(title), cwd=tmp_path, check=True, capture_output=True)
    assert f"`data.uri` is `{uri}`" in PAGE
    samples = read_folder(tmp_path / uri)
    for sample in samples[:3]:
        loaded = Dataset(samples).load(sample)
        assert loaded.image.shape[:2] == SIZE[::-1]
    return samples


def test_drive(tmp_path: Path) -> None:
    """DRIVE's training half: twenty patients, each with mask and field of view."""
    drive(tmp_path)
    samples = prepared(tmp_path, "DRIVE", "DRIVE/training")
    assert [s.patient for s in samples] == [str(i) for i in range(21, 41)]
    assert all(isinstance(s.mask, Path) and s.fov is not None for s in samples)
    assert {s.mask.name[:2] == s.patient for s in samples if isinstance(s.mask, Path)} == {True}
    assert set(assign(samples, AutoSplit()).splits.values()) == {"train", "validation", "test"}


def test_stare(tmp_path: Path) -> None:
    """STARE: the first observer's masks alone, and a photograph without one stays unlabelled."""
    stare(tmp_path)
    samples = prepared(tmp_path, "STARE", "stare")
    assert len(samples) == 12
    assert [s.name for s in samples if s.mask is None] == ["im0003"]
    assert all(s.mask.name == f"{s.name}.ah.ppm" for s in samples if isinstance(s.mask, Path))


def test_hrf(tmp_path: Path) -> None:
    """HRF: forty-five patients, though their numbers repeat, each with mask and field of view."""
    hrf(tmp_path)
    samples = prepared(tmp_path, "HRF", "hrf")
    assert len({s.patient for s in samples}) == 45
    assert all(isinstance(s.mask, Path) and s.mask.stem == s.name for s in samples)
    assert all(s.fov is not None and s.fov.stem == f"{s.name}_mask" for s in samples)


def test_chase_db1(tmp_path: Path) -> None:
    """CHASE_DB1: both eyes of a child are one patient, and the first observer's mask is the truth."""
    chase(tmp_path)
    samples = prepared(tmp_path, "CHASE_DB1", "CHASEDB1")
    assert (len(samples), len({s.patient for s in samples})) == (28, 14)
    assert all(s.mask.name == f"{s.name}_1stHO.png" for s in samples if isinstance(s.mask, Path))
    sides = assign(samples, AutoSplit()).splits
    assert all(sides[f"Image_{i:02d}L"] == sides[f"Image_{i:02d}R"] for i in range(1, 15))


@pytest.mark.parametrize("title", ["DRIVE", "STARE", "HRF", "CHASE_DB1"])
def test_snippets_are_short(title: str) -> None:
    """A snippet has at most five lines besides its imports, as promised."""
    lines = [line for line in snippet(title)[-1].splitlines() if line and not line.startswith("import")]
    assert 0 < len(lines) <= 5


@pytest.mark.parametrize("block", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL), ids=["ours", "sa2va"])
def test_json_examples_are_read(tmp_path: Path, block: str) -> None:
    """The page's annotations.json examples load once their files are there."""
    for entry in json.loads(block):
        name = entry["image"] if "/" in entry["image"] else f"images/{entry['image']}"
        put(tmp_path / name)
        if isinstance(entry["mask"], str):
            put(tmp_path / entry["mask"], mask=True)
    (tmp_path / "annotations.json").write_text(block)
    assert len(read_folder(tmp_path)) == len(json.loads(block))


def test_keys_and_endings_are_documented() -> None:
    """Every key and every ending that the code knows stands in the page."""
    words = PAGE.lower()
    assert [e for e in {*KEYS, *MASK_ENDINGS, *FOV_ENDINGS} - {""} if f"`{e}`" not in words] == []
