"""Fused normalisation layers give what the layers' own code gives, to the last rounding."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from job.segmenters.remote_code import trust_digest
from job.segmenters.sa2va.adapter import Sa2vaSegmenter
from job.segmenters.sa2va.norms import fuse_norms
from tests.segmenters.sa2va.stand_in import make, options


class Model(nn.Module):
    """An RMS norm of transformers and a layer norm where SAM 2's image encoder has them."""

    def __init__(self) -> None:
        super().__init__()
        self.rms = Qwen2RMSNorm(64)
        trunk = nn.Sequential(nn.LayerNorm(64))
        self.layer = trunk[0]
        self.beside = nn.LayerNorm(64)
        self.grounding_encoder = SimpleNamespace(
            sam2_model=SimpleNamespace(image_encoder=SimpleNamespace(trunk=trunk))
        )
        for part in self.modules():
            if isinstance(weight := getattr(part, "weight", None), Tensor):
                nn.init.normal_(weight, 1.0, 0.3)


def test_rms_norms_round_once() -> None:
    """In float32 the same but for rounding; in bfloat16 nearer to the truth than two roundings."""
    torch.manual_seed(0)
    model, x = Model(), torch.randn(5, 64) * 3
    truth = model.rms(x)
    before = model.bfloat16().rms(x.bfloat16()).float()
    fuse_norms(model)
    after = model.rms(x.bfloat16()).float()
    assert after.dtype == before.dtype
    assert (after - truth).abs().mean() <= (before - truth).abs().mean()
    torch.testing.assert_close(model.float().rms(x), truth, rtol=2e-2, atol=2e-2)


def test_layer_norms_of_the_image_encoder_keep_their_bits_and_dtype() -> None:
    """Under autocast what the next layer sees is the same, and no float32 is written on the way."""
    torch.manual_seed(0)
    model = Model().bfloat16()
    x = torch.randn(5, 64).bfloat16()
    wanted = F.layer_norm(
        x.float(), (64,), model.layer.weight.float(), model.layer.bias.float(), model.layer.eps
    ).bfloat16()
    fuse_norms(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = model.layer(x)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, wanted)
    assert "forward" not in vars(model.beside)


def test_a_checkpoints_masks_stay_as_they_are(tmp_path: Path) -> None:
    """In float32 on the stand-in: fused norms change logits by rounding alone."""
    folder = make(tmp_path / "checkpoint")
    segmenter = Sa2vaSegmenter.load(folder, "cpu", options(trust_code=trust_digest(folder)))
    image = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8).numpy()
    (before,) = segmenter.segment([image], ["the vessels"])
    fuse_norms(segmenter._checkpoint.model)
    (after,) = segmenter.segment([image], ["the vessels"])
    torch.testing.assert_close(
        torch.from_numpy(after.logits_PHW), torch.from_numpy(before.logits_PHW), rtol=2e-3, atol=2e-3
    )
