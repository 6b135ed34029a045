"""Raw features of an image and of its logits, without the truth: what a chooser may look at."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

IMAGE_STATISTICS: Final = ("contrast", "sharpness", "noise", "mean_red", "mean_green", "mean_blue")
MAX_STATISTICS: Final = 48
"""An observation has 64 places, some of them for the embedding: later prompts go without statistics."""

_LONGEST_PX = 1024
_PIXELS_AT_ONCE = 2**20
_GREEN = 1
_SMALLEST_FIELD = 0.02
_DARKEST_FIELD = 0.12

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]


def image_statistics(image_HWC: NDArray[np.uint8], fov_HW: Mask | None = None) -> dict[str, float]:
    """Describe a photograph inside its field of view (estimated when None or empty); levels are in 0..1.

    Lengths are counted in units of the field, the square root of its area, so a black frame changes nothing
    and resolution little; fields of more than 1,024 px are averaged down first.

    * `contrast`: standard deviation of green about its local mean (window: an eighth of the field).
    * `sharpness`: root mean square of green's steps over 1/256 of the field (at least a pixel), over the
      contrast: blur lowers it, a veil does not.
    * `noise`: standard deviation by a difference of Laplacians (Immerkaer, Fast Noise Variance Estimation,
      CVIU 1996).
    * `mean_red`, `mean_green`, `mean_blue`.
    """
    fov = fov_HW if fov_HW is not None and fov_HW.any() else estimate_field(image_HWC)
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixels_HWC, fov = _reduced(image_HWC[box], fov[box])
    unit_px = math.sqrt(fov.sum())
    green = np.ascontiguousarray(pixels_HWC[..., _GREEN])
    inner = _eroded(fov, unit_px / 64)
    contrast = _contrast(green, fov, inner, unit_px / 8)
    red_mean, green_mean, blue_mean = (float(v) for v in pixels_HWC[fov].mean(axis=0, dtype=np.float64))
    return {
        "contrast": contrast,
        "sharpness": _steps(green, inner, max(1, round(unit_px / 256))) / max(contrast, 1 / 255),
        "noise": _noise(green, inner),
        "mean_red": red_mean,
        "mean_green": green_mean,
        "mean_blue": blue_mean,
    }


def estimate_field(image_HWC: NDArray[np.uint8]) -> Mask:
    """Guess the field of view `[H, W]`: the brightest channel, smoothed, exceeds 12 % of its highest value.

    The whole frame where that finds next to nothing, as in a black picture.
    """
    brightest = ndimage.uniform_filter(image_HWC.max(axis=2).astype(np.float32), 5, mode="nearest")
    field = brightest > _DARKEST_FIELD * brightest.max()
    return field if field.mean() >= _SMALLEST_FIELD else np.ones_like(field)


def prompt_statistics(logits_PHW: NDArray[np.float16]) -> Float:
    """Return `[P, 2]`: the share of foreground (probability > 0.5), and the mean probability on it.

    Confidence is taken on the foreground alone, as the background, nearly all of the image, would drown it;
    it is 0.5 where there is no foreground. Raises ValueError for NaN.
    """
    rows = np.empty((len(logits_PHW), 2), np.float32)
    for p, logits_HW in enumerate(logits_PHW):
        if np.isnan(logits_HW).any():
            raise ValueError(f"the logits of prompt {p} hold NaN")
        foreground = logits_HW[logits_HW > 0].astype(np.float64)
        rows[p, 0] = foreground.size / logits_HW.size
        rows[p, 1] = (1 / (1 + np.exp(-foreground))).mean() if foreground.size else 0.5
    return rows


def statistics_vector(
    image_HWC: NDArray[np.uint8], fov_HW: Mask | None, logits_PHW: NDArray[np.float16]
) -> tuple[tuple[str, ...], Float]:
    """Return names and float32 values `[S]`, S <= 48: those of the image, then those of the first prompts."""
    image = image_statistics(image_HWC, fov_HW)
    n_prompts = min(len(logits_PHW), (MAX_STATISTICS - len(image)) // 2)
    prompts = prompt_statistics(logits_PHW[:n_prompts])
    of_prompts = (f"prompt_{p}_{what}" for p in range(n_prompts) for what in ("share", "confidence"))
    values = np.concatenate([np.array(list(image.values()), np.float32), prompts.ravel()])
    return (*image, *of_prompts), values


def _reduced(image_HWC: NDArray[np.uint8], fov: Mask) -> tuple[Float, Mask]:
    factor = math.ceil(math.sqrt(fov.sum()) / _LONGEST_PX)
    if factor == 1:
        return image_HWC.astype(np.float32) / np.float32(255), fov
    height, width = (side // factor for side in fov.shape)
    reduced_hwC = np.empty((height, width, 3), np.float32)
    at_once = max(1, _PIXELS_AT_ONCE // (factor * factor * width))
    # All at once, a large picture would take 40 times the memory of what is left of it.
    for top in range(0, height, at_once):
        rows = image_HWC[top * factor : min(height, top + at_once) * factor, : width * factor]
        blocks = (rows.astype(np.float32) / np.float32(255)).reshape(-1, factor, width, factor, 3)
        reduced_hwC[top : top + at_once] = blocks.mean(axis=(1, 3))
    return reduced_hwC, fov[: height * factor : factor, : width * factor : factor]


def _eroded(fov: Mask, margin_px: float) -> Mask:
    """Move away from the rim, whose edge is the strongest of all; the rim of a tiny field is kept."""
    size = 2 * math.ceil(margin_px) + 1
    inner = ndimage.minimum_filter(fov, size, mode="constant", cval=0)
    return inner if inner.any() else fov


def _contrast(green: Float, fov: Mask, inner: Mask, window_px: float) -> float:
    size = 2 * round(window_px / 2) + 1
    weight = ndimage.uniform_filter(fov.astype(np.float32), size, mode="constant")
    total = ndimage.uniform_filter(np.where(fov, green, np.float32(0)), size, mode="constant")
    detail = green[inner] - total[inner] / weight[inner]
    return float(np.sqrt(np.mean(np.square(detail), dtype=np.float64)))


def _steps(green: Float, inner: Mask, step: int) -> float:
    squares, count = 0.0, 0
    for here, there in (
        (np.s_[:, step:], np.s_[:, :-step]),
        (np.s_[step:, :], np.s_[:-step, :]),
    ):
        both = inner[here] & inner[there]
        squares += float(np.square((green[here] - green[there])[both]).sum(dtype=np.float64))
        count += int(both.sum())
    return math.sqrt(squares / max(count, 1))


def _noise(green: Float, inner: Mask) -> float:
    if min(green.shape) < 3:
        return 0.0
    rows = green[:-2] - 2 * green[1:-1] + green[2:]
    laplacian = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])[inner[1:-1, 1:-1]]
    # The mask's coefficients have a sum of squares of 36, and E|x| is sqrt(2 / pi) sigma.
    return math.sqrt(math.pi / 2) / 6 * float(laplacian.mean(dtype=np.float64)) if laplacian.size else 0.0
