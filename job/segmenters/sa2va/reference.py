"""The path `generate`: the checkpoint's own `predict_forward`, a pair at a time, with its logits caught.

`predict_forward` gives boolean masks at the image's size. The logits that they come from, 256 x 256 as
SAM 2's mask decoder makes them, are caught on their way: thresholds are actions here.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from job.errors import InputError
from job.segmenters.sa2va.counters import Counters
from job.segmenters.sa2va.importing import quiet
from job.segmenters.sa2va.loading import Checkpoint
from job.segmenters.sa2va.options import SeveralSeg

NO_MASK_LOGIT = -1024.0
"""Background for certain: SAM 2's own value for an object that is not there, and finite in float16."""
_BEST_LOGITS = 3
"""Which of the outputs of `_forward_sam_heads` are the 256 x 256 logits of the mask it likes best."""


class NeedsCuda(InputError):
    """`predict_forward` asks for a CUDA device, and there is none."""


@dataclass(frozen=True)
class Prediction:
    """What `predict_forward` says of a pair."""

    reply: str
    logits_SHW: Tensor
    """A surface per [SEG] that gave a mask; none without."""
    masks_SHW: Tensor
    """The boolean masks that it returned, at the image's size."""
    features_NC: Tensor
    """Vision features of the image as the language model sees them."""


class Reference:
    """Calls `predict_forward`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        accepted = inspect.signature(self._model.predict_forward).parameters
        tools = {"tokenizer": checkpoint.tokenizer, "processor": checkpoint.processor}
        self._tools = {name: tool for name, tool in tools.items() if name in accepted and tool is not None}

    def predict(self, image: Image.Image, text: str) -> Prediction:
        """Answer one pair; `text` as `prompts.texts` gives it.

        Raises `InputError` where the checkpoint's code wants a CUDA device and there is none.
        """
        surfaces: list[Tensor] = []
        features: list[Tensor] = []
        sam2_model = self._model.grounding_encoder.sam2_model
        with (
            torch.inference_mode(),
            quiet(),
            _seen(sam2_model, "_forward_sam_heads", lambda out: surfaces.append(out[_BEST_LOGITS][0, 0])),
            seen_features(self._checkpoint, features.append),
            _cuda_wanted(self._checkpoint.device),
        ):
            answer = self._model.predict_forward(image=image, text=text, **self._tools)
        masks = [torch.from_numpy(mask)[0] for mask in answer["prediction_masks"]]
        assert len(masks) == len(surfaces), f"{len(masks)} masks of {len(surfaces)} surfaces"
        size = (image.height, image.width)
        return Prediction(
            reply=answer["prediction"],
            logits_SHW=torch.stack(surfaces).float().cpu() if surfaces else torch.zeros(0, 1, 1),
            masks_SHW=torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool),
            features_NC=torch.cat([one.reshape(-1, one.shape[-1]) for one in features]),
        )


def one_surface(logits_SHW: Tensor, policy: SeveralSeg, size: tuple[int, int], counters: Counters) -> Tensor:
    """Return the logits `[h, w]` that count, of all that a reply gave; all background where it gave none."""
    if not len(logits_SHW):
        counters.replies_without_seg += 1
        return torch.full(size, NO_MASK_LOGIT, device=logits_SHW.device)
    if len(logits_SHW) > 1:
        counters.replies_with_several_seg += 1
    return several(logits_SHW, policy)


def several(values_SHW: Tensor, policy: SeveralSeg) -> Tensor:
    """Reduce one value per [SEG] to one: the first, the last, or the largest of each pixel (a union)."""
    if policy == "union":
        return values_SHW.amax(dim=0)
    return values_SHW[0 if policy == "first" else -1]


@contextmanager
def seen_features(checkpoint: Checkpoint, see: Callable[[Tensor], object]) -> Iterator[None]:
    """Within: `see` gets the vision features whenever the model computes them."""
    model = checkpoint.model
    if not checkpoint.is_qwen_vl:
        with _seen(model, "extract_feature", see):
            yield
        return

    def hook(module: object, inputs: object, output: Any) -> None:
        # A tensor, a tuple that begins with it, or a record of transformers 5.
        merged = getattr(output, "pooler_output", None)
        merged = output if merged is None else merged
        see(merged if isinstance(merged, Tensor) else merged[0])

    handle = model.model.model.visual.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _seen(owner: Any, method: str, see: Callable[[Any], object]) -> Iterator[None]:
    """Within: `see` gets what a method of this object returns."""
    call = getattr(owner, method)

    def caught(*args: Any, **named: Any) -> Any:
        result = call(*args, **named)
        see(result)
        return result

    setattr(owner, method, caught)
    try:
        yield
    finally:
        delattr(owner, method)


@contextmanager
def _cuda_wanted(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if device.type != "cpu" or not any(word in str(error) for word in ("CUDA", "NVIDIA")):
            raise
        raise NeedsCuda(
            "predict_forward of this checkpoint runs on a CUDA device alone",
            advice='set segmenter.path to "shared", which runs on a CPU too (slowly)',
        ) from error
