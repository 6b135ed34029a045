"""From bytes to the network's input channels."""

import torch
from torch import Tensor
from torch.nn import functional as F

N_CHANNELS = 6
_DARK = 18 / 255  # pixels whose brightest channel is below lie outside the field of view
_WINDOW_PX = 25  # local contrast looks this far: wider than any vessel at the sizes the network is made for
_FLOOR = 0.012  # a deviation below three grey levels is noise; it is not blown up to look like contrast


def channels(pixels_B3HW: Tensor) -> Tensor:
    """Return float32 `[B, 6, H, W]`: standardised RGB, local contrast of green and grey, the field of view.

    Statistics are robust to what a camera does (exposure, white balance, uneven light) and never look outside
    the bright field of view, whose edge would else dominate the local contrast.
    """
    rgb = pixels_B3HW.to(torch.float32) / 255
    inside = (rgb.amax(1, keepdim=True) > _DARK).to(torch.float32)
    inside = F.max_pool2d(-F.max_pool2d(-inside, 5, 1, 2), 5, 1, 2)  # opening: specks of noise are no field
    area = inside.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (rgb * inside).sum((2, 3), keepdim=True) / area
    deviation = (((rgb - mean) * inside) ** 2).sum((2, 3), keepdim=True).div(area).sqrt()
    overall = (rgb - mean) / (deviation + _FLOOR) * inside

    detail = torch.cat([rgb[:, 1:2], rgb.mean(1, keepdim=True)], dim=1)
    share = _window_mean(inside).clamp(min=1e-3)
    local_mean = _window_mean(detail * inside) / share
    residue = (detail - local_mean) * inside
    local_deviation = (_window_mean(residue**2) / share).clamp(min=0).sqrt()
    # Half of the deviation is the whole field's: an empty corner must not be stretched to full contrast.
    typical = ((residue**2).sum((2, 3), keepdim=True) / area).sqrt()
    local = residue / (0.5 * local_deviation + 0.5 * typical + _FLOOR / 4)
    return torch.cat([overall.clamp(-4, 4), local.clamp(-4, 4), inside], dim=1)


def _window_mean(x_BCHW: Tensor) -> Tensor:
    half = _WINDOW_PX // 2
    # Separable: 50 instead of 625 additions a pixel.
    rows = F.avg_pool2d(x_BCHW, (_WINDOW_PX, 1), 1, (half, 0), count_include_pad=True)
    return F.avg_pool2d(rows, (1, _WINDOW_PX), 1, (0, half), count_include_pad=True)
