"""pull: splits, and held-out pictures that were seen before."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from job.data import synthetic
from job.device import Machine
from job.errors import InputError
from job.inputs import Inputs
from job.progress import SILENT
from job.segmenters.cache import SegmentationCache
from job.spec.job import JobSpec
from job.stages import pull
from job.stages.stage import StageContext, StageResult, action_space, compute


def make_folder(root: Path, *, seed: int = 0, **counts: int) -> Path:
    synthetic.make_dataset(
        root, **{"train": 3, "validation": 2, "test": 2, "unlabelled": 1, **counts}, size=64, seed=seed,
        annotation="all", progress=SILENT,
    )  # fmt: skip
    return root


def context_of(folder: Path | None, tmp_path: Path, others: dict[str, Path], **data: Any) -> StageContext:
    """All that pull looks at; it needs neither a segmenter nor a machine."""
    place = {"uri": str(folder)} if folder else {}
    spec = JobSpec.model_validate({"name": "x", "data": {**place, **data}})
    inputs = Inputs(folder, None, tmp_path, None, None, others)
    log = cast("Any", structlog.testing.CapturingLogger())
    nothing = cast("Any", None)
    return StageContext(
        spec=spec, inputs=inputs, done={}, machine=cast("Machine", nothing), space=action_space(spec),
        segmentations=cast("SegmentationCache", nothing), rows=nothing, progress=SILENT, log=log,
    )  # fmt: skip


def pulled(context: StageContext, tmp_path: Path) -> tuple[StageContext, StageResult]:
    """Run the stage and give it to those after it."""
    done = compute(pull.STAGE, context, tmp_path / "stages", pull.STAGE.fingerprint(context))
    return replace(context, done={"pull": done}), done


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data")


def copy_picture(folder: Path, original: str, copy: str) -> None:
    (folder / "images" / f"{copy}.png").write_bytes((folder / "images" / f"{original}.png").read_bytes())


def test_a_clean_dataset_has_no_copies_across_its_sides(data: Path, tmp_path: Path) -> None:
    """Every held-out picture is on record with what it resembles most, far from a copy."""
    context, done = pulled(context_of(data, tmp_path, {}), tmp_path)
    leaks = pull.load_leaks(context)
    across = [leak for leak in leaks if leak.held_out_split != leak.seen_split]
    assert {leak.held_out for leak in across} == {
        f"{s}_{i:05d}" for s in ("validation", "test") for i in (0, 1)
    }
    assert max(leak.similarity for leak in leaks) < context.spec.checks.max_image_similarity - 0.15
    assert set(done.outputs) == {"train", "validation", "test", "unlabelled", "leaks"}
    sides = json.loads((done.folder / "splits.json").read_text())
    assert sides == {sample.name: sample.split for sample in pull.open_dataset(context).samples}


@pytest.mark.parametrize(
    ("original", "copy"),
    [
        ("unlabelled_00000", "test_00001"),
        ("train_00002", "validation_00000"),
        ("validation_00001", "test_00000"),
    ],
)
def test_a_copy_is_recorded_for_the_audit(data: Path, tmp_path: Path, original: str, copy: str) -> None:
    """A picture under two names is no error of pull: both names and their sides go to check split_leak."""
    before = pulled(context_of(data, tmp_path, {}), tmp_path)[1]
    copy_picture(data, original, copy)
    context, done = pulled(context_of(data, tmp_path, {}), tmp_path)
    worst = pull.load_leaks(context)[0]
    assert (worst.held_out, worst.seen, worst.similarity) == (copy, original, 1.0)
    assert (worst.held_out_split, worst.seen_split) == (copy.split("_")[0], original.split("_")[0])
    changed = {name for name in done.outputs if done.outputs[name] != before.outputs[name]}
    assert changed == {copy.split("_")[0], "leaks"}


def test_further_datasets_are_compared_and_opened(data: Path, tmp_path: Path) -> None:
    """A picture of theirs that was learned from is a leak; all their annotated images count as test."""
    other = make_folder(tmp_path / "other", seed=1)
    (other / "images" / "train_00001.png").write_bytes((data / "images" / "train_00000.png").read_bytes())
    context, done = pulled(context_of(data, tmp_path, {"B": other}), tmp_path)
    worst = pull.load_leaks(context)[0]
    assert (worst.held_out, worst.held_out_split) == ("train_00001", "other:B")
    assert (worst.seen, worst.seen_split, worst.similarity) == ("train_00000", "train", 1.0)
    assert "other:B" in done.outputs
    opened = pull.open_other(context, "B")
    assert {sample.split for sample in opened.samples} == {"test"}
    assert len(opened.samples) == 7
    assert all(opened.load(sample).truth is not None for sample in opened.samples)


def test_a_further_dataset_without_masks_is_refused(data: Path, tmp_path: Path) -> None:
    """There is nothing to judge by, and that is said before anything is learned."""
    other = make_folder(tmp_path / "other", train=0, validation=0, test=0)
    with pytest.raises(InputError, match=r"evaluate\.datasets: B .* has no image with a mask"):
        pull.STAGE.fingerprint(context_of(data, tmp_path, {"B": other}))


def test_a_further_dataset_changes_the_key_and_no_split(data: Path, tmp_path: Path) -> None:
    """What was learned stays: the splits' digests are the same with it and without."""
    other = make_folder(tmp_path / "other", seed=1)
    alone = pulled(context_of(data, tmp_path, {}), tmp_path)[1]
    beside = pulled(context_of(data, tmp_path, {"B": other}), tmp_path)[1]
    assert alone.fingerprint != beside.fingerprint
    for split in ("train", "validation", "test", "unlabelled"):
        assert alone.outputs[split] == beside.outputs[split]


def test_an_unreadable_picture_is_named(data: Path, tmp_path: Path) -> None:
    """Exit code 3 with the file, before anything is learned."""
    (data / "images" / "test_00001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"test_00001\.png: cannot be decoded"):
        pulled(context_of(data, tmp_path, {}), tmp_path)


def test_synthetic_images_are_made_and_compared(tmp_path: Path) -> None:
    """They come with their split, and no two look alike."""
    made = {"train": 3, "validation": 2, "test": 2, "size": 64}
    context, done = pulled(context_of(None, tmp_path, {}, synthetic=made), tmp_path)
    assert len(pull.open_dataset(context).of("test")) == 2
    assert (done.folder / pull.LEAKS_FILE).is_file()
    assert all(leak.similarity < 0.6 for leak in pull.load_leaks(context))
