"""Pictures that look alike: fingerprints that survive copying, and held-out images that were seen before."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from job.checks.evidence import Leak
from job.data.samples import UNLABELLED, Sample
from job.progress import SILENT, Progress, Task

OTHER: Final = "other:"
"""How the split of an image begins that belongs to a further dataset, whose name follows."""

_WORKING_PX = 192
_GRID = 48
_FINE, _COARSE = 0.9, 2.25
_LOCAL = 2 * _COARSE
_FLAT = 0.5
_CLIP = 3.0
_INSIDE = 0.88
_DARK = 0.15
_FRAGMENTS = 0.1
_BLOCK = 64

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


def fingerprint(image_HWC: NDArray[np.uint8]) -> Float:
    """Return a unit vector `[2304]` that copies of a picture share and other pictures do not.

    Green, averaged to 48 x 48 cells over the field of view, between two Gaussians (a difference that keeps
    vessels and drops shading), divided by its local deviation. The cells are laid by mean and deviation of
    the field's coordinates, not by its outermost pixels: so re-encoding, resizing, brightness, contrast,
    gamma, trimmed and added borders move them little. Bright lines on black have no field: the whole frame
    is compared. A picture of one colour gets the zero vector, which resembles nothing.
    """
    image_hwc = _reduced(image_HWC)
    field = _field(image_hwc)
    green, inside = _cells(image_hwc[..., 1], field)
    if _inner(inside).mean() < _FRAGMENTS:
        green, inside = _cells(image_hwc[..., 1], np.ones_like(field))

    def mean(values: Float, sigma: float) -> Float:
        return np.divide(_blurred(values * inside, sigma), np.maximum(_blurred(inside, sigma), 1e-3))

    band = mean(green, _FINE) - mean(green, _COARSE)
    band /= np.sqrt(mean(band**2, _LOCAL)) + _FLAT
    # The rim of the field would be the same bright ring in every photograph of a camera.
    band = np.clip(band, -_CLIP, _CLIP) * _inner(inside)
    norm = float(np.linalg.norm(band))
    vector: Float = (band / norm if norm > 1e-3 else np.zeros_like(band)).ravel()
    return vector


def find_leaks(
    samples: Sequence[Sample], fingerprints_ND: Float, threshold: float = 0.0, progress: Progress = SILENT
) -> list[Leak]:
    """Pair each held-out image with what it resembles most in each split that was seen before.

    Validation images are compared with those to learn from (`train`, `unlabelled`), test images and those of
    further datasets (`other:NAME`) with these and with `validation`, where the choice is made. Within a split
    images of different patients are compared too: one photograph under many names is not many patients, and
    folds of a cross-fitted network must not share it. Mirrored and quarter-turned
    copies count. Pairs come most alike first, similarities rounded to a thousandth; those at or below
    `threshold` are left out. Time grows with held-out times seen images, memory with their sum.
    """
    splits = sorted({sample.split for sample in samples if sample.split is not None})
    rows_of = {split: [i for i, s in enumerate(samples) if s.split == split] for split in splits}
    pairs = [(held_out, seen) for held_out in splits for seen in splits if _order(seen) < _order(held_out)]
    within = [split for split in splits if split != UNLABELLED]
    n_rows = sum(len(rows_of[held_out]) for held_out, _ in pairs) + sum(len(rows_of[s]) for s in within)
    with progress.task("looking for copies", n_rows, "images") as task:
        leaks = [
            Leak(samples[row].name, held_out, samples[nearest].name, seen, similarity)
            for held_out, seen in pairs
            for row, nearest, similarity in _nearest(rows_of[held_out], rows_of[seen], fingerprints_ND, task)
            if similarity > threshold
        ]
        leaks += [
            Leak(samples[row].name, split, samples[nearest].name, split, similarity)
            for split in within
            for row, nearest, similarity in _nearest_before(rows_of[split], samples, fingerprints_ND, task)
            if similarity > threshold
        ]
    return sorted(leaks, key=lambda leak: (-leak.similarity, leak.held_out_split, leak.held_out))


def find_copies(fingerprints_ND: Float, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield row numbers `(original, copy)`: of the pictures before a copy the one that it resembles most.

    A picture is a copy when it resembles one before it by more than `threshold`.
    """
    for block in _blocks(range(len(fingerprints_ND))):
        similar_BM = _similarity(fingerprints_ND[block], fingerprints_ND[: block[-1] + 1])
        for row, similar_M in zip(block, similar_BM, strict=True):
            if row and similar_M[:row].max() > threshold:
                yield int(similar_M[:row].argmax()), row


def _nearest(
    held_out: Sequence[int], seen: Sequence[int], fingerprints_ND: Float, task: Task
) -> Iterator[tuple[int, int, float]]:
    """Yield each held-out row with the seen row most like it, and how alike they are."""
    seen_MD = fingerprints_ND[list(seen)]
    for block in _blocks(held_out):
        task.advance(len(block))
        similar_BM = _similarity(fingerprints_ND[block], seen_MD)
        for row, similar_M in zip(block, similar_BM, strict=True):
            nearest = int(similar_M.argmax())
            yield row, seen[nearest], round(float(similar_M[nearest]), 3)


def _nearest_before(
    rows: Sequence[int], samples: Sequence[Sample], fingerprints_ND: Float, task: Task
) -> Iterator[tuple[int, int, float]]:
    """Yield each row with the one before it, of another patient, that is most like it."""
    _, patient_M = np.unique([samples[row].patient for row in rows], return_inverse=True)
    rows_M = np.asarray(rows)
    for block in _blocks(range(1, len(rows))):
        task.advance(len(block))
        similar_BM = _similarity(fingerprints_ND[rows_M[block]], fingerprints_ND[rows_M[: block[-1]]])
        for position, similar_M in zip(block, similar_BM, strict=True):
            others_M = np.where(patient_M[:position] != patient_M[position], similar_M[:position], -np.inf)
            nearest = int(others_M.argmax())
            if np.isfinite(others_M[nearest]):
                yield int(rows_M[position]), int(rows_M[nearest]), round(float(others_M[nearest]), 3)


def _order(split: str) -> int:
    """Say when a split is seen: to learn from, to choose on, to judge by."""
    return 0 if split in ("train", UNLABELLED) else 1 if split == "validation" else 2


def _similarity(held_out_BD: Float, seen_MD: Float) -> Float:
    """Return `[B, M]`: the highest cosine over the eight ways to turn and mirror a picture.

    Rounded, so that exact copies tie and the first of them is named on any processor.
    """
    grids_BHW = held_out_BD.reshape(-1, _GRID, _GRID)
    best = np.zeros((len(held_out_BD), len(seen_MD)), np.float32)
    for quarter_turns in range(4):
        turned = np.rot90(grids_BHW, quarter_turns, axes=(1, 2))
        for either in (turned, turned[:, :, ::-1]):
            np.maximum(best, either.reshape(held_out_BD.shape) @ seen_MD.T, out=best)
    return np.round(best, 3)


def _blocks(rows: Sequence[int]) -> Iterator[list[int]]:
    return (list(rows[start : start + _BLOCK]) for start in range(0, len(rows), _BLOCK))


def _reduced(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize to one size: the field is found alike in copies of any resolution."""
    height, width = image_HWC.shape[:2]
    scale = _WORKING_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.ascontiguousarray(image_HWC))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def _field(image_hwc: NDArray[np.uint8]) -> Mask:
    """Guess the field of view: the brightest channel, smoothed, exceeds 15 % of its root mean square.

    Unlike the brightest spot, which `features.estimate_field` goes by, that hardly changes when a picture is
    turned grey or its gamma is: of CHASE_DB1 in its green alone, some would not be known again.
    """
    brightest = ndimage.uniform_filter(image_hwc.max(axis=2).astype(np.float32), 5, mode="nearest")
    return np.asarray(brightest >= _DARK * np.sqrt(np.square(brightest).mean()))


def _cells(channel_hw: NDArray[np.uint8], field_hw: Mask) -> tuple[Float, Float]:
    """Average over the cells: the channel inside the field, and the share of each cell that is."""
    (left, right), (top, bottom) = _range(field_hw.sum(axis=0)), _range(field_hw.sum(axis=1))
    # A field in two parts reaches up to 0.62 of the picture beyond it; resize takes no box that does.
    margin = round(0.65 * _WORKING_PX)
    box = left + margin, top + margin, right + margin, bottom + margin

    def cells(values_hw: NDArray[Any]) -> Float:
        padded = Image.fromarray(np.pad(values_hw.astype(np.float32), margin))
        return np.asarray(padded.resize((_GRID, _GRID), Image.Resampling.BILINEAR, box=box))

    inside = cells(field_hw)
    return np.divide(cells(channel_hw * field_hw), np.maximum(inside, 1e-3)), inside


def _range(weights: NDArray[np.int_]) -> tuple[float, float]:
    """Return two standard deviations to either side of the mean: the edges of an ellipse."""
    share = weights / weights.sum()
    position = np.arange(len(weights)) + 0.5
    mean = float(share @ position)
    spread = 2 * float(np.sqrt(share @ (position - mean) ** 2 + 1 / 12))  # a pixel is as wide as a pixel
    return mean - spread, mean + spread


def _inner(inside: Float) -> Mask:
    return np.asarray(_blurred(inside, 2.0) > _INSIDE)


def _blurred(values_HW: Float, sigma: float) -> Float:
    blurred: Float = ndimage.gaussian_filter(values_HW, sigma, mode="constant")
    return blurred
