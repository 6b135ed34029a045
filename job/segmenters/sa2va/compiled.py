"""`torch.compile` for what costs most and has one shape: the two image encoders."""

import torch

from job.segmenters.sa2va.loading import Checkpoint


def compile_encoders(checkpoint: Checkpoint) -> None:
    """Compile SAM 2's trunk and InternViT's layers; the first batch of each shape waits for it."""
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    # `device.prepare` has told torch, not its compiler: that would be imported by jobs that compile nothing.
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=warns)
    trunk = checkpoint.model.grounding_encoder.sam2_model.image_encoder.trunk
    trunk.forward = torch.compile(trunk.forward, dynamic=False)
    if not checkpoint.is_qwen_vl:
        for layer in checkpoint.model.vision_model.encoder.layers:
            layer.forward = torch.compile(layer.forward, dynamic=False)
