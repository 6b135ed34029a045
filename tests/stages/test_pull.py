"""pull: splits, and held-out pictures that were seen before."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import structlog

from job.data import synthetic
from job.data.images import write_image, write_mask
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
        spec=spec, inputs=inputs, done={}, machine=Machine("cpu", "a processor", 1), space=action_space(spec),
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


def test_bad_files_of_a_folder_are_named_together(data: Path, tmp_path: Path) -> None:
    """Images and masks in one message, with how to see all of them or to go on without."""
    (data / "images" / "train_00001.png").write_bytes(b"no picture")
    write_mask(data / "masks" / "test_00000.png", np.ones((8, 8), bool))
    with pytest.raises(InputError) as caught:
        pulled(context_of(data, tmp_path, {}), tmp_path)
    message = str(caught.value)
    assert message.startswith("data.uri: 2 of 8 images cannot be used:\n")
    assert f"{data}/images/train_00001.png: cannot be decoded" in message
    assert f"{data}/masks/test_00000.png: has 8 x 8 pixels, test_00000.png has 64 x 64" in message
    assert "dataset check" in caught.value.advice
    assert "data.on_bad_image" in caught.value.advice


SKIP = {"on_bad_image": "skip", "max_bad_share": 0.2}


def test_bad_images_may_be_left_out_and_no_other_moves(data: Path, tmp_path: Path) -> None:
    """One event counts them; names come at debug level alone; sides and names of the others stay."""
    sides_before = sides_of(pulled(context_of(data, tmp_path, {}, **SKIP), tmp_path)[1])
    (data / "images" / "train_00001.png").write_bytes(b"no picture")
    context, done = pulled(context_of(data, tmp_path, {}, **SKIP), tmp_path)
    assert sides_of(done) == {k: v for k, v in sides_before.items() if k != "train_00001"}
    assert "train_00001" not in {sample.name for sample in pull.open_dataset(context).samples}
    (bad,) = pull.load_bad(context)
    assert (bad.dataset, bad.name, bad.file) == ("data.uri", "train_00001", "images/train_00001.png")
    told = told_by(context)
    assert ("warning", "data.bad_image", {"dataset": "data.uri", "images": 1, "of": 8}) in told
    assert [level for level, _, fields in told if "train_00001" in str(fields)] == ["debug"]
    assert len(pull.load_sizes(context)) == 7


def test_more_bad_images_than_allowed_end_the_job(data: Path, tmp_path: Path) -> None:
    """The bound counts the images of each data set by itself, and belongs to the stage's key."""
    strict, lax = (
        context_of(data, tmp_path, {}, on_bad_image="skip", max_bad_share=share) for share in (0.1, 0.2)
    )
    (data / "images" / "train_00001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 of 8 images .*, more than data\.max_bad_share 0\.1 allows"):
        pulled(strict, tmp_path)
    pulled(lax, tmp_path)
    with pytest.raises(InputError, match="more than"):
        pulled(strict, tmp_path)


def test_a_side_is_not_filled_from_others_when_its_images_are_bad(tmp_path: Path) -> None:
    """Leaving out the only test image ends the job: a broken file never changes who is on which side."""
    data = make_folder(tmp_path / "data", train=6, test=1)
    (data / "images" / "test_00000.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"no annotated image is left for test without the 1 of no use"):
        pulled(context_of(data, tmp_path, {}, **SKIP), tmp_path)


def test_further_and_unlabelled_datasets_are_looked_at_too(data: Path, tmp_path: Path) -> None:
    """A bad mask of a further dataset is found before anything is learned, so is an unlabelled image."""
    other = make_folder(tmp_path / "other", seed=1, unlabelled=0)
    more = make_folder(tmp_path / "more", seed=2)
    (other / "masks" / "train_00000.png").write_bytes(b"no picture")
    (more / "images" / "train_00000.png").write_bytes(b"no picture")
    (more / "masks" / "train_00001.png").write_bytes(b"nobody reads the mask of an unlabelled image")
    context = context_of(data, tmp_path, {"B": other}, **SKIP)
    context = replace(context, inputs=replace(context.inputs, unlabelled=more))
    context, _ = pulled(context, tmp_path)
    found = [(bad.dataset, bad.file) for bad in pull.load_bad(context)]
    assert found == [
        ("data.unlabelled_uri", "images/train_00000.png"),
        ("evaluate.datasets B", "masks/train_00000.png"),
    ]
    assert "train_00000" not in {sample.name for sample in pull.open_other(context, "B").samples}
    assert "train_00000" in {sample.name for sample in pull.open_dataset(context).of("train")}
    (other / "masks" / "train_00001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"evaluate\.datasets B: 2 of 7 images cannot be used, more than"):
        pull.STAGE.run(replace(context, done={}, folder=tmp_path))


def test_empty_and_grey_masks_are_counted_and_a_side_of_empty_ones_ends_the_job(
    data: Path, tmp_path: Path
) -> None:
    """Without any structure there is nothing to learn from, or to judge by: said now, not after hours."""
    for i in range(2):
        write_mask(data / "masks" / f"train_{i:05d}.png", np.zeros((64, 64), bool))
    grey = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    write_image(data / "masks" / "validation_00000.png", grey)
    context, _ = pulled(context_of(data, tmp_path, {}), tmp_path)
    warnings = [fields["message"] for level, _, fields in told_by(context) if level == "warning"]
    assert [warning.partition(" (")[0].partition(":")[2].strip() for warning in warnings] == [
        "1 of 7 masks have grey levels: what exceeds half of the highest counts; `dataset check` names them",
        "2 of 7 masks are empty",
    ]
    for i in range(2):
        write_mask(data / "masks" / f"test_{i:05d}.png", np.zeros((64, 64), bool))
    with pytest.raises(InputError, match="masks of all 2 test images are empty"):
        pulled(context_of(data, tmp_path, {}), tmp_path)


@pytest.mark.parametrize(("n", "words"), [(1, "1 patient has"), (2, "2 patients have")])
def test_one_or_two_images_are_not_enough(tmp_path: Path, n: int, words: str) -> None:
    """Three patients are needed, one for each side; the message counts what there is."""
    data = make_folder(tmp_path / "data", train=n, validation=0, test=0, unlabelled=0)
    (data / "annotations.json").unlink()
    with pytest.raises(InputError, match=f"{words} annotated images") as caught:
        pulled(context_of(data, tmp_path, {}), tmp_path)
    assert "three patients" in caught.value.advice


def sides_of(done: StageResult) -> dict[str, str]:
    sides: dict[str, str] = json.loads((done.folder / pull.SPLITS_FILE).read_text())
    return sides


def told_by(context: StageContext) -> list[tuple[str, str, dict[str, Any]]]:
    calls = cast("structlog.testing.CapturingLogger", context.log).calls
    return [(call.method_name, call.args[0], call.kwargs) for call in calls]


def test_synthetic_images_are_made_and_compared(tmp_path: Path) -> None:
    """They come with their split, and no two look alike."""
    made = {"train": 3, "validation": 2, "test": 2, "size": 64}
    context, done = pulled(context_of(None, tmp_path, {}, synthetic=made), tmp_path)
    assert len(pull.open_dataset(context).of("test")) == 2
    assert (done.folder / pull.LEAKS_FILE).is_file()
    assert all(leak.similarity < 0.6 for leak in pull.load_leaks(context))
