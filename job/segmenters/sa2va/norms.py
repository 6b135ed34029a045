"""Normalisation layers as one kernel each, where the checkpoint's code takes up to eight."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fuse_norms(model: Any) -> None:
    """Let RMS norms, and the layer norms of SAM 2's image encoder, read and write their tensor once.

    RMS norms round once instead of twice; the layer norms give the same bits. For CUDA: a CPU gains nothing.
    """
    part: Any
    for part in model.modules():
        if hasattr(part, "variance_epsilon") and hasattr(part, "weight"):
            part.forward = MethodType(_rms_norm, part)
    trunk: nn.Module = model.grounding_encoder.sam2_model.image_encoder.trunk
    for part in [one for one in trunk.modules() if isinstance(one, nn.LayerNorm)]:
        part.forward = MethodType(_layer_norm, part)


def _rms_norm(self: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)


def _layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    if x.dtype != self.weight.dtype:
        return nn.LayerNorm.forward(self, x)
    # Autocast would have it answer in float32, for the layer behind it to round that to bfloat16.
    with torch.autocast(x.device.type, enabled=False):
        return nn.LayerNorm.forward(self, x)
