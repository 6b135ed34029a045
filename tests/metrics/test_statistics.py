"""Intervals, comparisons, corrections and sample sizes against scipy and against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, stats

from job.metrics.statistics import (
    argmax_regret,
    holm,
    paired_uplift,
    patient_interval,
    patient_means,
    patients_needed,
    smallest_detectable,
    t_interval,
    within_image_spearman,
)

scores = st.floats(-1, 1, allow_nan=False, width=32)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 5, 40])
def test_t_interval_equals_scipy(n, confidence):
    """The interval is the one-sample t-test's."""
    values = np.random.default_rng(n).normal(0.3, 0.1, n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    got = t_interval(values, confidence)
    assert (got.mean, got.n) == (pytest.approx(values.mean()), n)
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


def test_t_interval_covers_the_truth_as_often_as_it_says():
    """Over 2,000 samples of four values, about 95 % of the intervals hold the true mean."""
    samples = np.random.default_rng(3).normal(0.2, 1.0, (2000, 4))
    hits = [interval.low <= 0.2 <= interval.high for interval in map(t_interval, samples)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_one_value_knows_nothing_of_its_spread():
    """One value has an infinite interval, and one patient an infinite uplift interval; neither crashes."""
    interval = t_interval([0.7])
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.7, -math.inf, math.inf, 1)
    uplift = paired_uplift([0.9, 0.7], [0.5, 0.5], ["a", "a"])
    assert (uplift.low, uplift.high, uplift.n_patients, uplift.n_images) == (-math.inf, math.inf, 1, 2)
    assert uplift.mean == pytest.approx(0.3)
    assert math.isnan(uplift.sd)
    assert math.isnan(uplift.p_value)


def test_patient_means_weigh_images_within_and_not_across_patients():
    """A patient's images are averaged, in the order of sorted names, wherever they stand."""
    means = patient_means([1.0, 5.0, 2.0, 3.0], ["b", "a", "b", "b"])
    assert means.tolist() == [5.0, 2.0]


def test_patient_interval_is_the_t_interval_of_patient_means():
    """Three images of two patients are two values: scipy's interval over those."""
    interval = patient_interval([1.0, 5.0, 3.0], ["b", "a", "b"], 0.9)
    expected = stats.ttest_1samp([5.0, 2.0], 0).confidence_interval(0.9)
    assert (interval.mean, interval.n) == (3.5, 2)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def _scores_of_patients(n_patients, n_images):
    rng = np.random.default_rng(4)
    before = rng.random(n_images)
    after = before + rng.normal(0.02, 0.05, n_images)
    after[3] = before[3]
    return after, before, [f"p{i % n_patients}" for i in range(n_images)]


def test_uplift_is_a_paired_t_test_on_patient_means():
    """Its interval holds scipy's, from which one bound is moved out by skewness; counts are of images."""
    after, before, patients = _scores_of_patients(5, 17)
    means = [
        [
            np.mean([x for x, p in zip(arm, patients, strict=True) if p == name])
            for name in sorted(set(patients))
        ]
        for arm in (after, before)
    ]
    test = stats.ttest_rel(*means)
    expected = test.confidence_interval(0.9)
    uplift = paired_uplift(after, before, patients, 0.9)
    bounds = [(uplift.low, expected.low), (uplift.high, expected.high)]
    assert sorted(mine == pytest.approx(plain) for mine, plain in bounds) == [False, True]
    assert uplift.low <= expected.low + 1e-12
    assert uplift.high >= expected.high - 1e-12
    assert uplift.mean == pytest.approx(test.statistic * uplift.sd / math.sqrt(5))
    assert (uplift.n_patients, uplift.n_images, uplift.ties, uplift.method) == (5, 17, 1, "t")
    assert uplift.wins == int((after > before).sum())
    assert uplift.losses == int((after < before).sum())


def test_symmetric_differences_have_the_plain_t_interval():
    """Without skewness nothing is widened."""
    difference = np.array([-0.02, 0.0, 0.01, 0.02, 0.04])
    uplift = paired_uplift(0.5 + difference, np.full(5, 0.5), list("abcde"))
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert stats.skew(difference) == pytest.approx(0, abs=1e-12)
    assert (uplift.low, uplift.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("n_patients", "method"), [(29, "t"), (30, "bootstrap")])
def test_p_is_of_patients_and_thirty_of_them_are_resampled(n_patients, method):
    """The test is scipy's over patient means; equal inputs give equal bits."""
    after, before, patients = _scores_of_patients(n_patients, 2 * n_patients)
    uplift = paired_uplift(after, before, patients)
    assert uplift == paired_uplift(after, before, patients)
    assert uplift.method == method
    means = patient_means(after - before, patients)
    test = stats.permutation_test(
        (means,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    assert uplift.p_value == pytest.approx(test.pvalue, abs=5 * math.sqrt(0.25 / 20_000) * 2)
    assert uplift.low < uplift.mean < uplift.high


@pytest.mark.parametrize("n", [4, 40])
def test_differences_of_rounding_are_no_gain(n):
    """However often they point the same way: interval and p are those of no difference at all."""
    before = np.full(n, 0.5)
    uplift = paired_uplift(before + 1e-12, before, [str(i) for i in range(n)])
    assert (uplift.low, uplift.mean, uplift.high, uplift.sd, uplift.p_value) == (0, 0, 0, 0, 1)


def _holm_by_definition(p_values):
    """Reject the smallest first, each at level / tests left; adjusted p is the least level that rejects."""
    made = sorted(p for p in p_values if not math.isnan(p))

    def rejected(p, level):
        for left, smaller in zip(range(len(made), 0, -1), made, strict=True):
            if smaller > level / left:
                return False
            if smaller == p:
                return True
        raise AssertionError

    levels = sorted({min(1.0, left * p) for left in range(1, len(made) + 1) for p in made} | {1.0})

    def adjusted(p):
        # A relative hair: level / left and left * p round differently.
        return next((level for level in levels if rejected(p, level * (1 + 1e-9))), 1.0)

    return [p if math.isnan(p) else adjusted(p) for p in p_values]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.004, 0.01, 0.012, 0.02, 0.04, 0.3, 0.9, 1.0, math.nan]), max_size=7))
def test_holm_is_the_least_level_at_which_the_step_down_rejects(p_values):
    """Recomputed from the procedure itself, with ties and with tests that were not made."""
    np.testing.assert_allclose(holm(p_values), _holm_by_definition(p_values), rtol=1e-8)


def test_holm_on_paper():
    """Four tests of which one was not made: 3 x 0.01, 2 x 0.03, and no less than that for 0.04."""
    adjusted = holm([0.04, 0.01, math.nan, 0.03])
    np.testing.assert_allclose(adjusted, [0.06, 0.03, math.nan, 0.06])
    assert holm([]) == []
    assert holm([0.7, 0.6]) == [1.0, 1.0]


@settings(deadline=None)
@given(hnp.arrays(np.float64, (2, 7), elements=scores))
def test_uplift_turns_round_with_its_arms(pair):
    """Swapping after and before negates the mean and the interval and exchanges wins with losses."""
    patients = list("aabbccc")
    forward, backward = paired_uplift(*pair, patients), paired_uplift(pair[1], pair[0], patients)
    assert forward.mean == pytest.approx(-backward.mean, abs=1e-12)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low), abs=1e-12)
    assert (forward.wins, forward.ties, forward.losses) == (backward.losses, backward.ties, backward.wins)
    assert forward.wins + forward.ties + forward.losses == 7
    assert forward.p_value == backward.p_value


def test_differences_of_rounding_are_ties():
    """A difference below 1e-9 is neither a win nor a loss."""
    uplift = paired_uplift([0.5 + 1e-10, 0.5 - 1e-10, 0.5 + 1e-8, 0.5 - 1e-8], [0.5] * 4, list("abcd"))
    assert (uplift.wins, uplift.ties, uplift.losses) == (1, 2, 1)


@pytest.mark.parametrize(("standardised", "power", "n"), [(0.2, 0.8, 199), (0.5, 0.8, 34), (0.8, 0.8, 15)])
def test_patients_needed_equals_published_tables(standardised, power, n):
    """Small, medium and large effects need 199, 34 and 15 pairs at 5 % and 80 %, as in G*Power."""
    assert patients_needed(0.1, 0.1 * standardised, power) == n
    assert patients_needed(0.1, -0.1 * standardised, power) == n


def _power_by_integration(standardised, n, confidence):
    """Power of the paired t-test: the normal's tails integrated over the sample's sd."""
    critical = stats.t.isf((1 - confidence) / 2, n - 1)
    shift = standardised * math.sqrt(n)

    def integrand(sd):
        tails = stats.norm.sf(critical * sd - shift) + stats.norm.cdf(-critical * sd - shift)
        return tails * stats.chi.pdf(sd * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1)

    return integrate.quad(integrand, 0, 1 + 12 / math.sqrt(n), limit=200)[0]


@pytest.mark.parametrize(
    ("standardised", "power", "confidence"), [(0.33, 0.9, 0.95), (1.0, 0.8, 0.99), (4, 0.8, 0.95)]
)
def test_patients_needed_is_the_smallest_that_reaches_the_power(standardised, power, confidence):
    """With n patients the power, integrated independently, is reached; with one fewer it is not."""
    n = patients_needed(1.0, standardised, power, confidence)
    assert _power_by_integration(standardised, n, confidence) >= power
    if n > 2:
        assert _power_by_integration(standardised, n - 1, confidence) < power


def test_patients_needed_at_its_ends():
    """No spread needs two patients; a tiny effect is answered at once, and no effect refused."""
    assert patients_needed(0.0, 0.01) == 2
    assert patients_needed(1.0, 1e-5) == pytest.approx((1.959964 + 0.841621) ** 2 * 1e10, rel=1e-5)
    with pytest.raises(ValueError, match="effect"):
        patients_needed(0.1, 0.0)


def test_large_samples_pass_smoothly_into_the_normal_approximation():
    """Just below the switch at a million the exact answer is a few patients from the normal's."""
    below = patients_needed(1.0, 2.8016e-3)
    assert below == pytest.approx((1.959964 + 0.841621) ** 2 / 2.8016e-3**2, abs=5)


@pytest.mark.parametrize("n", [2, 4, 30])
def test_smallest_detectable_undoes_patients_needed(n):
    """The smallest detectable effect needs n patients, and one a hair smaller needs more."""
    effect = smallest_detectable(0.05, n)
    assert _power_by_integration(effect / 0.05, n, 0.95) == pytest.approx(0.8, abs=1e-6)
    assert patients_needed(0.05, effect * 1.0001) == n
    assert patients_needed(0.05, effect * 0.98) > n or n == 2


def test_one_patient_detects_nothing():
    """With one patient no effect is large enough."""
    assert smallest_detectable(0.05, 1) == math.inf


def test_spearman_equals_scipy_row_by_row():
    """Each row's rank correlation is scipy's, with ties averaged."""
    rng = np.random.default_rng(5)
    predicted, true = rng.normal(size=(2, 8, 12)).round(1)
    expected = [stats.spearmanr(p, t).statistic for p, t in zip(predicted, true, strict=True)]
    np.testing.assert_allclose(within_image_spearman(predicted, true), expected, atol=1e-12)


def test_spearman_of_a_constant_row_is_nan():
    """Where a row does not rank the actions there is no correlation, and no warning."""
    got = within_image_spearman([[1, 1, 1], [1, 2, 3], [1, 2, 3]], [[1, 2, 3], [5, 5, 5], [1, 4, 9]])
    assert np.isnan(got[:2]).all()
    assert got[2] == pytest.approx(1.0)
    assert np.isnan(within_image_spearman([[1.0]], [[2.0]])).all()


def test_regret_is_what_the_choice_costs():
    """Regret is the true best minus the true score of the first best prediction."""
    predicted = [[0.1, 0.9, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]]
    true = [[0.8, 0.6, 0.7], [0.4, 0.9, 0.0], [0.7, 0.1, 0.7]]
    np.testing.assert_allclose(argmax_regret(predicted, true), [0.2, 0.5, 0.0])


@settings(deadline=None)
@given(hnp.arrays(np.float64, (2, 4, 6), elements=scores))
def test_regret_and_correlation_are_bounded(pair):
    """Regret is never negative, 0 for perfect predictions, and correlations stay within [-1, 1]."""
    predicted, true = pair
    assert (argmax_regret(predicted, true) >= 0).all()
    assert (argmax_regret(true, true) == 0).all()
    correlations = within_image_spearman(predicted, true)
    assert (np.abs(correlations[~np.isnan(correlations)]) <= 1 + 1e-12).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: t_interval([]),
        lambda: t_interval([1.0, math.nan]),
        lambda: t_interval([1.0, 2.0], confidence=1.0),
        lambda: patient_means([1.0, 2.0], ["a"]),
        lambda: paired_uplift([1.0, 2.0], [1.0], ["a", "b"]),
        lambda: paired_uplift([1.0], [0.5], ["a"], confidence=95),
        lambda: holm([0.2, 1.1]),
        lambda: holm([-0.1]),
        lambda: patients_needed(-1.0, 0.1),
        lambda: patients_needed(1.0, 0.1, power=0.04),
        lambda: smallest_detectable(math.nan, 5),
        lambda: within_image_spearman([[1.0, 2.0]], [[1.0]]),
        lambda: argmax_regret([[math.nan, 1.0]], [[1.0, 2.0]]),
    ],
)
def test_misuse_is_refused(call):
    """Empty, unequal, not finite or impossible arguments raise ValueError."""
    with pytest.raises(ValueError):
        call()
