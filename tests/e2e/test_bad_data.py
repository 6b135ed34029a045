"""Bad pictures through the real program: named together and exit 3, or left out and listed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from job import cli
from job.data import synthetic
from job.data.images import read_image, write_mask
from job.progress import SILENT
from tests.e2e.child import TINY, Job

CANARY = "CANARY-CAMERA-47"
GPS = 0x8825


def make(root: Path, seed: int, **counts: int) -> Path:
    sizes = {"train": 6, "validation": 4, "test": 5, "unlabelled": 0, **counts}
    synthetic.make_dataset(root, **sizes, size=64, seed=seed, annotation="all", progress=SILENT)
    for path in (root / "images").iterdir():
        tag_with_exif(path)
    return root


def tag_with_exif(path: Path) -> None:
    """Save a picture as a camera would: a JPEG, whatever its name, that says who took it and where."""
    exif = Image.Exif()
    exif[0x010F] = CANARY
    exif[GPS] = {1: "N", 2: (48.0, 8.0, 1.0), 29: CANARY}
    Image.fromarray(read_image(path)).save(path, format="JPEG", quality=95, exif=exif, comment=CANARY)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def settings(**values: Any) -> list[str]:
    return [word for path, value in values.items() for word in ("--set", f"{path}={json.dumps(value)}")]


def test_bad_images_are_left_out_and_listed_and_no_output_holds_exif(job: Job, tmp_path: Path) -> None:
    """The job ends well, and says what it did not use; more environments than images are no mistake."""
    data, other = make(tmp_path / "data", 0), make(tmp_path / "other", 1, train=0, validation=0, test=6)
    cut(data / "images" / "train_00003.png")
    write_mask(other / "masks" / "test_00002.png", np.ones((8, 8), bool))
    given = settings(
        **{
            "data.uri": str(data),
            "data.on_bad_image": "skip",
            "data.max_bad_share": 0.2,
            "evaluate.datasets": [{"name": "B", "uri": str(other)}],
            "finetune.n_envs": 8,
            "finetune.n_steps": 8,
            "runtime.threads": 1,
        }
    )
    done = job(TINY, *given, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.named("data.summary")[0]["images"] == {
        "train": 5,
        "validation": 4,
        "test": 5,
        "unlabelled": 0,
    }
    told = [(event["level"], event["dataset"], event["images"]) for event in done.named("data.bad_image")]
    assert told == [("warning", "data.uri", 1), ("warning", "evaluate.datasets B", 1)]
    assert "train_00003" not in done.stdout
    bad = [(one["dataset"], one["file"]) for one in done.info["data"]["bad_images"]]
    assert bad == [
        ("data.uri", "images/train_00003.png"),
        ("evaluate.datasets B", "masks/test_00002.png"),
    ]
    assert done.info["results"]["other_datasets"][0]["images"] == 5
    for report in ("report.html", "report.md"):
        text = (done.run / report).read_text()
        assert "images/train_00003.png" in text
        assert "has 8 x 8 pixels" in text
    files = [path for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert CANARY.encode() in (data / "images" / "train_00000.png").read_bytes()
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert [path for path in files if path.suffix == ".png" and Image.open(path).getexif()] == []


def test_bad_images_end_the_job_before_anything_is_learned(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3 and one message that names each, with advice; `dataset check` finds the same files."""
    data = make(tmp_path / "data", 0)
    names = ("train_00000", "test_00001")
    for name in names:
        cut(data / "images" / f"{name}.png")
    done = job(TINY, *settings(**{"data.uri": str(data)}), cwd=tmp_path)
    assert done.code == 3
    assert "2 of 15 images cannot be used" in done.stderr
    assert all(
        f"images/{name}.png: cannot be decoded" in done.stderr for name in ("train_00000", "test_00001")
    )
    assert "advice: mend them or take them out" in done.stderr
    assert [event["stage"] for event in done.named("stage.started")] == ["pull"]
    assert cli.main(["dataset", "check", str(data)]) == 3
    assert capsys.readouterr().out.count("cannot be decoded") == 2


def test_two_datasets_of_one_name_are_no_valid_spec(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 from `validate`: nothing has to be looked for to know it."""
    datasets = [{"name": "B", "uri": "a"}, {"name": "b", "uri": "c"}]
    assert cli.main(["validate", TINY, *settings(**{"evaluate.datasets": datasets})]) == 2
    assert "evaluate.datasets[1].name: repeats the name of datasets[0]" in capsys.readouterr().err


def test_a_plan_finds_what_a_run_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without images, and a side that the patients do not fill, end `plan` with 3 and advice."""
    (tmp_path / "empty").mkdir()
    place = {"output.uri": str(tmp_path / "output")}
    assert cli.main(["plan", TINY, *settings(**{"data.uri": str(tmp_path / "empty"), **place})]) == 3
    assert "holds no image" in capsys.readouterr().err
    data = make(tmp_path / "data", 0, train=2, validation=0, test=0)
    assert cli.main(["plan", TINY, *settings(**{"data.uri": str(data), **place})]) == 3
    told = capsys.readouterr().err
    assert "no annotated image is left for validation and test" in told
    assert "three patients with annotated images are needed" in told
