"""Which attention kernels a model uses: those of its own code, or PyTorch's fused ones."""

from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from job.segmenters.sa2va.options import Attention


def use_attention(model: nn.Module, kind: Attention) -> None:
    """Make the language model and the vision tower use `kind`; the same mathematics in another order.

    InternLM2's own code knows eager attention alone and stays as it is.
    """
    part: Any
    for part in model.modules():
        if _is_intern_attention(part):
            part._naive_attn = MethodType(_fused if kind == "sdpa" else type(part)._naive_attn, part)
    for name in ("language_model", "model"):
        inner: Any = getattr(model, name, None)
        if inner is not None and getattr(type(inner), "_supports_sdpa", False):
            inner.set_attn_implementation(kind)
            return


def _is_intern_attention(module: nn.Module) -> bool:
    return all(
        hasattr(module, name) for name in ("_naive_attn", "qkv", "proj", "num_heads", "qk_normalization")
    )


def _fused(self: Any, x_BNC: Tensor) -> Tensor:
    """InternViT's attention through one kernel, instead of a matrix of N x N weights in memory."""
    B, N, C = x_BNC.shape
    q, k, v = self.qkv(x_BNC).view(B, N, 3, self.num_heads, C // self.num_heads).unbind(2)
    if self.qk_normalization:
        q = self.q_norm(q.flatten(-2)).view(q.shape)
        k = self.k_norm(k.flatten(-2)).view(k.shape)
    mixed = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=self.scale
    )
    answer: Tensor = self.proj(mixed.transpose(1, 2).reshape(B, N, C))
    return answer
