"""What evaluate leaves behind for later nights: the profile of the run's images."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from job.data import synthetic
from job.data.dataset import Dataset, read_folder
from job.data.images import pixel_digest
from job.evaluation.assess import Choices
from job.evaluation.drift import UNKNOWN
from job.progress import SILENT
from job.stages import evaluate
from job.stages.evaluate import _pixels, _profile, _shaping
from job.stages.stage import StageResult
from tests.stages.made_up_stages import finished, make_table, spec_of


def test_the_profile_holds_every_image_with_what_ships_made_of_the_held_out_ones(tmp_path: Path) -> None:
    """Actions on validation and test, Dice on test alone: on others it has learned, or there is no truth."""
    context = finished(tmp_path, spec_of())
    learned = make_table()
    test = replace(learned.rows([0, 1]), names=("t0", "t1"), splits=("test", "test"), patients=("r", "s"))
    pixels = {name: f"digest of {name}" for name in (*learned.names, *test.names)}
    choices = Choices(
        validation={"ridge": np.arange(6) % 4, "noop": np.zeros(6, np.int64)},
        test={"ridge": np.array([2, 1]), "noop": np.zeros(2, np.int64)},
    )
    found = _profile(context, pixels, learned, test, choices, "ridge", np.array([0.7, 0.8]))
    sides = ("train",) * 6 + ("validation",) * 6 + ("unlabelled",) * 2 + ("test",) * 2
    assert found.splits == sides
    assert found.pixels == tuple(pixels[name] for name in (*learned.names, *test.names))
    assert found.patients == (*learned.patients, "r", "s")
    np.testing.assert_array_equal(found.actions_N[6:12], np.arange(6) % 4)
    assert found.actions_N[14:].tolist() == [2, 1]
    assert set(found.actions_N[:6]) == set(found.actions_N[12:14]) == {UNKNOWN}
    assert np.isnan(found.dice_N[:14]).all()
    assert found.dice_N[14:].tolist() == [0.7, 0.8]
    np.testing.assert_array_equal(found.statistics_NS[:14], learned.statistics_NS)
    assert found.labels == tuple(action.label for action in context.space)
    assert found.statistic_names == learned.statistic_names


def test_images_are_told_by_their_pixels_at_the_working_width(tmp_path: Path) -> None:
    """All of them are remembered; what shaped the candidate is everything but the test images."""
    synthetic.make_dataset(
        tmp_path / "data", train=2, validation=1, test=2, unlabelled=1, size=64, seed=0, annotation="all",
        progress=SILENT,
    )  # fmt: skip
    dataset = Dataset(read_folder(tmp_path / "data"), 32)
    context = replace(finished(tmp_path / "run", spec_of()), folder=tmp_path / "evaluate")
    found = _pixels(context, dataset)
    assert found == {s.name: pixel_digest(dataset.load(s).image) for s in dataset.samples}
    shaping = [found[s.name] for s in dataset.samples if s.split != "test"]
    assert _shaping(dataset, found) == sorted(shaping)
    assert len(shaping) == 4
    result = StageResult("evaluate", "f" * 32, context.folder, {}, 0.0, reused=False)
    assert evaluate.load_pixels(replace(context, done={"evaluate": result})) == found
