"""The sign-flip test against counting every pattern, against scipy, and under its null."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from job.metrics import sign_flip
from job.metrics.sign_flip import sign_flip_p


def _p_by_counting(differences):
    """The share of all sign patterns whose sum is as far from 0, in whole numbers."""
    patterns = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    return float(np.mean(np.abs(patterns @ differences) >= abs(differences.sum())))


@settings(deadline=None)
@given(hnp.arrays(np.int64, st.integers(2, 11), elements=st.integers(-6, 6)))
def test_every_pattern_is_counted(differences):
    """Ties, zeros and a sum of 0 included: thousandths of a Dice, which do not add up exactly in floats."""
    assert sign_flip_p(differences / 1000) == _p_by_counting(differences)


@pytest.mark.parametrize("n", [5, 8, 12])
def test_equals_scipys_exact_permutation_test(n):
    """Over samples of paired differences, all patterns."""
    differences = np.random.default_rng(n).normal(0.02, 0.03, n)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip_p(differences) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [20, 29])
def test_the_most_that_are_counted(n):
    """Known without counting: differences of equal size are binomial, and one pattern in 2^n is all gains."""
    gains = np.random.default_rng(n).uniform(0.01, 0.1, n)
    assert sign_flip_p(gains) == 2.0 ** (1 - n)
    equal = np.where(np.arange(n) < 5, -0.1, 0.1)
    assert sign_flip_p(equal) == pytest.approx(stats.binomtest(5, n).pvalue, rel=1e-12)


def test_no_five_patients_reach_five_percent_and_six_do():
    """Why a verdict needs six."""
    assert sign_flip_p(np.full(5, 0.1)) == 2 / 32
    assert sign_flip_p(np.full(6, 0.1)) == 2 / 64


def test_zeros_have_no_sign():
    """Patients whose masks did not change neither help nor hinder."""
    differences = np.random.default_rng(1).normal(0.03, 0.05, 12)
    with_zeros = np.concatenate([differences, np.zeros(60)])
    assert sign_flip_p(with_zeros) == sign_flip_p(differences)


def test_nothing_to_flip():
    """One patient answers nothing; no difference anywhere is no evidence at all."""
    assert math.isnan(sign_flip_p(np.array([0.3])))
    assert sign_flip_p(np.zeros(7)) == 1.0
    assert sign_flip_p(np.array([0.2, -0.2, 0.1, -0.1])) == 1.0


@pytest.mark.parametrize("effect", [0.0, 0.3, 0.6])
def test_drawn_patterns_agree_with_all_of_them(effect, monkeypatch):
    """Random signs find the exact p within five of their standard errors, and the same p each time."""
    differences = np.random.default_rng(3).normal(effect, 1.0, 19)
    exact = sign_flip_p(differences)
    monkeypatch.setattr(sign_flip, "MOST_EXACT", 10)
    drawn = sign_flip_p(differences)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=5 * math.sqrt(exact * (1 - exact) / sign_flip.FLIPS))
    assert drawn == sign_flip_p(differences)


def test_drawn_p_is_never_zero():
    """Forty gains: the observed pattern is one of those drawn (Phipson & Smyth 2010)."""
    assert sign_flip_p(np.full(40, 0.1)) == 1 / (sign_flip.FLIPS + 1)


def test_p_is_uniform_without_an_effect():
    """Of 4,000 null samples of 10, 5 % and 20 % are below 0.05 and 0.2, though their tails are heavy."""
    samples = np.random.default_rng(5).standard_t(2, (4000, 10))
    p_values = np.array([sign_flip_p(sample) for sample in samples])
    for level in (0.05, 0.2):
        error = math.sqrt(level * (1 - level) / len(samples))
        assert np.mean(p_values <= level) == pytest.approx(level, abs=3 * error + 2 / 2**10)


@pytest.mark.parametrize("n", [29, 200])
def test_a_job_can_afford_forty(n):
    """The best of three takes well under a tenth of a second: 3 and 6 ms on a core of 2024."""
    differences = np.random.default_rng(n).normal(0.01, 0.05, n)

    def seconds():
        start = time.perf_counter()
        sign_flip_p(differences)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.1
