"""Images and prompts through a network that reads each of them once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from job.segmenters.protocol import Segmentation
from job.segmenters.text_prompted.networks import Network

_LARGEST = float(np.finfo(np.float16).max)
_IMAGES_AT_ONCE = 8


class TextPromptedSegmenter:
    """Logits at the network's own size; the embedding is the image encoder's.

    An image is encoded once for all its prompts, a prompt once and by itself for all images to come. An
    answer does not depend on its company beyond the rounding of the dtype; equal batches give equal bits.
    """

    def __init__(self, network: Network, key: str) -> None:
        self._network = network
        self._key = key
        self._prompts: dict[str, Any] = {}
        """Features by prompt: of a few hundred, which a spec bounds."""

    @property
    def key(self) -> str:
        """Of the checkpoint's files and the dtype."""
        return self._key

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Segment RGB images `[H, W, 3]` of any sizes with every prompt.

        Raises ValueError when there is no prompt or an image is not uint8 RGB, `SpecError` for a prompt that
        the network cannot read whole.
        """
        if not prompts:
            raise ValueError("segment needs at least one prompt")
        for position, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image {position} must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
        with torch.inference_mode():
            for prompt in prompts:
                if prompt not in self._prompts:
                    self._prompts[prompt] = self._network.read_prompt(prompt)
            read = [self._prompts[prompt] for prompt in prompts]
            answers: list[Segmentation] = []
            for first in range(0, len(images), _IMAGES_AT_ONCE):
                answers += self._segment(images[first : first + _IMAGES_AT_ONCE], read)
        return answers

    def _segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Any]) -> list[Segmentation]:
        network = self._network
        pixels_B3HW = torch.from_numpy(np.stack([network.preparation(image) for image in images]))
        features = network.read_images(pixels_B3HW.to(network.device, network.dtype))
        embedding_BD = features.embedding_BD.cpu().numpy()
        return [
            Segmentation(self._logits(features, b, prompts), embedding_BD[b].copy())
            for b in range(len(images))
        ]

    def _logits(self, features: Any, b: int, prompts: Sequence[Any]) -> NDArray[np.float16]:
        step = self._network.pairs_at_once
        parts = [
            self._network.decode(features, b, prompts[first : first + step])
            for first in range(0, len(prompts), step)
        ]
        logits_PHW = torch.cat(parts).float().clamp(-_LARGEST, _LARGEST).half()
        answer: NDArray[np.float16] = logits_PHW.cpu().numpy()
        return answer
