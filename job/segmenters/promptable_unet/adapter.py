"""The embedded network, or a user's own checkpoint of its kind, as a segmenter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from job.segmenters.promptable_unet import checkpoint_folder
from job.segmenters.promptable_unet.content import content_key
from job.segmenters.promptable_unet.modelling import PromptableUNet
from job.segmenters.protocol import Segmentation

EMBEDDED_CHECKPOINT = Path(__file__).parent / "checkpoint"

_PIXELS_PER_BATCH = 512 * 512
_LARGEST = float(np.finfo(np.float16).max)


class PromptableUNetSegmenter:
    """A `PromptableUNet` checkpoint behind the segmenter protocol; computes in float32 on any device.

    Images of equal size share batches; the prompts of an image share its encoding. An image's answer does not
    depend on its company beyond rounding (one step of float16 in a logit), and equal batches give equal bits.
    """

    def __init__(self, network: PromptableUNet, tokenizer: Tokenizer, key: str, device: str) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._key = key
        self._device = torch.device(device)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "PromptableUNetSegmenter":
        """Load a checkpoint folder: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.

        Only files are read, no network is asked and no code of the checkpoint is run. Raises
        FileNotFoundError naming what the folder lacks, `IntegrityError` for what is not safe or damaged.
        """
        network, tokenizer = checkpoint_folder.load(folder)
        # Channels last: a fifth faster on CPUs.
        network.to(device).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, tokenizer, content_key(folder), device)

    @property
    def key(self) -> str:
        """sha256 over the checkpoint's files, this package's code, the adapter's revision and the dtype."""
        return self._key

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Segment RGB images `[H, W, 3]` of any sizes with every prompt; logits are of each image's own size.

        Raises ValueError when there is no prompt or an image is not uint8 RGB.
        """
        if not prompts:
            raise ValueError("segment needs at least one prompt")
        for position, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image {position} must be uint8 [H, W, 3], got {image.dtype} {image.shape}")
        tokens = encode(self._tokenizer, prompts, self._network.config.pad_token_id).to(self._device)
        answers: dict[int, Segmentation] = {}
        for positions in _batches(images):
            batch = torch.from_numpy(np.stack([images[p] for p in positions]).transpose(0, 3, 1, 2).copy())
            answers.update(zip(positions, self._segment_batch(batch, tokens), strict=True))
        return [answers[position] for position in range(len(images))]

    def _segment_batch(self, pixels_B3HW: Tensor, tokens_PT: Tensor) -> list[Segmentation]:
        with torch.inference_mode(), _exact_float32():
            output = self._network(pixels_B3HW.to(self._device), tokens_PT)
        logits = output.logits.clamp(-_LARGEST, _LARGEST).to(torch.float16).cpu().numpy()
        embeddings = output.embeddings.float().cpu().numpy()
        return [Segmentation(l_PHW, e_D) for l_PHW, e_D in zip(logits, embeddings, strict=True)]


def encode(tokenizer: Tokenizer, prompts: Sequence[str], pad_token_id: int) -> Tensor:
    """Return token ids `[P, T]` of prompts, as many a prompt as the tokenizer lets it have."""
    ids = torch.tensor([words.ids for words in tokenizer.encode_batch(list(prompts))], dtype=torch.int64)
    if not ids.shape[1]:  # nothing but punctuation: one padding token stands for "no words"
        ids = torch.full((len(prompts), 1), pad_token_id, dtype=torch.int64)
    return ids


def _batches(images: Sequence[NDArray[np.uint8]]) -> list[list[int]]:
    """Group positions of images of equal size, as many as fit a bounded number of pixels."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for position, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(position)
    batches = []
    for shape, positions in by_shape.items():
        count = max(1, _PIXELS_PER_BATCH // (shape[0] * shape[1]))
        batches += [positions[start : start + count] for start in range(0, len(positions), count)]
    return batches


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Within: cuDNN's convolutions and cuBLAS's products in true float32 and by deterministic algorithms."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32)
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32 = False, True, False, False
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, matmul.allow_tf32 = before
