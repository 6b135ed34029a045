"""Weights that compare: each term of the reward in units of how it differs between an image's actions."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LEAST_DEVIATION = 1e-6
"""Terms lie in [0, 1]: what varies less within an image is rounding, never to be blown up."""


def scales(
    scores: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float], *, normalise: bool
) -> dict[str, float]:
    """Give what each term of non-zero weight is divided by; 1 for all where `normalise` is off.

    `scores` are `[N, K]` of the training images. The scale is the within-image deviation of a term, as the
    root mean square over images of the deviation over actions: what only differs between images moves no
    choice, so that it must not count. Images without a truth (NaN in a term) count for no term, so that all
    scales are of the same images. A term that never varies keeps the scale 1: it moves no choice at any
    weight, and the audit says so. Raises ValueError for a term without scores, or without any labelled image.
    """
    active = [term for term, weight in weights.items() if weight != 0]
    if not normalise:
        return dict.fromkeys(active, 1.0)
    if missing := [term for term in active if term not in scores]:
        raise ValueError(f"no scores for {', '.join(missing)}")
    is_labelled_N = np.logical_and.reduce([np.isfinite(scores[term]).all(axis=1) for term in active])
    if not is_labelled_N.any():
        raise ValueError("normalising needs an image with a score for every term")
    return {term: _scale(np.asarray(scores[term], dtype=np.float64)[is_labelled_N]) for term in active}


def effective_weights(weights: Mapping[str, float], scales: Mapping[str, float]) -> dict[str, float]:
    """Give the weights of the terms as they are scored, which `terms.combine` takes: weight / scale."""
    return {term: weight / scales[term] for term, weight in weights.items() if weight != 0}


def _scale(scores_NK: NDArray[np.float64]) -> float:
    deviation = math.sqrt(float(scores_NK.var(axis=1).mean()))
    return deviation if deviation > LEAST_DEVIATION else 1.0
