"""What every segmenter must offer: logits for images x prompts, one embedding per image, a content key."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segmentation:
    """What a segmenter says of one image.

    `logits_PHW` is float16 `[prompts, height, width]` at the segmenter's own output size (which need not be
    the image's); `embedding_D` is float32 `[D]`, the same D for every image. `company` is who was in the same
    call, this image included, as pixel digests in the order of the call; empty where nobody kept it.
    """

    logits_PHW: NDArray[np.float16]
    embedding_D: NDArray[np.float32]
    company: tuple[str, ...] = ()


class Segmenter(Protocol):
    """A deterministic model: the same image and prompt give the same logits, whatever else is in the call."""

    @property
    def key(self) -> str:
        """Content key, 64 hex digits: weights, configuration, code, adapter revision, dtype and path."""

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Segment RGB images `[H, W, 3]` (sizes may differ) with every prompt: one answer an image."""


Finish = Callable[[], list[Segmentation]]
"""Waits for the answers of a call that was begun."""


@runtime_checkable
class Pipelined(Protocol):
    """A segmenter whose device need not wait between calls: the next one is begun before this one ends."""

    def begin(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Finish | None:
        """Begin what `segment` does; None where that cannot be begun now: then it is to be asked later."""
