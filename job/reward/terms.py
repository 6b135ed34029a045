"""The terms that a reward is made of, and the only place that scores masks.

Every term lies in [0, 1] and higher is better. All but `reward_net` compare a mask with the truth.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.metrics import overlap, topology
from job.metrics.overlap import Confusion, Masks, Scores

TERMS: tuple[str, ...] = ("reward_net", "dice", "iou", "recall", "precision", "cldice", "betti", "foreground")
TRUTH_TERMS: tuple[str, ...] = tuple(term for term in TERMS if term != "reward_net")
METRICS: tuple[str, ...] = (
    "dice",
    "iou",
    "recall",
    "precision",
    "specificity",
    "cldice",
    "betti0_error",
    "betti1_error",
)

OVERLAPS: Mapping[str, Callable[[Confusion], Scores]] = {
    "dice": overlap.dice,
    "iou": overlap.iou,
    "recall": overlap.recall,
    "precision": overlap.precision,
    "specificity": overlap.specificity,
    "foreground": overlap.foreground_agreement,
}
TOPOLOGICAL = frozenset({"cldice", "betti", "betti0_error", "betti1_error"})

Judge = Callable[[NDArray[np.uint8], Masks], NDArray[Any]]
"""Scores masks `[B, H, W]` of an image `[H, W, 3]` without the truth: floats `[B]` in [0, 1]."""


def score(
    masks_BHW: Masks,
    truth_HW: Masks | None,
    terms: Sequence[str],
    *,
    inside_HW: Masks | None = None,
    image_HWC: NDArray[np.uint8] | None = None,
    judge: Judge | None = None,
) -> dict[str, Scores]:
    """Score B masks of one image by the named terms and no others: float64 `[B]` each, in [0, 1].

    Pixels outside `inside_HW` (a field of view) count for no truth term. Raises ValueError for an unknown
    term, for a truth term without a truth, for `reward_net` without image and judge, and for a judge that
    gives no number.
    """
    _check_terms(terms, truth_HW)
    scores: dict[str, Scores] = {}
    if "reward_net" in terms:
        scores["reward_net"] = _judged(masks_BHW, image_HWC, judge)
    if truth_HW is not None:
        scores |= _compared(masks_BHW, truth_HW, inside_HW, [term for term in terms if term in TRUTH_TERMS])
    return {term: scores[term] for term in terms}


def from_counts(counts: Confusion, terms: Sequence[str]) -> dict[str, Scores]:
    """Score masks by those of the terms that need no more than counts of pixels: float64 `[B]` each."""
    return {term: OVERLAPS[term](counts) for term in terms if term in OVERLAPS}


def combine(scores: Mapping[str, NDArray[Any]], weights: Mapping[str, float]) -> NDArray[Any]:
    """Add up weighted terms of one shape.

    A term of weight 0 needs no score. Raises ValueError for another term without one, and when no weight is
    left.
    """
    active = {term: weight for term, weight in weights.items() if weight != 0}
    missing = sorted(active.keys() - scores.keys())
    if missing or not active:
        raise ValueError(
            f"no scores for {', '.join(missing)}" if missing else "every weight is 0: nothing to add up"
        )
    weighted = [weight * np.asarray(scores[term], dtype=np.float64) for term, weight in active.items()]
    total: NDArray[Any] = sum(weighted[1:], start=weighted[0])
    return total


def measure(masks_BHW: Masks, truth_HW: Masks, inside_HW: Masks | None = None) -> dict[str, Scores]:
    """Measure B masks by every name of `METRICS`: float64 `[B]` each, Betti errors as counts."""
    return _compared(masks_BHW, truth_HW, inside_HW, METRICS)


def _compared(
    masks_BHW: Masks, truth_HW: Masks, inside_HW: Masks | None, names: Sequence[str]
) -> dict[str, Scores]:
    counts = overlap.confusion(masks_BHW, truth_HW, inside_HW)
    if inside_HW is not None and TOPOLOGICAL & set(names):
        masks_BHW, truth_HW = masks_BHW & inside_HW, truth_HW & inside_HW
    compared = from_counts(counts, names)
    if "cldice" in names:
        compared["cldice"] = topology.cldice(masks_BHW, truth_HW)
    if "betti" in names:
        compared["betti"] = _betti_agreement(masks_BHW, truth_HW)
    if "betti0_error" in names or "betti1_error" in names:
        b0_error, b1_error = topology.betti_errors(masks_BHW, truth_HW)
        compared |= {"betti0_error": b0_error.astype(np.float64), "betti1_error": b1_error.astype(np.float64)}
    return {name: compared[name] for name in names}


def _betti_agreement(masks_BHW: Masks, truth_HW: Masks) -> Scores:
    """Mean over components and holes of (1 + smaller count) / (1 + larger count): 1 only where both agree.

    Ratios rather than 1 / (1 + error): broken vessel masks miss by tens of components, where the latter is
    all but 0 for every action and so tells none from another.
    """
    truth_2 = np.array(topology.betti_numbers(truth_HW), dtype=np.float64)
    numbers = [topology.betti_numbers(mask_HW) for mask_HW in masks_BHW]
    numbers_B2 = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    ratios_B2 = (1 + np.minimum(numbers_B2, truth_2)) / (1 + np.maximum(numbers_B2, truth_2))
    agreement: Scores = ratios_B2.mean(axis=1)
    return agreement


def _judged(masks_BHW: Masks, image_HWC: NDArray[np.uint8] | None, judge: Judge | None) -> Scores:
    if image_HWC is None or judge is None:
        raise ValueError("the term reward_net needs the image and a judge")
    scores = np.asarray(judge(image_HWC, masks_BHW), dtype=np.float64)
    if scores.shape != (len(masks_BHW),) or not np.isfinite(scores).all():
        raise ValueError(
            f"the judge must give a finite score for each of {len(masks_BHW)} masks, got {scores}"
        )
    # A network without a squashing output may overshoot; quality has no meaning beyond empty and perfect.
    return np.clip(scores, 0.0, 1.0)


def _check_terms(terms: Sequence[str], truth_HW: Masks | None) -> None:
    unknown = [term for term in terms if term not in TERMS]
    if unknown:
        raise ValueError(f"unknown terms {', '.join(unknown)}; there are {', '.join(TERMS)}")
    untrue = [term for term in terms if term in TRUTH_TERMS]
    if truth_HW is None and untrue:
        raise ValueError(f"the terms {', '.join(untrue)} need a truth, and this image has none")
