"""The conventions in use: the same masks give other figures by another one, so each is labelled."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.evaluation.results import Convention
from job.metrics import overlap
from job.metrics.overlap import Confusion
from job.metrics.statistics import FEWEST_TO_RESAMPLE, patient_means
from job.reward.terms import OVERLAPS

Mask = NDArray[np.bool_]
Key = tuple[str, str, str]
"""Region, resolution, candidate."""
Counts = NDArray[np.int64]
SHOWN = ("dice", "iou", "recall", "precision")
SCORING, NATIVE = "scoring", "native"
WHOLE, INSIDE = "whole frame", "inside the field of view"


def count_image(
    masks: Mapping[str, Mask], truth_HW: Mask, inside_HW: Mask, resolution: str
) -> dict[Key, Counts]:
    """Count pixels of each candidate's mask of an image, by region: int64 `[4]` of tp, fp, fn, tn.

    Masks of another size than the truth are brought to it, each pixel that of the nearest, as `predict`
    writes them.
    """
    masks_BHW = np.stack([resized(mask, truth_HW.shape) for mask in masks.values()])
    counted: dict[Key, Counts] = {}
    for region, within in ((WHOLE, None), (INSIDE, inside_HW)):
        counts = overlap.confusion(masks_BHW, truth_HW, within)
        of_masks_B4 = np.stack([counts.tp, counts.fp, counts.fn, counts.tn], axis=1)
        counted |= {(region, resolution, name): row for name, row in zip(masks, of_masks_B4, strict=True)}
    return counted


def conventions(counts: Mapping[Key, Counts], patients: Sequence[str]) -> list[Convention]:
    """Give every region, resolution and aggregation its row; `counts[key]` is `[N, 4]` of N images."""
    rows = []
    for region, resolution in dict.fromkeys(key[:2] for key in counts):
        here = {key[2]: found for key, found in counts.items() if key[:2] == (region, resolution)}
        of_patients = {name: _of_patients(found, patients) for name, found in here.items()}
        pooled = {name: _pooled(found) for name, found in here.items()}
        for aggregation, metrics in (("mean over patients", of_patients), ("pooled over pixels", pooled)):
            row = {"region": region, "resolution": resolution, "aggregation": aggregation}
            rows.append(Convention.model_validate({**row, "metrics": metrics}))
    return rows


def resized(mask_HW: Mask, shape: tuple[int, ...]) -> Mask:
    """Return a mask at another size, each pixel that of the nearest."""
    if mask_HW.shape == shape:
        return mask_HW
    picture = Image.fromarray(mask_HW).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(picture, dtype=np.bool_)


def protocol(*, width: int | None, n_patients: int, confidence: float) -> dict[str, str]:
    """Say in words how the figures of the ladder were measured."""
    grid = f"images and masks resized to a width of {width} px" if width else "the images' own pixels"
    native = "; the conventions below also score native resolution" if width else ""
    spread = (
        "bootstrap over patients"
        if n_patients >= FEWEST_TO_RESAMPLE
        else "Student's t over patient means, widened where these are skewed (Hall 1992)"
    )
    return {
        "region": "whole frame; the conventions below also count inside the field of view alone",
        "resolution": grid + native,
        "aggregation": "mean over the images of a patient, then over patients",
        "threshold": "part of the action: tuned on training images, chosen between on validation images,"
        " never on test images",
        "empty masks": "two empty masks score 1; an empty mask or an empty truth alone scores 0",
        "connectivity": "foreground 8-connected, background 4-connected; skeletons at scoring resolution",
        "statistics": f"paired by image, {confidence:.0%} intervals by {spread}, p by the sign-flip test over"
        " patients, Holm's correction over the three experiments",
    }


def _of_patients(counts_N4: Counts, patients: Sequence[str]) -> dict[str, float]:
    counts = Confusion(*counts_N4.T)
    return {metric: float(patient_means(OVERLAPS[metric](counts), patients).mean()) for metric in SHOWN}


def _pooled(counts_N4: Counts) -> dict[str, float]:
    counts = Confusion(*counts_N4.sum(axis=0, keepdims=True).T)
    return {metric: float(OVERLAPS[metric](counts)[0]) for metric in SHOWN}
