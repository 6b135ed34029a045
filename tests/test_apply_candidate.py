"""`evaluate` and `predict` where no model is needed; tests/e2e has them whole."""

import csv
import io
import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import apply_candidate
from job.apply_candidate import evaluate, predict
from job.candidate_segmenter import Opening, open_segmenter
from job.data.images import read_mask, write_image
from job.errors import InputError, SpecError
from job.evaluation.candidate import Candidate, CandidateFile
from job.exchange import Inbox
from job.logs import Output
from job.measurement import Measurement
from job.metrics.statistics import paired_uplift, t_interval
from job.places import CACHE_VARIABLE
from job.progress import SILENT
from job.reward.terms import METRICS
from job.segmenters import content_key, file_digests
from job.spec.segmenter import ClipsegSpec, PromptableUNetSpec
from job.storage.uris import open_store
from tests.segmenters.fakes import FakeSegmenter, photographs
from tests.segmenters.text_prompted import tiny


def measurement(n: int, seen: int = 0) -> Measurement:
    before, after = np.linspace(0.6, 0.7, n), np.linspace(0.65, 0.76, n)
    intervals = [{metric: t_interval(values) for metric in METRICS} for values in (before, after)]
    uplift = paired_uplift(after, before, [str(i) for i in range(n)])
    return Measurement("ppo: chooses", "data", n, seen, intervals[0], intervals[1], uplift)


def test_the_answer_for_programs_is_strict_json() -> None:
    """One image has infinite intervals: null, which every reader understands."""
    text = json.dumps(measurement(1).to_json(), allow_nan=False)
    answer = json.loads(text)
    assert answer["uplift"]["low"] is None
    assert answer["uplift"]["sd"] is None
    assert answer["after"]["dice"]["mean"] == 0.65
    assert math.isinf(measurement(1).uplift.low)


def test_the_answer_for_people_comes_first_and_warns() -> None:
    """Dice before and after in the second line; images that shaped the candidate are not new patients."""
    lines = measurement(3, seen=2).to_text().splitlines()
    assert lines[1].startswith("Dice 0.650 -> 0.705 (+0.055, ")
    assert "2 of these images shaped the candidate" in lines[2]
    assert "WARNING" not in measurement(3).to_text()


def test_intervals_of_shares_end_at_0_and_1_and_one_patient_has_none() -> None:
    """Student's t goes beyond for few patients, and is infinite for one."""
    two = measurement(2)
    assert two.after["dice"].high > 1
    assert two.after["dice"].low > 0
    row = next(line for line in two.to_text().splitlines() if line.startswith("dice"))
    assert row.endswith(f"{two.after['dice'].low:.3f} to 1.000")
    one = measurement(1).to_text()
    assert "inf" not in one
    assert "(+0.050, one patient: no interval; 1 better" in one
    row = next(line for line in one.splitlines() if line.startswith("dice"))
    assert row.split(maxsplit=3) == ["dice", "0.600", "0.650", "one patient: no interval"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that takes action 0 of a fake segmenter, and thinks every mask good."""
    file = CandidateFile(
        name="noop", verdict="improved", segmenter=PromptableUNetSpec(), segmenter_key="0" * 64, width=None,
        prompts=["vessels"], postprocess=[{"threshold": 0.5}], chooser="fixed", action=0,
        interval_halfwidth=0.1, confidence=0.9, review_below=0.5, trained_on=[],
    )  # fmt: skip
    shown = Candidate(file, lambda _, masks_BHW: np.full(len(masks_BHW), 0.8))
    monkeypatch.setattr(apply_candidate, "_open", lambda *_: shown)
    monkeypatch.setattr(apply_candidate, "open_segmenter", lambda *_: FakeSegmenter())


def rows_of(output: Path) -> list[dict[str, Any]]:
    with (output / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("opened")
def test_one_unreadable_image_does_not_cost_the_others(tmp_path: Path) -> None:
    """The rest have masks and rows, the bad one has its error, and the end is no success."""
    for name, image in zip(("a", "b", "c"), photographs(3), strict=True):
        write_image(tmp_path / "in" / f"{name}.png", image)
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 of 3 images .* b\.png") as caught:
        predict("x", str(tmp_path / "in"), str(tmp_path / "out"), device="cpu")
    assert caught.value.exit_code == 3
    good, bad, last = rows_of(tmp_path / "out")
    assert [row["image"] for row in (good, bad, last)] == ["a.png", "b.png", "c.png"]
    assert "cannot be decoded" in bad.pop("error")
    assert set(bad.values()) == {"b.png", ""}
    for row in (good, last):
        assert row["error"] == ""
        assert (row["quality"], row["low"], row["high"], row["review"]) == ("0.8000", "0.7000", "0.9000", "0")
        assert read_mask(tmp_path / "out" / row["mask"]).shape == (12, 16)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "c.png", "predictions.csv"}


@pytest.mark.usefixtures("opened")
def test_images_are_named_by_their_path_below_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal names in sub-folders can be told apart, also through a link; a single image has its name."""
    first, second = photographs(2)
    write_image(tmp_path / "in" / "images" / "left" / "eye.png", first)
    write_image(tmp_path / "in" / "images" / "right" / "eye.png", second)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    summary = predict("x", str(tmp_path / "link"), str(tmp_path / "out"), device="cpu")
    assert summary.startswith("2 masks")
    rows = rows_of(tmp_path / "out")
    assert [row["image"] for row in rows] == ["images/left/eye.png", "images/right/eye.png"]
    assert len({row["mask"] for row in rows}) == 2
    monkeypatch.chdir(tmp_path / "in" / "images" / "left")
    predict("x", "eye.png", str(tmp_path / "one"), device="cpu")
    assert [row["image"] for row in rows_of(tmp_path / "one")] == ["eye.png"]


def test_synthetic_images_are_no_folder_to_evaluate() -> None:
    """The kind of data that a spec may name is told how to become a folder."""
    with pytest.raises(SpecError, match="--data: synthetic:fundus") as caught:
        evaluate("x", "synthetic:fundus", max_samples=None, device="cpu")
    assert "dataset make" in caught.value.advice


@pytest.mark.usefixtures("opened")
def test_a_mask_never_replaces_an_image(tmp_path: Path) -> None:
    """Into the folder of the images, masks would overwrite the PNGs among them: refused before any work."""
    image = tmp_path / "eye.png"
    write_image(image, np.zeros((4, 4, 3), np.uint8))
    before = image.read_bytes()
    for images in (tmp_path, image):
        with pytest.raises(InputError, match=r"eye\.png") as caught:
            predict("x", str(images), f"{tmp_path}/.", device="cpu")
        assert "another folder" in caught.value.advice
    assert image.read_bytes() == before


def test_missing_images_are_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    """Each with what to do: nothing there, no folder, no mask."""
    with pytest.raises(InputError, match="does not exist"):
        predict("x", str(tmp_path / "nowhere"), str(tmp_path / "out"), device="cpu")
    with pytest.raises(InputError, match="is not a folder"):
        evaluate("x", str(tmp_path / "nowhere"), max_samples=None, device="cpu")


@pytest.mark.usefixtures("opened")
def test_images_without_masks_measure_nothing(tmp_path: Path) -> None:
    """The verb for them is another one."""
    write_image(tmp_path / "eye.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="no image has a mask"):
        evaluate("x", str(tmp_path), max_samples=None, device="cpu")


@pytest.mark.usefixtures("opened")
def test_images_and_masks_may_be_in_a_store(
    tmp_path: Path, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks come before the table; what cannot be read costs no other image, there as here."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    store = open_store(s3_prefix)
    for key, image in zip(("in/images/left/a.png", "in/images/b.png"), photographs(2), strict=True):
        write_image(tmp_path / key, image)
        store.write(key, (tmp_path / key).read_bytes())
    summary = predict("x", f"{s3_prefix}/in/", f"{s3_prefix}/out", device="cpu")
    assert summary == f"2 masks and predictions.csv in {s3_prefix}/out; 0 flagged for review"
    rows = list(csv.DictReader(io.StringIO(store.read("out/predictions.csv")[0].decode())))
    assert {row["image"] for row in rows} == {"images/left/a.png", "images/b.png"}
    assert {stat.key for stat in store.entries("out/")} == {
        "out/predictions.csv", *(f"out/{row['mask']}" for row in rows),
    }  # fmt: skip
    predict("x", f"{s3_prefix}/in/images/b.png", str(tmp_path / "one"), device="cpu")
    assert [row["image"] for row in rows_of(tmp_path / "one")] == ["b.png"]
    store.write("in/images/b.png", b"no picture")
    with pytest.raises(InputError, match=r"1 of 2 images .* images/b\.png"):
        predict("x", f"{s3_prefix}/in", f"{s3_prefix}/again", device="cpu")
    (bad,) = [
        row for row in csv.DictReader(io.StringIO(store.read("again/predictions.csv")[0].decode()))
        if row["error"]
    ]  # fmt: skip
    assert bad["error"].startswith(f"{s3_prefix}/in/images/b.png: cannot be decoded")


def test_nothing_is_fetched_for_a_candidate_or_an_output_that_is_no_use(
    tmp_path: Path, s3_prefix: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Images may be many: the candidate comes first, then the place to write to."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    open_store(s3_prefix).write("in/eye.png", b"x")
    for call in (
        lambda: predict(str(tmp_path / "none"), f"{s3_prefix}/in", str(tmp_path / "out"), device="cpu"),
        lambda: evaluate(str(tmp_path / "none"), f"{s3_prefix}/in", max_samples=None, device="cpu"),
    ):
        with pytest.raises(InputError, match=str(tmp_path / "none")):
            call()
    request.getfixturevalue("opened")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is not a folder"):
        predict("x", f"{s3_prefix}/in", str(tmp_path / "file"), device="cpu")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("opened")
def test_a_mask_never_replaces_an_image_of_a_store(
    tmp_path: Path, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder and a single image of it; beside it is fine."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    store = open_store(s3_prefix)
    write_image(tmp_path / "eye.png", photographs(1)[0])
    before = (tmp_path / "eye.png").read_bytes()
    store.write("in/eye.png", before)
    for images in ("in", "in/", "in/eye.png"):
        with pytest.raises(InputError, match=r"in/eye\.png is an image to segment"):
            predict("x", f"{s3_prefix}/{images}", f"{s3_prefix}/in/", device="cpu")
    assert [(stat.key, store.read(stat.key)[0]) for stat in store.entries()] == [("in/eye.png", before)]


@pytest.mark.usefixtures("opened")
def test_a_dataset_in_a_store_is_measured(
    tmp_path: Path, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the same folder on this disk is."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    store = open_store(s3_prefix)
    for i, image in enumerate(photographs(2)):
        write_image(tmp_path / "data" / "images" / f"{i}.png", image)
        mask = np.where(image[..., 0] > 128, 255, 0).astype(np.uint8)
        write_image(tmp_path / "data" / "masks" / f"{i}.png", mask)
    for path in (tmp_path / "data").rglob("*.png"):
        store.write(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    far, here = (
        evaluate("x", data, max_samples=None, device="cpu")
        for data in (f"{s3_prefix}/data", str(tmp_path / "data"))
    )
    assert far.images == 2
    assert far == replace(here, data=f"{s3_prefix}/data")


def test_weights_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To see that it is the segmenter of the run, and for its key."""
    folder = tiny.make(tmp_path / "model", "clipseg")
    spec = ClipsegSpec(kind="clipseg", uri=str(folder))
    key = content_key(spec, folder)
    hashed: list[str] = []
    sha256 = file_digests.sha256_file
    monkeypatch.setattr(file_digests, "sha256_file", lambda path: hashed.append(path.name) or sha256(path))
    file = CandidateFile(
        name="noop", verdict="improved", segmenter=spec, segmenter_key=key, width=None, prompts=["vessels"],
        postprocess=[{"threshold": 0.5}], chooser="fixed", action=0, interval_halfwidth=0.1, confidence=0.9,
        review_below=0.5, trained_on=[],
    )  # fmt: skip
    candidate = Candidate(file, lambda _, masks_BHW: np.full(len(masks_BHW), 0.8))
    reporting = Output(stream=io.StringIO())
    with closing(Inbox(SILENT, reporting.log)) as inbox:
        segmenter = open_segmenter(candidate, "x", Opening(), "cpu", inbox, reporting, {})
    assert segmenter.key == key
    assert sorted(hashed) == sorted(path.name for path in folder.iterdir())
