"""Masks sampled around logits: each pixel as likely as its probability says, neighbours alike.

Independent pixels make snow, in which the good of one mask over another drowns. Here a mask is what lies
below a smooth random surface, a Gaussian copula: u = Phi(field), mask = probability > u. Where the field has
mean 0 and variance 1 at each pixel, u is uniform there, so that the marginals are kept exactly.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES_PX = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Lengths of correlation that samples mix: from single pixels to whole regions."""


def sample_masks(probabilities_BHW: Tensor, noise_BKHW: Tensor) -> Tensor:
    """Return masks bool `[B, K, H, W]` of noise that is N(0, 1) at each pixel."""
    masks: Tensor = torch.special.ndtr(noise_BKHW) < probabilities_BHW[:, None]
    return masks


def correlated_noise(
    n_images: int,
    n_samples: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    antithetic: bool = False,
) -> Tensor:
    """Return noise float32 `[B, K, H, W]`, N(0, 1) at each pixel, correlated over about `SCALES_PX` pixels.

    Each sample mixes the scales by random weights of its own; scale 0 is white noise. With `antithetic` the
    second half of the samples is the first with its sign changed (an odd one out is drawn alone).
    """
    n_drawn = n_samples - n_samples // 2 if antithetic else n_samples
    device = generator.device
    white = torch.randn((n_images, n_drawn, *size), generator=generator, device=device)
    weights_BKS = torch.rand((n_images, n_drawn, len(SCALES_PX)), generator=generator, device=device) + 1e-3
    weights_BKS = weights_BKS**3  # mostly one scale a sample: what it teaches is then about that scale
    spectra_Shw = torch.stack([_spectrum(size, scale, device) for scale in SCALES_PX])
    spectra_BKhw = torch.einsum("bks,shw->bkhw", weights_BKS / weights_BKS.sum(-1, keepdim=True), spectra_Shw)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * spectra_BKhw.sqrt(), s=size)
    return torch.cat([noise, -noise[:, : n_samples // 2]], dim=1) if antithetic else noise


def _spectrum(size: tuple[int, int], scale_px: float, device: torch.device) -> Tensor:
    """Power of each frequency `[H, W // 2 + 1]` of white noise blurred by a Gaussian, with variance 1."""
    y = torch.fft.fftfreq(size[0], device=device)[:, None]
    x = torch.fft.fftfreq(size[1], device=device)[None]
    power_HW = torch.exp(-((2 * math.pi * scale_px) ** 2) * (y**2 + x**2))
    # The mean power over all frequencies, of which the other half mirrors these, is the variance.
    return (power_HW / power_HW.mean())[:, : size[1] // 2 + 1]


def log_probability(logits: Tensor, masks: Tensor) -> Tensor:
    """Return each pixel's log-probability of what the mask says of it."""
    return -F.binary_cross_entropy_with_logits(
        logits.expand_as(masks), masks.to(logits.dtype), reduction="none"
    )


def bernoulli_kl(logits: Tensor, reference: Tensor) -> Tensor:
    """Return KL(Bernoulli(sigmoid(logits)) || Bernoulli(sigmoid(reference))) of each pixel, in nats."""
    p = logits.sigmoid()
    gap = F.logsigmoid(logits) - F.logsigmoid(reference)
    return p * gap + (1 - p) * (gap - logits + reference)
