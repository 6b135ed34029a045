"""The same masks by every convention, recomputed pixel by pixel and by torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_f1_score, binary_precision, binary_recall

from job.evaluation.conventions import (
    INSIDE,
    NATIVE,
    SCORING,
    WHOLE,
    Counts,
    Key,
    conventions,
    count_image,
    protocol,
    resized,
)
from job.evaluation.results import Convention
from job.metrics.statistics import FEWEST_TO_RESAMPLE

PATIENTS = ("a", "a", "a", "b", "c")
CANDIDATES = ("noop", "best_fixed")
Masks = np.ndarray


@pytest.fixture(scope="module")
def images() -> list[tuple[dict[str, Masks], Masks, Masks]]:
    """Masks of two candidates, truth and field of view of five images of different sizes."""
    rng = np.random.default_rng(1)
    made = []
    for i in range(5):
        shape = (20 + i, 30)
        truth = rng.random(shape) < 0.1 + 0.15 * i
        masks = {name: truth ^ (rng.random(shape) < 0.05 + 0.1 * k) for k, name in enumerate(CANDIDATES)}
        made.append((masks, truth, rng.random(shape) < 0.6))
    return made


@pytest.fixture(scope="module")
def counts(images: list[tuple[dict[str, Masks], Masks, Masks]]) -> dict[Key, Counts]:
    counted = [count_image(masks, truth, inside, SCORING) for masks, truth, inside in images]
    return {key: np.stack([one[key] for one in counted]) for key in counted[0]}


def row(found: list[Convention], region: str, aggregation: str) -> Convention:
    (only,) = [one for one in found if (one.region, one.aggregation) == (region, aggregation)]
    return only


def by_torchmetrics(mask: Masks, truth: Masks) -> dict[str, float]:
    prediction, target = torch.from_numpy(mask.ravel()).int(), torch.from_numpy(truth.ravel()).int()
    return {
        "dice": float(binary_f1_score(prediction, target)),
        "recall": float(binary_recall(prediction, target)),
        "precision": float(binary_precision(prediction, target)),
        "iou": (mask & truth).sum() / (mask | truth).sum(),
    }


@pytest.mark.parametrize("region", [WHOLE, INSIDE])
def test_a_mean_over_patients_counts_patients_and_a_pooled_figure_pixels(
    images: list[tuple[dict[str, Masks], Masks, Masks]], counts: dict[Key, Counts], region: str
) -> None:
    """The first averages images, then patients; the second is one image made of all pixels. They differ."""
    found = conventions(counts, PATIENTS)
    for name in CANDIDATES:
        pairs = [
            (masks[name][inside], truth[inside]) if region == INSIDE else (masks[name].ravel(), truth.ravel())
            for masks, truth, inside in images
        ]
        of_images = [by_torchmetrics(*pair) for pair in pairs]
        pooled = by_torchmetrics(*(np.concatenate(part) for part in zip(*pairs, strict=True)))
        for metric in ("dice", "iou", "recall", "precision"):
            values = [image[metric] for image in of_images]
            mean = np.mean([np.mean(values[:3]), values[3], values[4]])
            assert row(found, region, "mean over patients").metrics[name][metric] == pytest.approx(mean, 1e-5)
            assert row(found, region, "pooled over pixels").metrics[name][metric] == pytest.approx(
                pooled[metric], 1e-5
            )
        assert abs(np.mean([image["dice"] for image in of_images]) - pooled["dice"]) > 1e-3


def test_every_region_resolution_and_aggregation_has_one_row(counts: dict[Key, Counts]) -> None:
    """In that order, every candidate in each."""
    native: dict[Key, Counts] = {(region, NATIVE, name): n for (region, _, name), n in counts.items()}
    found = conventions(counts | native, PATIENTS)
    assert [(one.resolution, one.region, one.aggregation) for one in found] == [
        (resolution, region, aggregation)
        for resolution in (SCORING, NATIVE)
        for region in (WHOLE, INSIDE)
        for aggregation in ("mean over patients", "pooled over pixels")
    ]
    assert all(tuple(one.metrics) == CANDIDATES for one in found)


def test_pixels_outside_the_field_of_view_do_not_count_inside_it() -> None:
    """A false positive on the black frame costs precision in the whole frame alone."""
    truth, inside = np.zeros((6, 6), np.bool_), np.zeros((6, 6), np.bool_)
    inside[:, :3] = True
    truth[2, :2] = True
    mask = truth.copy()
    mask[0, 5] = True
    counted = count_image({"noop": mask}, truth, inside, SCORING)
    np.testing.assert_array_equal(counted[WHOLE, SCORING, "noop"], [2, 1, 0, 33])
    np.testing.assert_array_equal(counted[INSIDE, SCORING, "noop"], [2, 0, 0, 16])


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1)
)
def test_a_resized_mask_takes_each_pixel_from_the_nearest(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    """The one whose square holds the centre of the new pixel; on a border between two either will do."""
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    found = resized(mask, (new_height, new_width))
    assert found.shape == (new_height, new_width)
    assert found.dtype == np.bool_
    rows, columns = nearest(height, new_height), nearest(width, new_width)
    wanted = mask[np.ix_(list(rows.values()), list(columns.values()))]
    np.testing.assert_array_equal(found[np.ix_(list(rows), list(columns))], wanted)


def nearest(size: int, new_size: int) -> dict[int, int]:
    """New position -> old position, in whole numbers; without centres that lie on a border."""
    return {
        i: (2 * i + 1) * size // (2 * new_size)
        for i in range(new_size)
        if (2 * i + 1) * size % (2 * new_size)
    }


def test_masks_are_brought_to_the_truth_s_resolution_never_the_truth_to_theirs() -> None:
    """A thin vessel of the native truth counts in full though no mask at half the size can show it."""
    truth = np.zeros((8, 8), np.bool_)
    truth[:, 3] = True
    mask = np.zeros((4, 4), np.bool_)
    mask[:, 1] = True
    counted = count_image({"noop": mask}, truth, np.ones((8, 8), np.bool_), NATIVE)
    np.testing.assert_array_equal(counted[WHOLE, NATIVE, "noop"], [8, 8, 0, 48])


def test_an_empty_truth_and_an_empty_mask_have_the_figures_that_the_protocol_states() -> None:
    """Two empty masks score 1; one alone scores 0."""
    nothing, something = np.zeros((4, 4), np.bool_), np.eye(4, dtype=np.bool_)
    for mask, truth, dice in ((nothing, nothing, 1), (something, nothing, 0), (nothing, something, 0)):
        counted = count_image({"noop": mask}, truth, np.ones((4, 4), np.bool_), SCORING)
        found = conventions({key: row_4[None] for key, row_4 in counted.items()}, ["a"])
        assert {one.metrics["noop"]["dice"] for one in found} == {dice}
    assert "two empty masks score 1" in protocol(width=None, n_patients=6, confidence=0.95)["empty masks"]


def test_the_protocol_says_how_the_run_measured() -> None:
    """Width, method of the intervals and confidence are the run's own."""
    few = protocol(width=None, n_patients=FEWEST_TO_RESAMPLE - 1, confidence=0.95)
    many = protocol(width=500, n_patients=FEWEST_TO_RESAMPLE, confidence=0.9)
    assert few["resolution"] == "the images' own pixels"
    assert "width of 500 px" in many["resolution"]
    assert "native resolution" in many["resolution"]
    assert "95% intervals by Student's t" in few["statistics"]
    assert "90% intervals by bootstrap" in many["statistics"]
    assert set(few) == set(many) == {
        "region", "resolution", "aggregation", "threshold", "empty masks", "connectivity", "statistics",
    }  # fmt: skip
