"""What the reward network is taught: the Dice of masks, their order within an image, and the truth itself."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from job.reward.network import Reading, RewardNetwork

_RANK_WEIGHT = 1.0
_TRUTH_WEIGHT = 0.1
_STYLE_WEIGHT = 0.02
_SHARPNESS = 200.0


def image_loss(
    network: RewardNetwork,
    channels_BCHW: Tensor,
    truths_BHW: Tensor,
    masks_BKHW: Tensor,
    dice_BK: Tensor,
    weights_BK: Tensor,
) -> tuple[Tensor, float]:
    """Return the loss of B images with K masks each, and the plain MSE of their predicted Dice.

    The weighted MSE on Dice, the same after each image's mean error is taken away (choosing among an image's
    masks needs their order, not their level), and the cross-entropy of the readings with the truth.
    """
    reading = _read(network, channels_BCHW)
    error_BK = network.compare(reading, masks_BKHW) - dice_BK
    share_BK = weights_BK / weights_BK.sum(1, keepdim=True)
    bias_B1 = (share_BK * error_BK).sum(1, keepdim=True)
    level = (share_BK * error_BK**2).sum(1).mean()
    order = (share_BK * (error_BK - bias_B1) ** 2).sum(1).mean()
    loss = level + _RANK_WEIGHT * order + reading_loss(reading, truths_BHW)
    return loss, float((error_BK.detach() ** 2).mean())


def _read(network: RewardNetwork, channels_BCHW: Tensor) -> Reading:
    """Read images, on an accelerator with convolutions in bfloat16; all sums over pixels stay in float32."""
    with torch.autocast(channels_BCHW.device.type, torch.bfloat16, enabled=channels_BCHW.is_cuda):
        reading = network.read(channels_BCHW)
    return Reading(reading.logits_BRHW.float(), reading.style_BR.float())


def reading_loss(reading: Reading, truths_BHW: Tensor) -> Tensor:
    """Return the cross-entropy of readings and truth: each image teaches the reading that explains it.

    One step of expectation-maximisation for a mixture: the responsibility of a reading grows with its
    likelihood, and the style is taught to foresee it.
    """
    target_BRHW = truths_BHW[:, None].expand_as(reading.logits_BRHW)
    surprise_BR = F.binary_cross_entropy_with_logits(reading.logits_BRHW, target_BRHW, reduction="none").mean(
        (2, 3)
    )
    # Per-pixel likelihoods are far from independent; the true sum would always give all to one reading.
    blame_BR = (reading.style_BR.log_softmax(1) - _SHARPNESS * surprise_BR).softmax(1).detach()
    foreseen = -(blame_BR * reading.style_BR.log_softmax(1)).sum(1).mean()
    return _TRUTH_WEIGHT * (blame_BR * surprise_BR).sum(1).mean() + _STYLE_WEIGHT * foreseen


def balance(dice: Sequence[NDArray[np.float64]], n_bins: int = 10) -> list[NDArray[np.float64]]:
    """Weigh masks so that rare qualities count: the inverse root of how common a Dice is, mean 1 over all.

    The root, since full balance would spend the network on qualities that no segmenter delivers.
    """
    bins = [np.minimum((d * n_bins).astype(np.intp), n_bins - 1) for d in dice]
    counts = sum((np.bincount(b, minlength=n_bins) for b in bins), start=np.zeros(n_bins))
    weights = 1 / np.sqrt(np.maximum(counts, 1))
    mean = (weights * counts).sum() / max(counts.sum(), 1)
    return [weights[b] / mean for b in bins]
