"""From bytes and masks to the reward network's working grid."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from job.reward.coverage import coverage

N_CHANNELS = 5
_DARK = 18 / 255  # pixels whose brightest channel is below lie outside the field of view
_FLOOR = 0.012  # a deviation below three grey levels is noise; it is not blown up to look like contrast
_WINDOWS_A_SIDE = (
    10  # local contrast looks at a tenth of the image: wider than vessels, narrower than shading
)


def working_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Give the grid on which an image is judged: its own size, or shrunk to `max_side`, never enlarged."""
    scale = min(1.0, max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def image_channels(image_HWC: NDArray[np.uint8], max_side: int) -> Tensor:
    """Return float32 `[5, h, w]` on the working grid: standardised RGB, local contrast of green, the field.

    Statistics are taken inside the bright field of view and forgive what a camera does (exposure, white
    balance, uneven light). Raises ValueError unless the image is uint8 `[H, W, 3]` with at least one pixel.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or not image_HWC.size:
        raise ValueError(f"an image must be uint8 [H, W, 3], got {image_HWC.dtype} {image_HWC.shape}")
    size = working_size(image_HWC.shape[0], image_HWC.shape[1], max_side)
    pixels = torch.from_numpy(image_HWC.astype(np.float32) / 255).permute(2, 0, 1)[None]
    rgb = _shrunk(pixels, size)
    inside = (rgb.amax(1, keepdim=True) > _DARK).to(torch.float32)
    inside = F.max_pool2d(-F.max_pool2d(-inside, 3, 1, 1), 3, 1, 1)  # opening: specks of noise are no field
    overall = _standardised(rgb, inside)
    green = rgb[:, 1:2]
    window = max(size) // _WINDOWS_A_SIDE | 1  # odd, so that it has a centre
    share = _window_mean(inside, window).clamp(min=1e-3)
    residue = (green - _window_mean(green * inside, window) / share) * inside
    local = _standardised(residue, inside)
    return torch.cat([overall, local, inside], dim=1).clamp(-4, 4)[0]


def mask_coverage(masks_BHW: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Return `coverage` of masks as a tensor: float32 `[B, h, w]` in 0..1."""
    return torch.from_numpy(coverage(masks_BHW, size))


def _shrunk(x_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    return x_BCHW if tuple(x_BCHW.shape[-2:]) == size else F.adaptive_avg_pool2d(x_BCHW, size)


def _standardised(x_BCHW: Tensor, inside_B1HW: Tensor) -> Tensor:
    area = inside_B1HW.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (x_BCHW * inside_B1HW).sum((2, 3), keepdim=True) / area
    centred = (x_BCHW - mean) * inside_B1HW
    deviation = (centred**2).sum((2, 3), keepdim=True).div(area).sqrt()
    return centred / (deviation + _FLOOR)


def _window_mean(x_BCHW: Tensor, window: int) -> Tensor:
    half = window // 2
    rows = F.avg_pool2d(x_BCHW, (window, 1), 1, (half, 0), count_include_pad=True)
    return F.avg_pool2d(rows, (1, window), 1, (0, half), count_include_pad=True)
