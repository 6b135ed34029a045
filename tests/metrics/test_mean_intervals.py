"""The intervals of a mean difference: what they invert, what they cover, and their ends."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, stats

from job.metrics import mean_intervals
from job.metrics.mean_intervals import SKEWNESS_SEEN, critical_t, studentised_bootstrap, widened_t


def _plain_t(values, confidence=0.95):
    interval = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    return interval.low, interval.high


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound_on_the_long_tail_is_where_halls_statistic_is_critical(sign):
    """Found by a root finder on the transform itself; the other bound is Student's."""
    values = sign * np.array([0.02, 0.03, 0.025, 0.03, 0.01, 0.02, -0.05, 0.02])
    n, sd = len(values), values.std(ddof=1)
    a = stats.skew(values, bias=False) / SKEWNESS_SEEN / 3 / math.sqrt(n)

    def excess(mean, critical):
        t = (values.mean() - mean) / sd * math.sqrt(n)
        return t + a * t**2 + a**2 * t**3 / 3 + a / 2 - critical

    critical = stats.t.ppf(0.975, n - 1)
    plain = _plain_t(values)
    expected = (
        (optimize.brentq(excess, -1, 1, args=(critical,), xtol=1e-14), plain[1])
        if sign > 0
        else (plain[0], optimize.brentq(excess, -1, 1, args=(-critical,), xtol=1e-14))
    )
    assert widened_t(values, 0.95) == pytest.approx(expected, rel=1e-9)
    assert plain[0] > expected[0] or plain[1] < expected[1]


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(2, 29), elements=st.floats(-1, 1, width=16)),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_plain_interval_is_always_inside(values, confidence):
    """Widening never takes away; what it gives is finite."""
    low, high = widened_t(values, confidence)
    assert math.isfinite(low)
    assert math.isfinite(high)
    if np.ptp(values) > 1e-9:
        plain_low, plain_high = _plain_t(values, confidence)
        assert low <= plain_low + 1e-9
        assert high >= plain_high - 1e-9


def test_one_small_gain_among_large_ones_is_still_a_gain():
    """Skewed by an outlier, but every value is far above 0: the bound is pulled, not thrown away."""
    low, high = widened_t(np.array([1.0] * 7 + [0.5]), 0.95)
    assert 0.4 < low < 0.8
    assert high < 1.1


def test_skewed_losses_are_taken_for_a_gain_less_often_than_by_student():
    """Over 2,000 samples of 14 with exponential losses and mean 0: below 4.5 %, where Student's has 8 %."""
    samples = 1 - np.random.default_rng(6).exponential(size=(2000, 14))
    plain = float(np.mean(stats.ttest_1samp(samples, 0, axis=1).confidence_interval().low > 0))
    widened = float(np.mean([widened_t(sample, 0.95)[0] > 0 for sample in samples]))
    assert widened < 0.045
    assert plain > 0.065


def _bootstrap_by_loops(values, rng, resamples=3000):
    """Bootstrap-t, a resample at a time."""
    statistics = []
    for _ in range(resamples):
        drawn = rng.choice(values, len(values))
        if np.ptp(drawn) > 0:
            statistics.append((drawn.mean() - values.mean()) / drawn.std(ddof=1))
    low, high = np.quantile(statistics, [0.025, 0.975])
    return values.mean() - values.std(ddof=1) * high, values.mean() - values.std(ddof=1) * low


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(7).exponential(size=40),
        np.random.default_rng(8).normal(0.02, 0.05, 60),
        np.concatenate([np.zeros(36), [0.1, 0.2, 0.3, -0.1]]),
    ],
    ids=["skewed", "normal", "mostly equal"],
)
def test_bootstrap_equals_one_written_in_loops(values):
    """Other resamples, the same interval up to a tenth of its half."""
    low, high = studentised_bootstrap(values, 0.95)
    expected = _bootstrap_by_loops(values, np.random.default_rng(9))
    half = (expected[1] - expected[0]) / 2
    assert low == pytest.approx(expected[0], abs=0.1 * half)
    assert high == pytest.approx(expected[1], abs=0.1 * half)
    assert low < values.mean() < high


def test_bootstrap_of_symmetric_values_is_nearly_students():
    """Three hundred normal values: the two differ by a few hundredths of a half."""
    values = np.random.default_rng(10).normal(0.1, 1.0, 300)
    half = critical_t(299, 0.95) * values.std(ddof=1) / math.sqrt(300)
    assert studentised_bootstrap(values, 0.95) == pytest.approx(_plain_t(values), abs=0.08 * half)


def test_bootstrap_repeats_itself_and_moves_with_its_values():
    """Equal bits for equal values; shifting and scaling the values shifts and scales the interval."""
    values = np.random.default_rng(11).exponential(size=33)
    low, high = studentised_bootstrap(values, 0.9)
    assert (low, high) == studentised_bootstrap(values.copy(), 0.9)
    assert studentised_bootstrap(3 * values - 1, 0.9) == pytest.approx((3 * low - 1, 3 * high - 1))


def test_bootstrap_in_portions_has_all_resamples(monkeypatch):
    """What bounds memory changes nothing but the draws."""
    values = np.random.default_rng(12).normal(0.0, 1.0, 35)
    whole = studentised_bootstrap(values, 0.95)
    monkeypatch.setattr(mean_intervals, "DRAWS_AT_ONCE", 35 * 100)
    assert studentised_bootstrap(values, 0.95) == pytest.approx(whole, abs=0.05)


@pytest.mark.parametrize("interval", [widened_t, studentised_bootstrap])
def test_equal_values_have_an_interval_of_no_width(interval):
    """Up to rounding, and without a warning."""
    assert interval(np.full(40, 0.1) + np.arange(40) % 2 * 1e-17, 0.95) == pytest.approx((0.1, 0.1))
    assert interval(np.zeros(30), 0.95) == (0.0, 0.0)


@pytest.mark.parametrize("degrees", [1, 4, 200])
def test_critical_t_is_scipys(degrees):
    """The same quantile as scipy's distribution object, which is slower."""
    assert critical_t(degrees, 0.9) == pytest.approx(stats.t.ppf(0.95, degrees))
