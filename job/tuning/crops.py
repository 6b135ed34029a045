"""Crops of training images, as a fresh look at each: turned, scaled and lit otherwise, with their truths."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from job.data.dataset import Loaded

LEAST_SIDE = 16
"""Smaller images are padded with black: networks halve them a few times, and normalise what is left."""
_MEMORY_BYTES = 2**30
"""Decoded images are kept up to this many bytes; what is beyond is decoded again each time."""
_ROTATION = math.radians(15)
_SCALE = math.log(1.25)
_GAIN, _GAMMA, _TINT = 0.15, 0.2, 0.06
_NOISE = 3.0  # grey levels


@dataclass(frozen=True)
class Crops:
    """B crops of one size: uint8 pixels `[B, 3, H, W]` and, of labelled images, bool truths `[B, H, W]`."""

    pixels_B3HW: Tensor
    truths_BHW: Tensor | None


class CropSource:
    """Draws crops from images; equal generators give equal crops.

    With `side` null whole images are drawn. Of an image that is smaller, a crop has the size: black borders
    would teach that, and not vessels. A batch of several sizes comes in several parts.
    """

    def __init__(self, images: Sequence[Loaded], side: int | None, *, augment: bool) -> None:
        if not len(images):
            raise ValueError("there are no images to draw crops from")
        self._images, self._side, self._augment = images, side, augment
        self._kept: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._bytes = 0

    def draw(self, rng: np.random.Generator, n: int) -> list[Crops]:
        """Draw `n` crops; each image comes once before any comes twice."""
        rounds = -(-n // len(self._images))
        order = np.concatenate([rng.permutation(len(self._images)) for _ in range(rounds)])[:n]
        drawn = [self._crop(rng, *self._image(int(i))) for i in order]
        by_size: dict[torch.Size, list[tuple[Tensor, Tensor | None]]] = {}
        for pixels, truth in drawn:
            by_size.setdefault(pixels.shape, []).append((pixels, truth))
        return [_stacked(parts) for parts in by_size.values()]

    def _image(self, i: int) -> tuple[Tensor, Tensor | None]:
        if i in self._kept:
            return self._kept[i]
        loaded = self._images[i]
        pixels = torch.from_numpy(loaded.image.transpose(2, 0, 1).copy())
        truth = None if loaded.truth is None else torch.from_numpy(loaded.truth.copy())
        n_bytes = pixels.numel() + (0 if truth is None else truth.numel())
        if self._bytes + n_bytes <= _MEMORY_BYTES:
            self._kept[i], self._bytes = (pixels, truth), self._bytes + n_bytes
        return pixels, truth

    def _crop(
        self, rng: np.random.Generator, pixels: Tensor, truth: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if self._side is None or not self._augment:
            pixels, truth = _cut(rng, pixels, truth, self._side)
        else:
            pixels, truth = _warped(rng, pixels, truth, self._side)
        if not self._augment:
            return pixels, truth
        turn = partial(_turned, quarters=int(rng.integers(4)), mirrored=bool(rng.integers(2)))
        return relit(turn(pixels), rng), None if truth is None else turn(truth)


def relit(pixels_3HW: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, gamma, tint and noise of an image; black stays black."""
    gamma = math.exp(rng.uniform(-_GAMMA, _GAMMA))
    gain = math.exp(rng.uniform(-_GAIN, _GAIN)) * np.exp(rng.uniform(-_TINT, _TINT, 3))
    table = np.minimum((np.arange(256) / 255) ** gamma * gain[:, None] * 255, 255.0)
    lit = torch.stack(
        [torch.from_numpy(table[c]).to(torch.float32)[pixels_3HW[c].long()] for c in range(len(pixels_3HW))]
    )
    strength = max(0.0, rng.uniform(-_NOISE, _NOISE))
    if strength:
        noise = rng.standard_normal(pixels_3HW.shape, dtype=np.float32)
        lit = torch.where(pixels_3HW > 0, lit + strength * torch.from_numpy(noise), lit)
    return lit.round().clamp(0, 255).to(torch.uint8)


def _cut(
    rng: np.random.Generator, pixels: Tensor, truth: Tensor | None, side: int | None
) -> tuple[Tensor, Tensor | None]:
    height, width = pixels.shape[-2:]
    high, wide = _size(pixels, side)
    pad = (0, max(0, wide - width), 0, max(0, high - height))
    top = int(rng.integers(max(0, height - high) + 1))
    left = int(rng.integers(max(0, width - wide) + 1))

    def cut(x: Tensor) -> Tensor:
        return F.pad(x, pad)[..., top : top + high, left : left + wide]

    return cut(pixels), None if truth is None else cut(truth)


def _warped(
    rng: np.random.Generator, pixels: Tensor, truth: Tensor | None, side: int
) -> tuple[Tensor, Tensor | None]:
    """Cut a crop of `side` pixels after a small rotation and a change of scale, both about its centre."""
    height, width = pixels.shape[-2:]
    high, wide = _size(pixels, side)
    angle, scale = rng.uniform(-_ROTATION, _ROTATION), math.exp(rng.uniform(-_SCALE, _SCALE))
    centre_y = _centre(rng, height, high * scale)
    centre_x = _centre(rng, width, wide * scale)
    down = (torch.arange(high, dtype=torch.float32) - (high - 1) / 2)[:, None] * scale
    right = (torch.arange(wide, dtype=torch.float32) - (wide - 1) / 2)[None] * scale
    y_HW = centre_y + math.cos(angle) * down + math.sin(angle) * right
    x_HW = centre_x - math.sin(angle) * down + math.cos(angle) * right
    # Only what is looked at is made float: images may be much larger than crops.
    top, bottom = max(0, int(y_HW.min())), min(height, int(y_HW.max()) + 2)
    left, end = max(0, int(x_HW.min())), min(width, int(x_HW.max()) + 2)
    grid_HW2 = torch.stack(
        [(x_HW - left + 0.5) * 2 / (end - left) - 1, (y_HW - top + 0.5) * 2 / (bottom - top) - 1], dim=-1
    )

    def sampled(x_CHW: Tensor) -> Tensor:
        part = x_CHW[:, top:bottom, left:end].to(torch.float32)[None]
        return F.grid_sample(part, grid_HW2[None], mode="bilinear", align_corners=False)[0]

    warped = sampled(pixels).round().clamp(0, 255).to(torch.uint8)
    return warped, None if truth is None else sampled(truth[None])[0] > 0.5


def _size(pixels: Tensor, side: int | None) -> tuple[int, int]:
    height, width = pixels.shape[-2:]
    return (
        max(LEAST_SIDE, height if side is None else min(side, height)),
        max(LEAST_SIDE, width if side is None else min(side, width)),
    )


def _centre(rng: np.random.Generator, length: int, seen: float) -> float:
    least, most = seen / 2 - 0.5, length - seen / 2 - 0.5
    return rng.uniform(least, most) if least < most else (length - 1) / 2


def _turned(x: Tensor, quarters: int, mirrored: bool) -> Tensor:
    return torch.rot90(x.flip(-1) if mirrored else x, quarters, (-2, -1))


def _stacked(parts: Sequence[tuple[Tensor, Tensor | None]]) -> Crops:
    pixels = torch.stack([pixels for pixels, _ in parts])
    truths = [truth for _, truth in parts if truth is not None]
    return Crops(pixels, torch.stack(truths) if truths else None)
