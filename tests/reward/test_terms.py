import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import measure as sk_measure

from job.metrics import overlap, topology
from job.reward import terms
from job.reward.terms import METRICS, TERMS, TRUTH_TERMS, combine, measure, score

RNG_SEED = 7


@pytest.fixture
def masks_BHW():
    """Five masks from empty to full."""
    masks = (
        np.random.default_rng(RNG_SEED).random((5, 20, 24)) < np.array([0, 0.1, 0.3, 0.6, 1])[:, None, None]
    )
    assert not masks[0].any()
    assert masks[4].all()
    return masks


@pytest.fixture
def truth_HW():
    """A truth with two thick strokes."""
    truth = np.zeros((20, 24), bool)
    truth[4:7, 2:20] = truth[2:18, 10:13] = True
    return truth


def _judge(image_HWC, masks):
    return masks.mean(axis=(1, 2)).astype(np.float32) * image_HWC[0, 0, 0]


def test_terms_are_the_spec_s():
    """The names are those that a spec may weigh, and all but the network's need a truth."""
    assert TERMS == ("reward_net", "dice", "iou", "recall", "precision", "cldice", "betti", "foreground")
    assert set(TRUTH_TERMS) == set(TERMS) - {"reward_net"}


def test_every_term_is_scored_by_its_metric(masks_BHW, truth_HW):
    """The overlaps and clDice are the metrics', in the order asked, as float64 of one value a mask."""
    asked = ["recall", "dice", "cldice", "precision", "iou"]
    scores = score(masks_BHW, truth_HW, asked)
    assert list(scores) == asked
    counts = overlap.confusion(masks_BHW, truth_HW)
    for term in ("recall", "dice", "precision", "iou"):
        np.testing.assert_array_equal(scores[term], getattr(overlap, term)(counts))
    np.testing.assert_array_equal(scores["cldice"], topology.cldice(masks_BHW, truth_HW))
    assert all(values.dtype == np.float64 for values in scores.values())


def test_foreground_is_the_agreement_of_shares(masks_BHW, truth_HW):
    """The foreground term compares shares of the image, recomputed here from means."""
    shares, truth_share = masks_BHW.mean(axis=(1, 2)), truth_HW.mean()
    expected = 1 - np.minimum(1, np.abs(shares - truth_share) / truth_share)
    np.testing.assert_allclose(score(masks_BHW, truth_HW, ["foreground"])["foreground"], expected, atol=1e-12)


def test_betti_is_the_mean_ratio_of_counts(masks_BHW, truth_HW):
    """The Betti term is recomputed from scikit-image's labels and Euler numbers."""

    def numbers(mask):
        b0 = int(sk_measure.label(mask, connectivity=2).max())
        return b0, b0 - sk_measure.euler_number(mask, connectivity=2)

    expected = [
        np.mean(
            [(1 + min(a, b)) / (1 + max(a, b)) for a, b in zip(numbers(mask), numbers(truth_HW), strict=True)]
        )
        for mask in masks_BHW
    ]
    np.testing.assert_allclose(score(masks_BHW, truth_HW, ["betti"])["betti"], expected)


def test_betti_still_tells_badly_broken_masks_apart():
    """Ten pieces too many score visibly better than twenty: the term keeps a slope far from the truth."""
    truth_HW = np.zeros((9, 81), bool)
    truth_HW[4] = True
    ten, twenty = truth_HW.copy(), truth_HW.copy()
    ten[:, 4:80:8] = twenty[:, 2:80:4] = False
    better, worse = score(np.stack([ten, twenty]), truth_HW, ["betti"])["betti"]
    assert better > worse + 0.03


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.bool_, (3, 6, 7)), hnp.arrays(np.bool_, (6, 7)))
def test_truth_terms_are_bounded_and_perfect_for_the_truth(masks, truth):
    """Every truth term lies in [0, 1] and is 1 for the truth itself, empty truths included."""
    scores = score(np.concatenate([masks, truth[None]]), truth, TRUTH_TERMS)
    for values in scores.values():
        assert ((values >= 0) & (values <= 1)).all()
        assert values[-1] == 1.0


def test_only_what_is_asked_is_computed(masks_BHW, truth_HW, monkeypatch):
    """Without a topological term no skeleton and no component is computed, and no judge is called."""

    def refuse(*_):
        raise AssertionError("computed though nobody asked")

    monkeypatch.setattr(topology, "cldice", refuse)
    monkeypatch.setattr(topology, "betti_numbers", refuse)
    image = np.zeros((20, 24, 3), np.uint8)
    assert set(score(masks_BHW, truth_HW, ["dice"], image_HWC=image, judge=refuse)) == {"dice"}
    with pytest.raises(AssertionError, match="nobody asked"):
        score(masks_BHW, truth_HW, ["cldice"])


def test_the_judge_scores_without_a_truth(masks_BHW):
    """On an unlabelled image the network's term alone can be had, as float64, clipped to [0, 1]."""
    image = np.full((20, 24, 3), 2, np.uint8)
    got = score(masks_BHW, None, ["reward_net"], image_HWC=image, judge=_judge)["reward_net"]
    np.testing.assert_allclose(got, np.minimum(1, 2 * masks_BHW.mean(axis=(1, 2))), rtol=1e-6)
    assert got.dtype == np.float64


@pytest.mark.parametrize("answer", [np.zeros(3), np.zeros((5, 1)), np.array([0, 0, 0, 0, np.nan])])
def test_a_judge_that_gives_no_number_is_refused(masks_BHW, answer):
    """A wrong number of scores or a NaN raises instead of spreading through the table."""
    with pytest.raises(ValueError, match="judge"):
        score(
            masks_BHW,
            None,
            ["reward_net"],
            image_HWC=np.zeros((20, 24, 3), np.uint8),
            judge=lambda *_: answer,
        )


@pytest.mark.parametrize("term", TRUTH_TERMS)
def test_truth_terms_need_a_truth(masks_BHW, term):
    """A truth term on an unlabelled image raises and names the term."""
    with pytest.raises(ValueError, match=f"{term} need a truth"):
        score(masks_BHW, None, [term])


def test_unknown_terms_and_missing_judges_are_refused(masks_BHW, truth_HW):
    """A misspelt term and `reward_net` without image or judge raise."""
    with pytest.raises(ValueError, match="unknown terms dcie"):
        score(masks_BHW, truth_HW, ["dcie"])
    with pytest.raises(ValueError, match="image and a judge"):
        score(masks_BHW, truth_HW, ["reward_net"], judge=_judge)


def test_combine_is_a_weighted_sum_of_any_shape():
    """Weights multiply tables `[N, K]` as they do rows; a weight of 0 needs no score."""
    scores = {"dice": np.array([[0.5, 1.0]]), "recall": np.array([[1.0, 0.0]]), "iou": np.array([[9.0, 9.0]])}
    total = combine(scores, {"dice": 0.5, "recall": -1.0, "cldice": 0.0})
    np.testing.assert_allclose(total, [[-0.75, 0.5]])


@given(st.dictionaries(st.sampled_from(TERMS), st.floats(-5, 5), min_size=1))
def test_combine_equals_a_sum_of_python_floats(weights):
    """The weighted sum is plain arithmetic."""
    scores = {term: np.float64(i / 10) for i, term in enumerate(TERMS)}
    if any(weights.values()):
        expected = math.fsum(weight * TERMS.index(term) / 10 for term, weight in weights.items())
        assert float(combine(scores, weights)) == pytest.approx(expected, abs=1e-9)
    else:
        with pytest.raises(ValueError, match="every weight is 0"):
            combine(scores, weights)


def test_combine_names_the_missing_score():
    """A weighted term without a score raises and is named."""
    with pytest.raises(ValueError, match="no scores for cldice"):
        combine({"dice": np.zeros(2)}, {"dice": 1.0, "cldice": 0.5})


def test_measure_gives_every_metric_in_its_order(masks_BHW, truth_HW):
    """Evaluation gets all metrics, and those that are terms too have the same value as the reward's."""
    measured = measure(masks_BHW, truth_HW)
    assert tuple(measured) == METRICS
    assert all(values.shape == (5,) and values.dtype == np.float64 for values in measured.values())
    for name, values in score(masks_BHW, truth_HW, [t for t in TERMS if t in METRICS]).items():
        np.testing.assert_array_equal(measured[name], values)
    b0_error, b1_error = topology.betti_errors(masks_BHW, truth_HW)
    np.testing.assert_array_equal(measured["betti0_error"], b0_error)
    np.testing.assert_array_equal(measured["betti1_error"], b1_error)


def test_nothing_outside_the_field_of_view_counts(masks_BHW, truth_HW):
    """Flipping every pixel outside the field of view changes no metric and no truth term."""
    inside_HW = np.hypot(*np.ogrid[-9.5:10, -11.5:12]) < 8
    flipped = np.where(inside_HW, masks_BHW, ~masks_BHW), np.where(inside_HW, truth_HW, ~truth_HW)
    for name, values in measure(masks_BHW, truth_HW, inside_HW).items():
        np.testing.assert_array_equal(values, measure(*flipped, inside_HW)[name], err_msg=name)
    for term, values in score(masks_BHW, truth_HW, TRUTH_TERMS, inside_HW=inside_HW).items():
        np.testing.assert_array_equal(
            values, score(*flipped, TRUTH_TERMS, inside_HW=inside_HW)[term], err_msg=term
        )


def test_tables_of_metrics_name_functions_that_exist():
    """Every metric and term has exactly one home, so that none is forgotten when one is added."""
    assert set(terms.OVERLAPS) | terms.TOPOLOGICAL == set(TRUTH_TERMS) | set(METRICS)
