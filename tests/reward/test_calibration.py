"""Figures of a judge, and conformal intervals that cover what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from job.reward.calibration import (
    conformal_halfwidth,
    coverage,
    judge_quality,
    quality_interval,
    review_threshold,
    review_worth,
)


@pytest.mark.parametrize("n_calibration", [19, 60, 400])
@pytest.mark.parametrize("noise", ["normal", "heavy", "skewed"])
def test_intervals_cover_new_images_at_the_stated_rate(n_calibration: int, noise: str) -> None:
    """Over many calibration sets, coverage is at least 90 % whatever the noise, and not much more."""
    rng = np.random.default_rng(n_calibration)
    draw = {
        "normal": lambda size: rng.normal(0.01, 0.03, size),
        "heavy": lambda size: 0.02 * rng.standard_t(2, size),
        "skewed": lambda size: rng.gamma(1.0, 0.03, size),
    }[noise]
    halfwidths = np.array([conformal_halfwidth(draw(n_calibration), 0.9) for _ in range(800)])
    covered = np.abs(draw((800, 500))) <= halfwidths[:, None]
    standard_error = 0.1 / math.sqrt(800)
    exact = math.ceil((n_calibration + 1) * 0.9) / (n_calibration + 1)
    assert exact >= 0.9
    assert covered.mean() == pytest.approx(exact, abs=4 * standard_error)


def test_the_halfwidth_is_an_order_statistic() -> None:
    """With 9 residuals the 90 % half-width is the largest, with 8 there is none; signs do not matter."""
    residuals = [0.01, -0.02, 0.03, -0.04, 0.05, -0.06, 0.07, -0.08, 0.09]
    assert conformal_halfwidth(residuals, 0.9) == 0.09
    assert conformal_halfwidth(residuals, 0.5) == 0.05
    assert conformal_halfwidth(residuals[:8], 0.9) == math.inf
    assert conformal_halfwidth([], 0.9) == math.inf


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, math.nan])
def test_impossible_coverages_are_refused(coverage: float) -> None:
    """Neither certainty nor nothing can be promised."""
    with pytest.raises(ValueError, match="coverage"):
        conformal_halfwidth([0.1] * 20, coverage)


def test_a_residual_that_is_no_number_is_refused() -> None:
    """NaN would sort to an end and silently widen or narrow the interval."""
    with pytest.raises(ValueError, match="finite"):
        conformal_halfwidth([0.1, math.nan], 0.5)


def test_intervals_stay_within_what_a_quality_can_be() -> None:
    """An infinite half-width means anything from 0 to 1."""
    assert quality_interval(0.7, 0.1) == (pytest.approx(0.6), pytest.approx(0.8))
    assert quality_interval(0.95, 0.1) == (pytest.approx(0.85), 1.0)
    assert quality_interval(0.4, math.inf) == (0.0, 1.0)


def test_the_review_threshold_flags_the_stated_share() -> None:
    """About a fifth of masks like those on validation fall below it."""
    qualities = np.random.default_rng(0).beta(8, 2, 500)
    assert (qualities < review_threshold(qualities, 0.2)).mean() == pytest.approx(0.2, abs=0.01)
    with pytest.raises(ValueError, match="share"):
        review_threshold([], 0.2)


def test_coverage_counts_the_images_inside() -> None:
    """The limit itself is inside; an infinite interval holds everything."""
    assert coverage([0.5, 0.5, 0.5, 0.5], [0.5, 0.75, 0.25, 0.76], 0.25) == 0.75
    assert coverage([0.1, 0.9], [0.9, 0.1], math.inf) == 1
    assert coverage([0.1, 0.9], [0.9, 0.1], 0.0) == 0


@pytest.mark.parametrize(
    ("predicted", "true", "halfwidth"), [([], [], 0.1), ([0.1], [math.nan], 0.1), ([0.1], [0.1], -0.1)]
)
def test_coverage_of_nothing_is_refused(predicted: list[float], true: list[float], halfwidth: float) -> None:
    """No image, no number, no width."""
    with pytest.raises(ValueError, match=r"qualities|half-width"):
        coverage(predicted, true, halfwidth)


QUALITIES = hnp.arrays(np.float64, st.integers(1, 60), elements=st.sampled_from([0.1, 0.3, 0.35, 0.6, 0.8]))


@given(true=QUALITIES, seed=st.integers(0, 99), share=st.floats(0.01, 0.99))
def test_review_keeps_no_more_than_the_best_flag(true: np.ndarray, seed: int, share: float) -> None:
    """Kept by a perfect prediction is the best there is, and random draws keep the mean of all."""
    rng = np.random.default_rng(seed)
    worth = review_worth(rng.uniform(size=len(true)), true, share)
    assert worth.kept <= worth.kept_at_best + 1e-12
    assert worth.kept_at_random == worth.all == pytest.approx(true.mean())
    assert review_worth(true, true, share).kept == pytest.approx(worth.kept_at_best)
    kept = sorted(true)[int(share * len(true) + 1e-9) :]
    assert worth.kept_at_best == pytest.approx(np.mean(kept))


@given(true=QUALITIES, predicted=QUALITIES, seed=st.integers(0, 99))
def test_review_does_not_depend_on_the_order_of_images(
    true: np.ndarray, predicted: np.ndarray, seed: int
) -> None:
    """Equal predictions do not favour the images that come first."""
    n = min(len(true), len(predicted))
    order = np.random.default_rng(seed).permutation(n)
    first, again = review_worth(predicted[:n], true[:n]), review_worth(predicted[:n][order], true[:n][order])
    assert first == pytest.approx(again)


def test_review_is_the_mean_over_random_draws_among_equals() -> None:
    """Where predictions tie, drawing the flagged by lot many times gives what is computed."""
    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 3, 40) / 2, rng.uniform(size=40)
    draws = [true[np.lexsort((rng.uniform(size=40), predicted))][8:].mean() for _ in range(4000)]
    assert review_worth(predicted, true, 0.2).kept == pytest.approx(np.mean(draws), abs=0.002)
    assert review_worth(np.full(40, 0.5), true, 0.2).kept == pytest.approx(true.mean())


def test_review_sends_whole_masks_and_never_more_than_asked() -> None:
    """A fifth of 4 masks is none, of 9 one; 29 of 100 are 29; a single mask is always kept."""
    true = np.arange(100) / 100
    for n, share, n_sent in ((4, 0.2, 0), (9, 0.2, 1), (10, 0.2, 2), (100, 0.29, 29), (1, 0.99, 0)):
        assert review_worth(true[:n], true[:n], share).kept == pytest.approx(true[n_sent:n].mean())
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share"):
            review_worth(true, true, share)


def test_a_perfect_judge_has_perfect_figures() -> None:
    """Predicting the truth costs nothing and leaves no residual."""
    true = np.random.default_rng(0).uniform(0.3, 0.9, (25, 12))
    quality = judge_quality(true, true)
    assert (quality.mse, quality.mae, quality.regret, quality.interval_halfwidth) == (0, 0, 0, 0)
    assert (quality.r2, quality.spearman, quality.slope) == pytest.approx((1, 1, 1))
    assert quality.intercept == pytest.approx(0)
    assert quality.oracle_gap > 0


def test_figures_agree_with_an_independent_computation() -> None:
    """scipy's rank correlation and regression, and plain loops, give the same numbers."""
    rng = np.random.default_rng(3)
    true = rng.uniform(0.2, 0.9, (30, 8))
    predicted = 0.1 + 0.7 * true + rng.normal(0, 0.05, true.shape)
    quality = judge_quality(predicted, true)
    line = stats.linregress(predicted.ravel(), true.ravel())
    assert quality.slope == pytest.approx(line.slope)
    assert quality.intercept == pytest.approx(line.intercept)
    assert quality.spearman == pytest.approx(
        np.mean([stats.spearmanr(p, t).statistic for p, t in zip(predicted, true, strict=True)])
    )
    chosen = [t[int(np.argmax(p))] for p, t in zip(predicted, true, strict=True)]
    assert quality.regret == pytest.approx(np.mean([t.max() for t in true]) - np.mean(chosen))
    assert quality.oracle_gap == pytest.approx(np.mean([t.max() for t in true]) - max(true.mean(0)))
    assert quality.r2 == pytest.approx(1 - np.mean((predicted - true) ** 2) / np.var(true))


def test_a_judge_that_says_one_number_has_no_ranks() -> None:
    """A constant prediction has R2 of at most 0, and no rank correlation rather than a made-up one."""
    true = np.random.default_rng(0).uniform(size=(5, 6))
    quality = judge_quality(np.full((5, 6), 0.5), true)
    assert quality.r2 <= 0
    assert math.isnan(quality.spearman)
    assert math.isnan(quality.slope)
