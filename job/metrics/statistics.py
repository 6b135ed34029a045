"""Intervals, paired comparisons, sample sizes and rank agreement over patients; pure numpy and scipy.

Images of one patient resemble each other, so every interval and every test is over patient means. Those of a
handful of patients rest on Student's t: a percentile bootstrap over so few is far too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ncfdtr, ndtri

from job.metrics.mean_intervals import critical_t, studentised_bootstrap, widened_t
from job.metrics.sign_flip import sign_flip_p

TIE = 1e-9
"""Differences below it are rounding, not wins."""
FEWEST_TO_RESAMPLE = 30
"""Patients from which a paired interval is a bootstrap's."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values and the confidence interval of that mean."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Uplift:
    """A paired difference, after minus before.

    `mean`, its interval `low..high` and `sd` are over patient means (`sd` is NaN for one patient); wins, ties
    and losses count images. `method` is how the interval was made: Student's t, widened where patients are
    skewed, or a studentised bootstrap (both in `job.metrics.mean_intervals`); `p_value` is two-sided, of the
    sign-flip test over patient means (NaN for one patient).
    """

    mean: float
    low: float
    high: float
    sd: float
    n_patients: int
    n_images: int
    wins: int
    ties: int
    losses: int
    p_value: float
    method: Literal["t", "bootstrap"]


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Give the mean of `values [n]` with Student's t-interval; a single value has an infinite one.

    Raises ValueError for no values, values that are not finite, or a confidence outside (0, 1).
    """
    _check_share(confidence, "confidence")
    values_n = _finite_vector(values, "values")
    n = len(values_n)
    mean = float(values_n.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, n)
    half_width = critical_t(n - 1, confidence) * float(values_n.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half_width, mean + half_width, n)


def patient_means(values: ArrayLike, patients: Sequence[str]) -> Floats:
    """Average `values [N]` within each patient: `[n_patients]`, in the order of sorted patient names."""
    values_N = _finite_vector(values, "values")
    if len(patients) != len(values_N):
        raise ValueError(f"{len(values_N)} values but {len(patients)} patients; give one patient an image")
    _, patient_of_N = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    sums = np.bincount(patient_of_N, weights=values_N)
    return sums / np.bincount(patient_of_N)


def patient_interval(values: ArrayLike, patients: Sequence[str], confidence: float = 0.95) -> Interval:
    """Give the mean over patients of `values [N]`, one an image, with its t-interval."""
    return t_interval(patient_means(values, patients), confidence)


def paired_uplift(
    after: ArrayLike, before: ArrayLike, patients: Sequence[str], confidence: float = 0.95
) -> Uplift:
    """Compare two scores of the same N images by their paired differences; those below `TIE` are 0.

    Equal inputs give equal bits: what is random is drawn from fixed seeds. About 5 ms for 40 patients, 20 ms
    for 200. Raises ValueError when lengths differ or a score is not finite.
    """
    after_N, before_N = _finite_vector(after, "after"), _finite_vector(before, "before")
    if len(after_N) != len(before_N):
        raise ValueError(f"{len(after_N)} scores after but {len(before_N)} before; pair them by image")
    _check_share(confidence, "confidence")
    difference_N = after_N - before_N
    # Without this, rounding of one sign in every patient would be a significant gain.
    difference_N[np.abs(difference_N) < TIE] = 0.0
    of_patients = patient_means(difference_N, patients)
    low, high, method = _paired_interval(of_patients, confidence)
    wins = int(np.count_nonzero(difference_N >= TIE))
    losses = int(np.count_nonzero(difference_N <= -TIE))
    return Uplift(
        mean=float(of_patients.mean()),
        low=low,
        high=high,
        sd=float(of_patients.std(ddof=1)) if len(of_patients) > 1 else math.nan,
        n_patients=len(of_patients),
        n_images=len(difference_N),
        wins=wins,
        ties=len(difference_N) - wins - losses,
        losses=losses,
        p_value=sign_flip_p(of_patients),
        method=method,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p of a family of tests for their number (Holm 1979, step-down), in the order given.

    An adjusted p holds whatever the tests have in common. NaN, a test that was not made, stays NaN and does
    not count. Raises ValueError for a p outside [0, 1].
    """
    made = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    if any(not 0 <= p_values[i] <= 1 for i in made):
        raise ValueError(f"every p must lie between 0 and 1, got {list(p_values)}")
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(sorted(made, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(made) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def patients_needed(sd: float, effect: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """Give the fewest patients with which a two-sided paired t-test finds `effect` with `power`.

    `sd` is that of the paired differences of patients, `effect` their mean (its sign does not matter). Exact
    by the noncentral t distribution. Raises ValueError for an effect of 0, which no number of patients can
    show.
    """
    _check_test(sd, power, confidence)
    if effect == 0 or not math.isfinite(effect):
        raise ValueError(f"effect must be finite and not 0, got {effect}")
    if sd == 0:
        return 2
    standardised = abs(effect) / sd
    z_sum = float(ndtri((1 + confidence) / 2) + ndtri(power))
    estimate = (z_sum / standardised) ** 2
    if estimate > 1e6:
        # The exact answer is larger by about two patients, which is nothing here.
        return math.ceil(estimate)
    few, many = 1, max(2, math.ceil(estimate))
    while _power(standardised, many, confidence) < power:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        if _power(standardised, middle, confidence) < power:
            few = middle
        else:
            many = middle
    return many


def smallest_detectable(sd: float, n: int, power: float = 0.8, confidence: float = 0.95) -> float:
    """Give the smallest mean difference that a two-sided paired t-test over `n` patients finds with `power`.

    Infinite for fewer than two patients, in the unit of `sd` otherwise.
    """
    _check_test(sd, power, confidence)
    if n < 2:
        return math.inf
    upper = 1.0
    while _power(upper, n, confidence) < power:
        upper *= 2
    return sd * float(brentq(lambda effect: _power(effect, n, confidence) - power, 0.0, upper, xtol=1e-12))


def within_image_spearman(predicted_NK: ArrayLike, true_NK: ArrayLike) -> Floats:
    """Correlate the ranks of K actions within each image: `[N]`, NaN where either row is constant."""
    predicted, true = _paired_rows(predicted_NK, true_NK)
    ranks_a = _centred(_ranks(predicted))
    ranks_b = _centred(_ranks(true))
    scale = np.sqrt((ranks_a**2).sum(axis=1) * (ranks_b**2).sum(axis=1))
    covariance = (ranks_a * ranks_b).sum(axis=1)
    correlation: Floats = np.divide(covariance, scale, out=np.full(len(scale), np.nan), where=scale > 0)
    return correlation


def argmax_regret(predicted_NK: ArrayLike, true_NK: ArrayLike) -> Floats:
    """Give what choosing each image's best predicted action costs: `[N]`, true best minus true of the chosen.

    Of equally good predictions the first is chosen, as every chooser does.
    """
    predicted, true = _paired_rows(predicted_NK, true_NK)
    chosen = true[np.arange(len(true)), predicted.argmax(axis=1)]
    regret: Floats = true.max(axis=1) - chosen
    return regret


def _paired_interval(
    of_patients: Floats, confidence: float
) -> tuple[float, float, Literal["t", "bootstrap"]]:
    if len(of_patients) == 1:
        return -math.inf, math.inf, "t"
    if len(of_patients) < FEWEST_TO_RESAMPLE:
        return *widened_t(of_patients, confidence), "t"
    return *studentised_bootstrap(of_patients, confidence), "bootstrap"


def _power(standardised: float, n: int, confidence: float) -> float:
    """Power of the two-sided paired t-test of n differences with mean `standardised` and sd 1."""
    if standardised == 0:
        return 1 - confidence
    # T squared is noncentral F with 1 and n - 1 degrees. scipy's noncentral t is NaN for some large shifts.
    critical_f = critical_t(n - 1, confidence) ** 2
    return float(1 - ncfdtr(1, n - 1, n * standardised**2, critical_f))


def _ranks(values_NK: Floats) -> Floats:
    """Rank each row's values from 1; equal ones share the mean of their ranks.

    As scipy.stats.rankdata, whose import takes half a second of every job.
    """
    ranks_NK = np.empty(values_NK.shape)
    for values_K, ranks_K in zip(values_NK, ranks_NK, strict=True):
        _, kinds_K, counts = np.unique(values_K, return_inverse=True, return_counts=True)
        ranks_K[:] = (counts.cumsum() - (counts - 1) / 2)[kinds_K]
    return ranks_NK


def _centred(ranks_NK: Floats) -> Floats:
    centred: Floats = ranks_NK - ranks_NK.mean(axis=1, keepdims=True)
    return centred


def _finite_vector(values: ArrayLike, name: str) -> Floats:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"{name} must be one row of at least one number, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} must be finite; leave out what could not be measured, and say so")
    return vector


def _paired_rows(predicted_NK: ArrayLike, true_NK: ArrayLike) -> tuple[Floats, Floats]:
    predicted, true = np.asarray(predicted_NK, dtype=np.float64), np.asarray(true_NK, dtype=np.float64)
    if predicted.ndim != 2 or predicted.shape != true.shape or predicted.shape[1] == 0:
        raise ValueError(f"both must be [N, K] with K >= 1, got {predicted.shape} and {true.shape}")
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("scores must be finite: NaN has no rank")
    return predicted, true


def _check_share(share: float, name: str) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {share}")


def _check_test(sd: float, power: float, confidence: float) -> None:
    _check_share(confidence, "confidence")
    _check_share(power, "power")
    if power <= 1 - confidence:
        raise ValueError(f"power {power} must exceed the test's error rate {1 - confidence:g}")
    if not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd must be finite and not negative, got {sd}")
