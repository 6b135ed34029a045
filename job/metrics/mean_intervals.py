"""Intervals for a mean difference that keep their promise where differences are skewed.

A candidate that gains a little on most patients and loses much on a few looks better than it is: with
exponential losses and no effect at all, Student's t-interval over 8 patients lies above 0 in 10 % of studies
instead of 2.5 %. Both intervals here take the skewness of the sample into account.
"""

import math

import numpy as np
import scipy
from numpy.typing import NDArray

RESAMPLES = 9_999
SEED = 2
DRAWS_AT_ONCE = 2_000_000
"""Bounds memory: resampled values held at a time."""
SKEWNESS_SEEN = 0.8
"""Share of the true skewness that a small sample shows. Skewness in a sample of n cannot exceed sqrt(n), so a
few patients understate a strong one; 0.8 is what keeps the promise of `widened_t` for exponential losses."""

Floats = NDArray[np.float64]


def widened_t(values: Floats, confidence: float) -> tuple[float, float]:
    """Give Student's t-interval of the mean of `values [n]`, n >= 2, widened to the side of the longer tail.

    The bound on that side is moved to where the t statistic, freed of its skewness by Hall's cubic
    transformation (1992, "On the removal of skewness by transformation"), puts it; the other stays, so that
    the result always holds the plain interval, and equals it for symmetric values.

    Share of studies without an effect that are called `improved` (20,000 studies of two images a patient,
    standard error 0.13 %; in brackets with the plain interval) over 8 and 14 patients: normal 1.7 and 2.1 %
    (2.2, 2.3); heavy tails (Student's t, 3 degrees) 1.6 and 1.8 % (1.8, 2.1); exponential losses of images
    and patients, skewness 1.4, 3.5 and 3.4 % (5.6, 5.7). Of patients alone, skewness 2: 4.0 and 3.3 % (9, 8).
    Its limit: lognormal losses (sigma 0.75) reach 4.6 and 3.9 % (7.2, 6.9).
    """
    n = len(values)
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if _equal(values):
        return mean, mean
    critical, error = critical_t(n - 1, confidence), sd / math.sqrt(n)
    skewness = _skewness(values, mean, sd) / SKEWNESS_SEEN
    return (
        mean - error * max(critical, _untransformed(critical, skewness, n)),
        mean + error * max(critical, -_untransformed(-critical, skewness, n)),
    )


def studentised_bootstrap(values: Floats, confidence: float) -> tuple[float, float]:
    """Give the bootstrap-t interval of the mean of `values [n]` (Efron & Tibshirani 1993, section 12.5).

    `RESAMPLES` from a fixed seed, so that equal values give equal bits. A resample without spread has no t
    statistic and is left out.

    Chosen over BCa (in brackets, of 2,000 studies, standard error 0.4 %) by the share of studies as above,
    over 40 patients, that are called `improved` (6,000 studies, standard error 0.2 %): normal 2.8 % (2.5),
    heavy tails 2.4 % (2.2), exponential losses of images and patients 3.3 % (3.8), of patients alone 3.5 %
    (4.4), lognormal ones 3.7 % (4.8).
    """
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if _equal(values):
        return mean, mean
    rng = np.random.default_rng(SEED)
    n, statistics = len(values), []
    at_once = max(1, DRAWS_AT_ONCE // n)
    for start in range(0, RESAMPLES, at_once):
        resamples = min(at_once, RESAMPLES - start)
        # Centred and scaled values lose no digits in the sum of squares.
        drawn = ((values - mean) / sd)[rng.integers(0, n, (resamples, n), dtype=np.int32)]
        shift = drawn.mean(axis=1)
        variance = (np.einsum("rn,rn->r", drawn, drawn) - n * shift**2) / (n - 1)
        spread = variance > 1e-12
        statistics.append(shift[spread] / np.sqrt(variance[spread]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(statistics), [tail, 1 - tail])
    return mean - sd * float(high), mean - sd * float(low)


def critical_t(degrees: int, confidence: float) -> float:
    """Give the two-sided critical value of Student's t."""
    return float(scipy.special.stdtrit(degrees, (1 + confidence) / 2))


def _skewness(values: Floats, mean: float, sd: float) -> float:
    """Fisher's G1, the skewness as spreadsheets and statistics packages estimate it; 0 for two values."""
    n = len(values)
    if n < 3:
        return 0.0
    return n / ((n - 1) * (n - 2)) * float((((values - mean) / sd) ** 3).sum())


def _untransformed(normal: float, skewness: float, n: int) -> float:
    """Give the t statistic whose transform is `normal`.

    The transform is g(t) = t + a t^2 + a^2 t^3 / 3 + a / 2 with a = skewness / (3 sqrt(n)), whose inverse is
    ((1 + 3 a x)^(1/3) - 1) / a with x = normal - a / 2; written without the division by an `a` near 0.
    """
    a = skewness / (3 * math.sqrt(n))
    x = normal - a / 2
    root = float(np.cbrt(1 + 3 * a * x))
    return 3 * x / (root * root + root + 1)


def _equal(values: Floats) -> bool:
    """Tell whether the values differ by rounding at most."""
    return float(np.ptp(values)) <= 1e-12 * float(np.abs(values).max())
