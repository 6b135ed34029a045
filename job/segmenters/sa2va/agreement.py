"""How far the path `shared` agrees with `predict_forward`, on the masks that users get from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from job.segmenters.sa2va.counters import Counters
from job.segmenters.sa2va.loading import Checkpoint
from job.segmenters.sa2va.options import Sa2vaOptions
from job.segmenters.sa2va.reference import Reference, one_surface
from job.segmenters.sa2va.shared import Shared


@dataclass(frozen=True)
class Agreement:
    """Masks of both paths at the image's size compared pixel by pixel, from logits in full precision."""

    pairs: int
    equal_pairs: int
    """Pairs whose masks are the same on every pixel."""
    mean_iou: float
    min_iou: float
    pixels: int
    differing_pixels: int
    rounding_pixels: int
    """Pixels of the path `shared` that change as logits are rounded to float16, which they are everywhere."""
    fallback_pairs: int
    """Pairs that the path `shared` generated for, so that they say little about it."""


def compare(
    checkpoint: Checkpoint,
    options: Sa2vaOptions,
    reference: Reference,
    pairs: Sequence[tuple[NDArray[np.uint8], str]],
) -> Agreement:
    """Segment each pair both ways; texts as `prompts.texts` gives them.

    The logits of both are enlarged as `predict_forward` does it, and not rounded before, so that nothing but
    the two paths is compared.
    """
    counters = Counters()
    large = int(checkpoint.model.grounding_encoder.sam2_model.image_size)
    shared = Shared(checkpoint, options, counters, rounded=False)
    ious: list[float] = []
    differing = rounding = pixels = 0
    for image, text in pairs:
        size = (image.shape[0], image.shape[1])
        said = reference.predict(Image.fromarray(image), text)
        other_HW = one_surface(said.logits_SHW, options.several_seg, shared.logits_size, Counters()).numpy()
        logits_HW = shared.segment([image], [text])[0].logits_PHW[0]
        surfaces = (logits_HW, other_HW, logits_HW.astype(np.float16))
        mask_HW, there_HW, rounded_HW = (enlarged(one, large, size) > 0 for one in surfaces)
        ious.append(_iou(mask_HW, there_HW))
        differing += int((mask_HW != there_HW).sum())
        rounding += int((mask_HW != rounded_HW).sum())
        pixels += mask_HW.size
    return Agreement(
        pairs=len(pairs),
        equal_pairs=sum(iou == 1.0 for iou in ious),
        mean_iou=float(np.mean(ious)),
        min_iou=min(ious),
        pixels=pixels,
        differing_pixels=differing,
        rounding_pixels=rounding,
        fallback_pairs=counters.fallback_pairs,
    )


def enlarged(logits_HW: NDArray[np.floating], large: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return logits at an image's size as `predict_forward` gets them: by way of SAM 2's input size."""
    surface = torch.from_numpy(logits_HW.astype(np.float32))[None, None]
    for target in ((large, large), size):
        surface = F.interpolate(surface, size=target, mode="bilinear", align_corners=False)
    answer: NDArray[np.float32] = surface[0, 0].numpy()
    return answer


def _iou(one_HW: NDArray[np.bool_], other_HW: NDArray[np.bool_]) -> float:
    union = int((one_HW | other_HW).sum())
    return float((one_HW & other_HW).sum() / union) if union else 1.0
