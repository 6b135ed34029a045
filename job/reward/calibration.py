"""How far predicted quality can be trusted: a judge's figures, conformal intervals, a review threshold."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from job.metrics.statistics import argmax_regret, within_image_spearman

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class JudgeQuality:
    """How well predicted Dice `[N, K]` agrees with true Dice; all but `spearman` and `r2` in units of Dice.

    `r2` is against predicting the mean of these very masks: 0 is worthless. `spearman` is the mean of the
    within-image rank correlations (NaN if no image has one). `regret` is what choosing each image's best
    predicted mask costs, `oracle_gap` what the best single column (action) costs. `slope` and `intercept`
    are of the least-squares line true = intercept + slope * predicted.
    """

    mse: float
    mae: float
    r2: float
    spearman: float
    regret: float
    oracle_gap: float
    slope: float
    intercept: float
    interval_halfwidth: float


def judge_quality(predicted_NK: ArrayLike, true_NK: ArrayLike, *, coverage: float = 0.9) -> JudgeQuality:
    """Measure a judge on N images it never saw under K actions.

    `interval_halfwidth` is `conformal_halfwidth` of the masks that the judge itself likes best, one an image:
    choosing by a score favours its errors, so that other choosers' masks fare no worse as a rule.
    """
    predicted, true = np.asarray(predicted_NK, dtype=np.float64), np.asarray(true_NK, dtype=np.float64)
    error = predicted - true
    variance = float(true.var())
    mse = float((error**2).mean())
    spearman_N = within_image_spearman(predicted, true)
    has_ranks = np.isfinite(spearman_N)
    rows, chosen_N = np.arange(len(true)), predicted.argmax(axis=1)
    slope = _slope(predicted, true)
    return JudgeQuality(
        mse=mse,
        mae=float(np.abs(error).mean()),
        r2=1 - mse / variance if variance > 0 else math.nan,
        spearman=float(spearman_N[has_ranks].mean()) if has_ranks.any() else math.nan,
        regret=float(argmax_regret(predicted, true).mean()),
        oracle_gap=float(true.max(axis=1).mean() - true.mean(axis=0).max()),
        slope=slope,
        intercept=float(true.mean() - slope * predicted.mean()),
        interval_halfwidth=conformal_halfwidth(error[rows, chosen_N], coverage),
    )


def conformal_halfwidth(residuals: ArrayLike, coverage: float = 0.9) -> float:
    """Give the h with which |predicted - true| <= h holds for the mask of a new image, at rate `coverage`.

    `residuals [n]` are predicted minus true quality of one mask an image: the one that the chooser ships, on
    images that neither network nor chooser was fitted on. Split-conformal (Vovk et al. 2005, Lei et al.
    2018): the ceil((n + 1) coverage)-th smallest absolute residual. Whatever the distribution, coverage is
    then at least the stated rate on average over calibration sets, if images are exchangeable: choosing an
    epoch on the same images, or several images of one patient, loosens the promise. Infinite where n is too
    small for any. Raises ValueError for a residual that is not finite or a coverage outside (0, 1).
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage}")
    sizes = np.sort(np.abs(np.asarray(residuals, dtype=np.float64)))
    if sizes.ndim != 1 or not np.isfinite(sizes).all():
        raise ValueError("residuals must be one finite number an image")
    # Rounding first: (9 + 1) * 0.9 must count as 9, not as 9.000000000000002.
    rank = math.ceil(round((len(sizes) + 1) * coverage, 9))
    return float(sizes[rank - 1]) if rank <= len(sizes) else math.inf


def quality_interval(score: float, halfwidth: float) -> tuple[float, float]:
    """Give the interval of a predicted quality, cut to what a quality can be: low and high in [0, 1]."""
    return max(0.0, score - halfwidth), min(1.0, score + halfwidth)


def coverage(predicted: ArrayLike, true: ArrayLike, halfwidth: float) -> float:
    """Give the share of images whose true quality `[n]` lies within `halfwidth` of the predicted `[n]`.

    Raises ValueError for no image, qualities that are not finite, or a negative half-width.
    """
    predicted_n, true_n = _paired_qualities(predicted, true)
    if not halfwidth >= 0:
        raise ValueError(f"a half-width is at least 0, got {halfwidth}")
    return float((np.abs(predicted_n - true_n) <= halfwidth).mean())


class ReviewWorth(NamedTuple):
    """Mean true quality of all masks, and of those that are kept when the rest goes to a person."""

    all: float
    kept: float
    """Without the masks of least predicted quality."""
    kept_at_random: float
    """Without as many drawn at random: the mean over all draws, which is the mean of all."""
    kept_at_best: float
    """Without the truly worst: the most that any flag could do."""


def review_worth(predicted: ArrayLike, true: ArrayLike, share: float = 0.2) -> ReviewWorth:
    """Measure what sending `share` of the masks to review is worth, on predicted and true quality `[n]`.

    The share is rounded down to whole masks: never more are sent than was asked for, and one is always kept.
    Of equally predicted masks all orders count alike, so that a judge that says one number gains nothing.
    Raises ValueError for no mask, qualities that are not finite, or a share outside (0, 1).
    """
    predicted_n, true_n = _paired_qualities(predicted, true)
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    # Rounding first: 0.29 * 100 must count as 29, not as 28.999999999999996.
    n_sent = math.floor(round(len(true_n) * share, 9))
    _, tied_n = np.unique(predicted_n, return_inverse=True)
    expected_n = (np.bincount(tied_n, weights=true_n) / np.bincount(tied_n))[tied_n]
    mean = float(true_n.mean())
    return ReviewWorth(
        all=mean,
        kept=float(expected_n[predicted_n.argsort(kind="stable")][n_sent:].mean()),
        kept_at_random=mean,
        kept_at_best=float(np.sort(true_n)[n_sent:].mean()),
    )


def review_threshold(predicted: ArrayLike, share: float = 0.2) -> float:
    """Give the predicted quality below which a mask should be looked at by a person.

    `predicted [n]` are the qualities of the masks that would ship on validation; about `share` of masks like
    them are flagged. Raises ValueError for none, or for a share outside (0, 1).
    """
    qualities = np.asarray(predicted, dtype=np.float64)
    if qualities.ndim != 1 or not qualities.size or not 0 < share < 1:
        raise ValueError(f"need qualities [n] and a share between 0 and 1, got {qualities.shape} and {share}")
    return float(np.quantile(qualities, share))


def _paired_qualities(predicted: ArrayLike, true: ArrayLike) -> tuple[Scores, Scores]:
    predicted_n, true_n = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted_n.ndim != 1 or predicted_n.shape != true_n.shape or not predicted_n.size:
        raise ValueError(f"need predicted and true qualities [n], got {predicted_n.shape} and {true_n.shape}")
    if not (np.isfinite(predicted_n).all() and np.isfinite(true_n).all()):
        raise ValueError("qualities must be finite")
    return predicted_n, true_n


def _slope(predicted: Scores, true: Scores) -> float:
    spread = float(predicted.var())
    covariance = float(((predicted - predicted.mean()) * (true - true.mean())).mean())
    return covariance / spread if spread > 0 else math.nan
