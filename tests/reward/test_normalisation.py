"""Scales of terms: what only differs between images, or not at all, must not count."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.reward.normalisation import effective_weights, scales
from job.reward.terms import combine


def made(seed: int, n: int = 6, k: int = 5) -> dict[str, np.ndarray]:
    """Two terms of very different spread, and one that only differs between images."""
    rng = np.random.default_rng(seed)
    return {
        "dice": rng.uniform(0.2, 0.9, (n, k)),
        "recall": 0.5 + rng.uniform(-0.01, 0.01, (n, k)),
        "betti": np.repeat(rng.uniform(size=(n, 1)), k, axis=1),
    }


def test_scales_are_within_image_deviations() -> None:
    """Recomputed with the standard library: the root of the mean variance over actions."""
    scores = made(0)
    found = scales(scores, {"dice": 1.0, "recall": 2.0, "betti": 0.0}, normalise=True)
    assert list(found) == ["dice", "recall"]
    for term, scale in found.items():
        variances = [statistics.pvariance(map(float, row)) for row in scores[term]]
        assert scale == pytest.approx(statistics.fmean(variances) ** 0.5)


@given(seed=st.integers(0, 50), factor=st.floats(0.01, 100))
def test_a_normalised_reward_does_not_depend_on_a_term_s_unit(seed: int, factor: float) -> None:
    """A term that is stretched is divided by as much more: the weighted sum stays."""
    weights = {"dice": 0.5, "recall": 0.5}
    scores = made(seed)
    stretched = scores | {"dice": scores["dice"] * factor}
    rewards = [
        combine(s, effective_weights(weights, scales(s, weights, normalise=True)))
        for s in (scores, stretched)
    ]
    np.testing.assert_allclose(*rewards, rtol=1e-9)
    assert rewards[0].var(axis=1).min() > 0


def test_equally_weighted_terms_differ_equally_once_normalised() -> None:
    """The term of a fiftieth of the spread moves the choice as much as the other."""
    scores, weights = made(3), {"dice": 1.0, "recall": 1.0}
    effective = effective_weights(weights, scales(scores, weights, normalise=True))
    deviations = [np.sqrt((effective[term] * scores[term]).var(axis=1).mean()) for term in weights]
    assert deviations == pytest.approx([1.0, 1.0])


def test_without_normalising_weights_are_the_spec_s() -> None:
    """Every scale is 1, scores are not even looked at, and weights of 0 are left out."""
    weights = {"dice": 0.7, "recall": -0.3, "betti": 0.0}
    assert scales({}, weights, normalise=False) == {"dice": 1.0, "recall": 1.0}
    assert effective_weights(weights, {"dice": 1.0, "recall": 1.0}) == {"dice": 0.7, "recall": -0.3}


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_a_term_that_never_varies_keeps_its_weight(noise: float) -> None:
    """Neither division by 0 nor rounding blown up: the audit has to see that the term is flat."""
    flat = np.full((4, 6), 0.3) + noise * np.random.default_rng(0).normal(size=(4, 6))
    assert scales({"reward_net": flat}, {"reward_net": 1.0}, normalise=True) == {"reward_net": 1.0}


def test_unlabelled_images_count_for_no_term() -> None:
    """The network scores unlabelled images too, but all scales are of the same images."""
    scores = made(1)
    scores["dice"][2] = np.nan
    weights = {"dice": 1.0, "recall": 1.0}
    labelled = {term: np.delete(values, 2, axis=0) for term, values in scores.items()}
    assert scales(scores, weights, normalise=True) == scales(labelled, weights, normalise=True)


def test_nothing_to_normalise_by_is_refused() -> None:
    """A term without scores, and images of which none is labelled."""
    with pytest.raises(ValueError, match="no scores for iou"):
        scales(made(0), {"iou": 1.0}, normalise=True)
    with pytest.raises(ValueError, match="every term"):
        scales({"dice": np.full((2, 3), np.nan)}, {"dice": 1.0}, normalise=True)
