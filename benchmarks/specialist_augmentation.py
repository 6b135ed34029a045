"""Changes of light, sharpness and side that nnU-Net trains under, on whole batches where they lie."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Change = Callable[[Tensor, "Chance"], Tensor]


class Chance:
    """Draws for a batch of B samples with C channels, from one generator."""

    def __init__(self, generator: torch.Generator, batch: int, n_channels: int) -> None:
        self._generator, self._shape = generator, (batch, n_channels)

    def happens(self, p: float, p_per_channel: float = 1.0) -> Tensor:
        """Return bool `[B, C, 1, 1]`: samples with probability `p`, in them channels with `p_per_channel`."""
        samples = self._uniform(self._shape[0], 1) < p
        channels = self._uniform(*self._shape) < p_per_channel
        return (samples & channels)[..., None, None]

    def between(self, low: float, high: float) -> Tensor:
        """Return floats `[B, C, 1, 1]`, uniform between two numbers."""
        return (low + (high - low) * self._uniform(*self._shape))[..., None, None]

    def noise(self, like: Tensor) -> Tensor:
        """Return standard normal noise."""
        return torch.randn(like.shape, generator=self._generator, device=like.device)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._generator.device)


def augmented(pixels_BCHW: Tensor, truths_B1HW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a batch with each change made to some of its samples; mirroring moves truths along."""
    chance = Chance(generator, *pixels_BCHW.shape[:2])
    x = pixels_BCHW
    for change in (_noise, _blur, _brightness, _contrast, _low_resolution, _inverted_gamma, _gamma):
        x = change(x, chance)
    truths = truths_B1HW
    for axis in (2, 3):
        flips = chance.happens(0.5)[:, :1]
        x = torch.where(flips, x.flip(axis), x)
        truths = torch.where(flips, truths.flip(axis), truths)
    return x, truths


def _noise(x: Tensor, chance: Chance) -> Tensor:
    deviation = chance.between(0.0, 0.1)[:, :1]
    return torch.where(chance.happens(0.1), x + deviation * chance.noise(x), x)


def _blur(x: Tensor, chance: Chance) -> Tensor:
    n_samples, n_channels, height, width = x.shape
    sigma = chance.between(0.5, 1.0).reshape(-1, 1)
    steps = torch.arange(-4, 5, device=x.device)[None]
    kernels = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True))[:, None]
    flat = F.pad(x.reshape(1, -1, height, width), (4, 4, 4, 4), mode="reflect")
    flat = F.conv2d(flat, kernels[..., None], groups=n_samples * n_channels)
    flat = F.conv2d(flat, kernels[:, :, None], groups=n_samples * n_channels)
    return torch.where(chance.happens(0.2, 0.5), flat.reshape(x.shape), x)


def _brightness(x: Tensor, chance: Chance) -> Tensor:
    return torch.where(chance.happens(0.15), x * chance.between(0.75, 1.25), x)


def _contrast(x: Tensor, chance: Chance) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    changed = (x - mean) * chance.between(0.75, 1.25) + mean
    changed = changed.clamp(x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
    return torch.where(chance.happens(0.15), changed, x)


def _low_resolution(x: Tensor, chance: Chance) -> Tensor:
    happens = chance.happens(0.25, 0.5)
    zoom = chance.between(0.5, 1.0)[:, 0, 0, 0].tolist()
    changed = x
    for b in happens.flatten(1).any(1).nonzero()[:, 0].tolist():
        small = [max(1, math.floor(side * zoom[b])) for side in x.shape[2:]]
        coarse = F.interpolate(x[b : b + 1], size=small, mode="nearest-exact")
        smooth = F.interpolate(coarse, size=x.shape[2:], mode="bicubic", align_corners=False)
        changed = torch.cat([changed[:b], smooth, changed[b + 1 :]])
    return torch.where(happens, changed, x)


def _inverted_gamma(x: Tensor, chance: Chance) -> Tensor:
    return torch.where(chance.happens(0.1), -_bent(-x, chance.between(0.7, 1.5)), x)


def _gamma(x: Tensor, chance: Chance) -> Tensor:
    return torch.where(chance.happens(0.3), _bent(x, chance.between(0.7, 1.5)), x)


def _bent(x: Tensor, gamma: Tensor) -> Tensor:
    """Raise levels to a power, then give each channel the mean and the deviation back that it had."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = (high - low).clamp(min=1e-7)
    bent = ((x - low) / span) ** gamma * span + low
    bent = (bent - bent.mean((2, 3), keepdim=True)) / bent.std((2, 3), keepdim=True).clamp(min=1e-8)
    return bent * x.std((2, 3), keepdim=True) + x.mean((2, 3), keepdim=True)
