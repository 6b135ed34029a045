import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchmetrics.functional import classification as tm

from job.metrics.overlap import (
    Confusion,
    confusion,
    dice,
    foreground_agreement,
    iou,
    precision,
    recall,
    specificity,
)

RATIOS = {
    dice: tm.binary_f1_score,
    iou: tm.binary_jaccard_index,
    recall: tm.binary_recall,
    precision: tm.binary_precision,
    specificity: tm.binary_specificity,
}

shapes = st.tuples(st.integers(1, 9), st.integers(1, 11))
mask_pairs = shapes.flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, (2, *shape)), hnp.arrays(np.bool_, shape))
)


def _counts(mask, truth, inside=None):
    return confusion(np.array(mask, bool)[None], np.array(truth, bool), inside)


@pytest.mark.parametrize("ratio", RATIOS, ids=lambda ratio: ratio.__name__)
def test_ratios_equal_torchmetrics(ratio):
    """Each ratio of a batch is what torchmetrics says of each mask alone."""
    rng = np.random.default_rng(1)
    truth_HW = rng.random((37, 41)) < 0.2
    masks_BHW = rng.random((6, 37, 41)) < np.linspace(0.05, 0.95, 6)[:, None, None]
    expected = [
        float(RATIOS[ratio](torch.from_numpy(mask).int(), torch.from_numpy(truth_HW).int()))
        for mask in masks_BHW
    ]
    np.testing.assert_allclose(ratio(confusion(masks_BHW, truth_HW)), expected, atol=1e-6)


@settings(deadline=None)
@given(mask_pairs, st.data())
def test_counts_equal_a_loop_over_pixels(pair, data):
    """The packed counts are those of a plain loop, with and without a field of view."""
    masks_BHW, truth_HW = pair
    inside_HW = data.draw(st.none() | hnp.arrays(np.bool_, truth_HW.shape))
    counts = confusion(masks_BHW, truth_HW, inside_HW)
    for b, mask_HW in enumerate(masks_BHW):
        seen = {(m, t): 0 for m in (False, True) for t in (False, True)}
        for y, x in np.ndindex(*truth_HW.shape):
            if inside_HW is None or inside_HW[y, x]:
                seen[bool(mask_HW[y, x]), bool(truth_HW[y, x])] += 1
        assert counts.tp[b] == seen[True, True]
        assert counts.fp[b] == seen[True, False]
        assert counts.fn[b] == seen[False, True]
        assert counts.tn[b] == seen[False, False]


@settings(deadline=None)
@given(mask_pairs)
def test_ratios_are_bounded_and_related(pair):
    """All ratios lie in [0, 1], iou is d / (2 - d), and dice lies between recall and precision."""
    masks_BHW, truth_HW = pair
    counts = confusion(masks_BHW, truth_HW)
    for ratio in (*RATIOS, foreground_agreement):
        values = ratio(counts)
        assert values.dtype == np.float64
        assert ((values >= 0) & (values <= 1)).all()
    d = dice(counts)
    np.testing.assert_allclose(iou(counts), d / (2 - d), atol=1e-12)
    bounds = np.sort([recall(counts), precision(counts)], axis=0)
    found_something = counts.tp > 0
    assert (d >= bounds[0] - 1e-12)[found_something].all()
    assert (d <= bounds[1] + 1e-12)[found_something].all()


@settings(deadline=None)
@given(mask_pairs)
def test_dice_is_symmetric_and_swaps_recall_with_precision(pair):
    """Dice does not care which mask is the truth; recall and precision change places."""
    (a, _), b = pair
    forward, backward = _counts(a, b), _counts(b, a)
    assert dice(forward) == dice(backward)
    if a.any() and b.any():
        assert recall(forward) == precision(backward)


@pytest.mark.parametrize(
    ("mask", "truth", "expected"),
    [
        (
            [[0, 0]],
            [[0, 0]],
            {dice: 1, iou: 1, recall: 1, precision: 1, specificity: 1, foreground_agreement: 1},
        ),
        (
            [[1, 0]],
            [[0, 0]],
            {dice: 0, iou: 0, recall: 1, precision: 0, specificity: 0.5, foreground_agreement: 0},
        ),
        (
            [[0, 0]],
            [[1, 0]],
            {dice: 0, iou: 0, recall: 0, precision: 0, specificity: 1, foreground_agreement: 0},
        ),
        (
            [[1, 0]],
            [[0, 1]],
            {dice: 0, iou: 0, recall: 0, precision: 0, specificity: 0, foreground_agreement: 1},
        ),
        (
            [[1, 1]],
            [[1, 1]],
            {dice: 1, iou: 1, recall: 1, precision: 1, specificity: 1, foreground_agreement: 1},
        ),
        (
            [[0, 0]],
            [[1, 1]],
            {dice: 0, iou: 0, recall: 0, precision: 0, specificity: 1, foreground_agreement: 0},
        ),
        ([[1]], [[1]], {dice: 1, iou: 1, recall: 1, precision: 1, specificity: 1, foreground_agreement: 1}),
    ],
    ids=["both-empty", "empty-truth", "empty-mask", "disjoint", "both-full", "full-truth", "one-pixel"],
)
def test_conventions_where_a_ratio_has_no_denominator(mask, truth, expected):
    """Empty, full, disjoint and one-pixel masks score by the table in the module's docstring."""
    counts = _counts(mask, truth)
    assert {ratio: float(ratio(counts)[0]) for ratio in expected} == expected


def test_nothing_inside_the_field_of_view_scores_as_two_empty_masks():
    """A field of view without a pixel leaves nothing to be wrong about."""
    counts = _counts([[1, 0]], [[0, 1]], np.zeros((1, 2), bool))
    assert [float(ratio(counts)[0]) for ratio in RATIOS] == [1.0] * len(RATIOS)


def test_foreground_agreement_counts_size_and_not_place():
    """Half or one and a half times the truth's size scores 0.5, twice its size 0."""
    counts = Confusion(*np.array([[2, 4, 4, 0], [0, 2, 4, 8], [2, 0, 0, 4], [9, 9, 9, 9]]))
    np.testing.assert_allclose(foreground_agreement(counts), [0.5, 0.5, 0.0, 0.0])


def test_no_masks_give_no_scores():
    """A batch of no masks gives arrays of length zero, so that callers need no special case."""
    assert dice(confusion(np.zeros((0, 3, 3), bool), np.ones((3, 3), bool))).shape == (0,)


@pytest.mark.parametrize(
    ("masks", "truth"),
    [
        (np.zeros((1, 2, 2)), np.zeros((2, 2), bool)),
        (np.zeros((1, 2, 2), bool), np.zeros((2, 2), np.uint8)),
        (np.zeros((2, 2), bool), np.zeros((2, 2), bool)),
        (np.zeros((1, 2, 3), bool), np.zeros((2, 2), bool)),
    ],
)
def test_unfit_arrays_are_refused(masks, truth):
    """Probabilities, 0/255 images and masks of another size raise instead of being counted somehow."""
    with pytest.raises(ValueError, match="masks"):
        confusion(masks, truth)
