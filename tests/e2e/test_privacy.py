"""Who and what is in the pictures: not in the lines of a log and, where the spec says so, in no picture."""

import json
from pathlib import Path

import pytest
from PIL import Image

from job.data.annotations import ANNOTATIONS
from job.data.synthetic import make_dataset
from job.progress import SILENT
from tests.e2e.child import TINY, Finished, Job, run_job

EXIF = "canary-exif-operator"
IMAGE, PATIENT = "canary-image", "canary-patient"
ARTIST = 0x013B
PICTURES = (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"WEBPVP8", b"data:image")
"""How PNG, JPEG and WebP begin, in a file of their own or in an archive, and pictures within a page."""


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Photographs with EXIF, named and annotated by what nobody must read in a log."""
    folder = tmp_path / "data"
    make_dataset(
        folder, train=8, validation=0, test=4, unlabelled=0, size=64, seed=0, annotation="all",
        progress=SILENT,
    )  # fmt: skip
    entries = json.loads((folder / ANNOTATIONS).read_text())
    exif = Image.Exif()
    exif[ARTIST] = EXIF
    for number, entry in enumerate(entries):
        entry |= {"patient": f"{PATIENT}-{number}", "split": None, "fov": None}
        with Image.open(folder / entry["image"]) as image:
            image.convert("RGB").save(
                folder / "images" / f"{IMAGE}-{number}.jpg", quality=95, exif=exif.tobytes(), comment=EXIF
            )
        (folder / entry["image"]).unlink()
        entry["image"] = f"images/{IMAGE}-{number}.jpg"
    (folder / ANNOTATIONS).write_text(json.dumps(entries))
    return folder


def folded(place: Path, data: Path, *more: str) -> Finished:
    """Run a process of its own, of which all is read that it writes anywhere."""
    split = json.dumps({"kind": "folds", "k": 3})
    return run_job(
        TINY, "--set", f"data.uri={data}", "--set", f"data.split={split}", "--set", "runtime.threads=1",
        "--set", "finetune.total_timesteps=16", "--set", "finetune.seeds=1", *more, cwd=place,
    )  # fmt: skip


def test_a_run_that_shows_no_images_has_none_and_its_log_names_nobody(tmp_path: Path, private: Path) -> None:
    """In folds and in the whole: no picture file, none within a page, no EXIF; the report says why.

    At level info no line has an image's or a patient's name; those are what the report's tables are for.
    """
    done = folded(tmp_path, private, "--set", "report.images=false")
    assert done.code == 0, done.stderr
    run = done.run
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {path.relative_to(run).as_posix() for path in files} > {"folds/1/report.html", "report.html"}
    for path in files:
        content = path.read_bytes()
        assert EXIF.encode() not in content
        assert not [magic for magic in PICTURES if magic in content], path
        if path.name == "report.html":
            assert b"left out" in content
            assert IMAGE.encode() in content  # figures of each image stay
    assert "left out" in (run / "report.md").read_text()
    lines = [*done.stdout.splitlines(), *(run / "job.log.jsonl").read_text().splitlines()]
    assert [line for line in lines if '"fold.started"' in line]
    assert not [line for line in lines if IMAGE in line or PATIENT in line]
    assert done.stderr == ""


def test_a_run_that_shows_images_copies_no_exif_and_at_level_debug_names_them(
    job: Job, private: Path
) -> None:
    """Pictures are drawn anew from pixels; names that info leaves out are one level below."""
    sides = {"test": (0, 1, 2, 3), "validation": (4, 5), "train": (6, 7, 8, 9)}
    named = {side: [f"{PATIENT}-{number}" for number in numbers] for side, numbers in sides.items()}
    split = json.dumps({"kind": "patients", **named})
    done = job(
        TINY, "--set", f"data.uri={private}", "--set", f"data.split={split}", "--set", "runtime.threads=1",
        "--set", "finetune.total_timesteps=16", "--set", "runtime.log_level=debug",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    files = [path for path in Path(done.run).parents[2].rglob("*") if path.is_file()]
    assert [path for path in files if b"\x89PNG" in path.read_bytes() and IMAGE.encode() in path.read_bytes()]
    assert b"data:image/webp" in (done.run / "report.html").read_bytes()
    assert not [path for path in files if EXIF.encode() in path.read_bytes()]
    (left_out,) = [event for event in done.named("names") if event["of"] == "data.left_out"]
    assert left_out["names"] == [f"{PATIENT}-{n}" for n in (10, 11)]
    naming = [event for event in done.events if IMAGE in str(event) or PATIENT in str(event)]
    assert {event["level"] for event in naming} == {"debug"}
