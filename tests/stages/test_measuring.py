"""Masks of every rung, measured on images with a truth."""

import subprocess
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
from PIL import Image

from job import table_bounds, workers
from job.actions import apply
from job.data import synthetic
from job.data.dataset import Dataset, read_folder
from job.data.features import estimate_field
from job.data.images import read_mask
from job.evaluation.conventions import INSIDE, NATIVE, SCORING, WHOLE
from job.progress import SILENT
from job.reward.terms import METRICS, measure
from job.stages.measuring import keeping_masks, kept_masks, mask_of, measure_masks
from tests.stages.made_up_stages import finished, spec_of

CHOSEN = {"noop": np.zeros(2, np.int64), "best_fixed": np.full(2, 3), "ridge": np.array([1, 2])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    synthetic.make_dataset(
        tmp_path / "data", train=0, validation=0, test=2, unlabelled=0, size=64, seed=0, annotation="all",
        progress=SILENT,
    )  # fmt: skip
    return tmp_path / "data"


@pytest.mark.parametrize("width", [None, 32])
def test_every_rung_is_measured_on_the_mask_of_its_action(
    folder: Path, tmp_path: Path, width: int | None
) -> None:
    """As applying its action and measuring it alone says, on the grid of the working width."""
    context = finished(tmp_path / "run", spec_of())
    dataset = Dataset(read_folder(folder), width)
    found = measure_masks(context, dataset, dataset.samples, CHOSEN, "ridge")
    for i, sample in enumerate(dataset.samples):
        loaded = dataset.load(sample)
        assert loaded.truth is not None
        size = loaded.truth.shape
        logits_PHW = context.segmentations.get([loaded.image])[0].logits_PHW
        for name, actions_N in CHOSEN.items():
            mask = apply(context.space, int(actions_N[i]), logits_PHW, (size[0], size[1]))
            alone = measure(mask[None], loaded.truth)
            assert {m: found.metrics[name][m][i] for m in METRICS} == {m: alone[m][0] for m in METRICS}
            inside = loaded.fov if loaded.fov is not None else estimate_field(loaded.image)
            tp = int((mask & loaded.truth).sum())
            assert found.counts[WHOLE, SCORING, name][i, 0] == tp
            assert found.counts[INSIDE, SCORING, name][i].sum() == inside.sum()
            assert found.counts[WHOLE, SCORING, name][i].sum() == mask.size


def test_processes_measure_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more cores than threads can use and work that is worth it."""
    context = finished(tmp_path / "run", spec_of())
    dataset = Dataset(read_folder(folder), 32)
    alone = measure_masks(context, dataset, dataset.samples, CHOSEN, "ridge")
    processes = Mock(side_effect=workers.processes)
    monkeypatch.setattr(workers, "processes", processes)
    monkeypatch.setattr(table_bounds, "WORTH_PROCESSES", 1)
    many = replace(context, machine=replace(context.machine, threads=5))
    found = measure_masks(many, dataset, dataset.samples, CHOSEN, "ridge")
    assert processes.mock_calls == [call(5)]
    assert found.pixels == alone.pixels
    for name, by_metric in alone.metrics.items():
        for metric, values in by_metric.items():
            np.testing.assert_array_equal(found.metrics[name][metric], values)
    for key, counts in alone.counts.items():
        np.testing.assert_array_equal(found.counts[key], counts)


def test_native_resolution_is_counted_where_images_are_resized(folder: Path, tmp_path: Path) -> None:
    """Against the truth as it was drawn; where nothing is resized the rows would be the same twice."""
    context = finished(tmp_path / "run", spec_of())
    samples = read_folder(folder)
    own = measure_masks(context, Dataset(samples), samples, CHOSEN, "ridge")
    assert {resolution for _, resolution, _ in own.counts} == {SCORING}
    small = Dataset(samples, 32)
    found = measure_masks(context, small, samples, CHOSEN, "ridge")
    for i, sample in enumerate(samples):
        truth = Dataset(samples).load(sample).truth
        assert truth is not None
        image = small.load(sample).image
        logits_PHW = context.segmentations.get([image])[0].logits_PHW
        mask = apply(context.space, 3, logits_PHW, (32, 32)).repeat(2, axis=0).repeat(2, axis=1)
        wanted = [mask & truth, mask & ~truth, ~mask & truth, ~mask & ~truth]
        np.testing.assert_array_equal(
            found.counts[WHOLE, NATIVE, "best_fixed"][i], [part.sum() for part in wanted]
        )


def test_what_ships_and_is_the_no_op_is_counted_once(folder: Path, tmp_path: Path) -> None:
    """A row of conventions names each candidate once."""
    context = finished(tmp_path / "run", spec_of())
    samples = read_folder(folder)
    found = measure_masks(context, Dataset(samples), samples, CHOSEN, "noop")
    assert sorted(found.counts) == sorted(
        (r, SCORING, c) for r in (WHOLE, INSIDE) for c in ("noop", "best_fixed")
    )


def test_digests_tell_images_and_truths_apart(folder: Path, tmp_path: Path) -> None:
    """Equal pixels and truth have equal digests in any run; another truth is another image to judge on."""
    context = finished(tmp_path / "run", spec_of())
    samples = read_folder(folder)
    first = measure_masks(context, Dataset(samples), samples, CHOSEN, "noop").pixels
    again = measure_masks(context, Dataset(samples[::-1]), samples[::-1], CHOSEN, "noop").pixels
    assert again == first[::-1]
    assert len(set(first)) == 2
    mixed = [replace(samples[0], mask=samples[1].mask)]
    one = {name: actions_N[:1] for name, actions_N in CHOSEN.items()}
    assert measure_masks(context, Dataset(mixed), mixed, one, "noop").pixels[0] not in first


def test_masks_before_and_after_are_kept_as_pictures(folder: Path, tmp_path: Path) -> None:
    """The no-op's and what ships, bit for bit, in one archive that `tar -xf` takes apart."""
    context = replace(finished(tmp_path / "run", spec_of()), folder=tmp_path / "out")
    context.folder.mkdir()
    dataset = Dataset(read_folder(folder))
    with keeping_masks(context.folder) as keep:
        measure_masks(context, dataset, dataset.samples, CHOSEN, "ridge", keep)
    kept = kept_masks(context.folder)
    assert len(kept) == 2 * len(dataset.samples)
    subprocess.run(["tar", "-xf", "masks.tar"], cwd=context.folder, check=True)
    for i, sample in enumerate(dataset.samples):
        logits_PHW = context.segmentations.get([dataset.load(sample).image])[0].logits_PHW
        for side, action in (("before", 0), ("after", int(CHOSEN["ridge"][i]))):
            mask = apply(context.space, action, logits_PHW, (64, 64))
            np.testing.assert_array_equal(mask_of(kept[side, sample.name]), mask)
            path = context.folder / side / f"{sample.name}.png"
            np.testing.assert_array_equal(read_mask(path), mask)
            with Image.open(path) as picture:
                assert picture.mode == "1"


def test_equal_masks_make_equal_archives(folder: Path, tmp_path: Path) -> None:
    """No time, no owner, no order of the disk: whoever runs the stage again has the same bytes."""
    context = finished(tmp_path / "run", spec_of())
    dataset = Dataset(read_folder(folder))
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        with keeping_masks(tmp_path / place) as keep:
            measure_masks(context, dataset, dataset.samples, CHOSEN, "ridge", keep)
    one, other = ((tmp_path / place / "masks.tar").read_bytes() for place in ("one", "other"))
    assert one == other
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["masks.tar"]
