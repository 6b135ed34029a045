"""Figures of a judge, and conformal intervals that cover what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from job.reward.calibration import conformal_halfwidth, judge_quality, quality_interval, review_threshold


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
