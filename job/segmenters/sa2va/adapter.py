"""A Sa2VA checkpoint behind the segmenter protocol."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from job.segmenters.chatter import kept_out
from job.segmenters.protocol import Finish, Segmentation
from job.segmenters.sa2va.agreement import Agreement, compare
from job.segmenters.sa2va.compiled import compile_encoders
from job.segmenters.sa2va.content import content_key
from job.segmenters.sa2va.counters import Counters
from job.segmenters.sa2va.loading import Checkpoint, load_checkpoint
from job.segmenters.sa2va.norms import fuse_norms
from job.segmenters.sa2va.options import Sa2vaOptions
from job.segmenters.sa2va.prompts import texts
from job.segmenters.sa2va.reference import NeedsCuda, Reference, one_surface
from job.segmenters.sa2va.shared import Shared

_LARGEST = float(np.finfo(np.float16).max)


class Sa2vaSegmenter:
    """Logits of 256 x 256 for any images and prompts, by either path.

    The embedding is the mean of the vision features that the language model sees. An image's answer does not
    depend on its company beyond the rounding of the dtype, and equal batches give equal bits.
    """

    def __init__(self, checkpoint: Checkpoint, options: Sa2vaOptions, key: str) -> None:
        self.counters = Counters()
        self._checkpoint = checkpoint
        self._options = options
        self._key = key
        self._reference = Reference(checkpoint)
        self._shared = Shared(checkpoint, options, self.counters) if options.path == "shared" else None
        self._logits_size: tuple[int, int] = tuple(
            checkpoint.model.grounding_encoder.sam2_model.sam_prompt_encoder.mask_input_size
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str,
        options: Sa2vaOptions,
        *,
        uri: str | None = None,
        memory: Path | None = None,
    ) -> "Sa2vaSegmenter":
        """Load a checkpoint folder; raises what `load_checkpoint` and `content_key` raise.

        `uri` is what the user calls the folder, `memory` where digests of its files are remembered.
        """
        checkpoint = load_checkpoint(folder, device, options, uri)
        if options.path == "shared" and checkpoint.device.type == "cuda":
            fuse_norms(checkpoint.model)
        if options.compile:
            compile_encoders(checkpoint)
        return cls(checkpoint, options, content_key(folder, options, memory))

    @property
    def key(self) -> str:
        """What `content_key` says of the folder and the options."""
        return self._key

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Segment RGB images `[H, W, 3]` of any sizes with every prompt; logits are 256 x 256.

        Raises ValueError when there is no prompt or an image is not uint8 RGB, `SpecError` for a prompt
        with special tokens or a misplaced `<image>`, `InputError` where path `generate` lacks a CUDA device.
        """
        finish = self.begin(images, prompts)
        if finish is not None:
            return finish()
        asked = self._asked(images, prompts)
        return [self._generate(image, asked) for image in images]

    def begin(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Finish | None:
        """Begin what `segment` does, and raise what it raises; None on the path `generate`."""
        shared, asked = self._shared, self._asked(images, prompts)
        if shared is None:
            return None
        with kept_out():
            finish = shared.begin(images, asked)

        def finish_quietly() -> list[Segmentation]:
            with kept_out():
                return finish()

        return finish_quietly

    def _asked(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[str]:
        asked = texts(prompts, self._checkpoint.tokenizer, image_first=self._checkpoint.is_qwen_vl)
        for position, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image {position} must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
        return asked

    def counts(self) -> dict[str, int]:
        """Return how many replies were not the expected one, and how many gave no mask, or several."""
        counted = self.counters
        return {
            "fallback_pairs": counted.fallback_pairs,
            "replies_without_seg": counted.replies_without_seg,
            "replies_with_several_seg": counted.replies_with_several_seg,
        }

    def compare(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], n: int, seed: int
    ) -> dict[str, float] | None:
        """Return the figures of `verify_pairs`; None where `predict_forward` cannot run on this device."""
        try:
            return asdict(self.verify_pairs(images, prompts, n, seed))
        except NeedsCuda:
            return None

    def verify_pairs(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], n: int, seed: int
    ) -> Agreement:
        """Compare n random pairs of an image and a prompt with `predict_forward`.

        Counters do not change. Raises ValueError without images or for n < 1, and what `segment` raises.
        """
        if not images or n < 1:
            raise ValueError(f"verify_pairs needs images and n >= 1, got {len(images)} images and n = {n}")
        tools = (self._checkpoint, self._options, self._reference)
        asked = texts(prompts, self._checkpoint.tokenizer, image_first=self._checkpoint.is_qwen_vl)
        count = min(n, len(images) * len(prompts))
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(images) * len(prompts), size=count, replace=False)
        pairs = [(images[int(k) // len(prompts)], asked[int(k) % len(prompts)]) for k in chosen]
        with kept_out():
            return compare(*tools, pairs)

    def _generate(self, image: NDArray[np.uint8], asked: Sequence[str]) -> Segmentation:
        surfaces = []
        embedding: NDArray[np.float32] | None = None
        for text in asked:
            said = self._reference.predict(Image.fromarray(image), text)
            policy = self._options.several_seg
            surfaces.append(one_surface(said.logits_SHW, policy, self._logits_size, self.counters))
            self.counters.pairs += 1
            if embedding is None:
                embedding = said.features_NC.float().mean(dim=0).cpu().numpy()
        assert embedding is not None
        logits_PHW = torch.stack(surfaces).clamp(-_LARGEST, _LARGEST).half().numpy()
        return Segmentation(logits_PHW, embedding)
