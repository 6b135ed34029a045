"""A segmenter without a network: logits are a plain function of pixels and prompt, and calls are counted."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Finish, Segmentation


class FakeSegmenter:
    """Half the image's size; a prompt shifts the logits, so that prompts differ."""

    key = hashlib.sha256(b"fake").hexdigest()

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        """Per call: images, prompts."""

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Answer each image by itself."""
        self.calls.append((len(images), tuple(prompts)))
        return [segmentation_of(image, prompts) for image in images]


class SociableSegmenter(FakeSegmenter):
    """Rounds otherwise in other company, as networks do: by how many are asked, and where among them."""

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Answer each image by its place in the call."""
        answers = super().segment(images, prompts)
        return [
            replace(answer, logits_PHW=answer.logits_PHW + np.float16((i + 1) / len(images)))
            for i, answer in enumerate(answers)
        ]


class PipelinedSegmenter(SociableSegmenter):
    """One whose device works by itself; `told` is what was begun and waited for, as numbers of images."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, int]] = []

    def begin(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Finish | None:
        """Note it; what is computed then is what `segment` says."""
        self.told.append(("begun", len(images)))

        def finish() -> list[Segmentation]:
            self.told.append(("finished", len(images)))
            return self.segment(images, prompts)

        return finish


def segmentation_of(image: NDArray[np.uint8], prompts: Sequence[str]) -> Segmentation:
    """Return what the fake says of an image."""
    green = image[::2, ::2, 1].astype(np.float64)
    logits = [(green - 128 + 8 * (len(prompt) % 7)) / 32 for prompt in prompts]
    embedding = np.array([green.mean(), green.std(), image[..., 0].mean()], np.float32) / 255
    # Networks answer in any memory layout: a file that takes the bytes as they lie would hold other logits.
    return Segmentation(np.asfortranarray(np.stack(logits).astype(np.float16)), embedding)


def cache_of(
    root: Path,
    prompts: Sequence[str],
    *,
    keep: bool = True,
    key: str = FakeSegmenter.key,
    kind: type[FakeSegmenter] = FakeSegmenter,
) -> tuple[SegmentationCache, FakeSegmenter]:
    """Return a cache and the segmenter that it asks."""
    segmenter = kind()
    cache = SegmentationCache(root, key=key, prompts=prompts, keep=keep, open_segmenter=lambda: segmenter)
    return cache, segmenter


def photographs(n: int, seed: int = 0, size: tuple[int, int] = (12, 16)) -> list[NDArray[np.uint8]]:
    """Return n different pictures `[H, W, 3]`."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(n)]
