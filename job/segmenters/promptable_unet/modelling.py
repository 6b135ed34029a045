"""A U-Net whose decoder is modulated by the encoded prompt: the embedded promptable segmentation network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from job.segmenters.promptable_unet.processing import N_CHANNELS, channels

_PIXELS_OF_A_STRIPE = 2**20
"""Larger feature maps are computed stripe by stripe: whole ones took 700 bytes a pixel of the image."""
_REACH = 2
"""Rows that two 3x3 convolutions look beyond their output."""


MODEL_TYPE = "promptable_unet"


@dataclass(frozen=True)
class PromptableUNetConfig:
    """Shape of the network: `widths` are the encoder's channels a level, the last is the bottleneck."""

    widths: Sequence[int] = (16, 32, 64, 80)
    decoder_widths: Sequence[int] = (16, 24, 40)
    vocab_size: int = 128
    text_width: int = 32
    pad_token_id: int = 0


class PromptableUNetOutput(NamedTuple):
    """`logits` `[B, P, H, W]` at the input's size; `embeddings` `[B, D]`, which no prompt changes."""

    logits: Tensor
    embeddings: Tensor


class PromptableUNet(nn.Module):
    """Fully convolutional network from bytes and prompt tokens to logits.

    The encoder never sees the prompt, so an image is encoded once however many prompts are asked of it; the
    decoder's blocks are scaled and shifted by the prompt (FiLM, Perez et al. 2018). `pretrained` shows it to
    `transformers`, which takes seconds to import.
    """

    def __init__(self, config: PromptableUNetConfig, *of_the_next_class: Any) -> None:
        super().__init__(*of_the_next_class)
        self.config = config
        widths, decoder_widths = config.widths, config.decoder_widths
        self.encoder = nn.ModuleList(
            _Block(before, after) for before, after in zip([N_CHANNELS, *widths[:-1]], widths, strict=True)
        )
        self.context = _Context(widths[-1])
        self.text = _TextEncoder(config.vocab_size, config.text_width)
        self.decoder = nn.ModuleList(
            _ModulatedBlock(below + skip, after, config.text_width)
            for below, skip, after in zip(
                [*decoder_widths[1:], widths[-1]], widths[:-1], decoder_widths, strict=True
            )
        )
        self.head = nn.Conv2d(decoder_widths[0], 1, 1)

    @property
    def stride(self) -> int:
        """Sizes are padded to a multiple of this many pixels, and cropped back."""
        return int(2 ** (len(self.encoder) - 1))

    def forward(
        self, pixels_B3HW: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> PromptableUNetOutput:
        """Segment every image with every prompt.

        `pixels_B3HW` are uint8 RGB; `input_ids` are `[P, T]` (each prompt for each image), or `[B, P, T]` for
        prompts of each image's own. Returns logits `[B, P, H, W]` and embeddings `[B, D]`.
        """
        height, width = pixels_B3HW.shape[-2:]
        n_images = pixels_B3HW.shape[0]
        x = _pad_to_multiple(channels(pixels_B3HW).to(self.head.weight.dtype), self.stride)
        features = self.encode(x)
        del x  # 24 bytes a pixel
        prompts = self.encode_prompts(input_ids, attention_mask)
        if prompts.dim() == 2:
            prompts = prompts.expand(n_images, -1, -1)
        logits = self._decode_all(features, prompts)
        return PromptableUNetOutput(
            logits=logits[..., :height, :width], embeddings=self.embed(features).float()
        )

    def _decode_all(self, features: list[Tensor], prompts_BPE: Tensor) -> Tensor:
        n_prompts = prompts_BPE.shape[1]
        if not self.training:  # prompt by prompt: a sixth of the memory, the same logits
            n_images, _, *size = features[0].shape
            logits_BPHW = features[0].new_empty((n_images, n_prompts, *size))
            for p in range(n_prompts):
                logits_BPHW[:, p : p + 1] = self.decode(features, prompts_BPE[:, p])
            return logits_BPHW
        # All prompts in one batch: normalisation must see their mixture, as its running statistics will.
        repeated = [torch.cat([level] * n_prompts) for level in features]
        logits = self.decode(repeated, prompts_BPE.transpose(0, 1).flatten(0, 1))
        return logits.reshape(n_prompts, -1, *logits.shape[2:]).transpose(0, 1)

    def encode(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the features of each level, finest first."""
        features = []
        for level, block in enumerate(self.encoder):
            x_BCHW = self._in_stripes(block, x_BCHW if level == 0 else F.max_pool2d(x_BCHW, 2))
            features.append(x_BCHW)
        features[-1] = self.context(features[-1])
        return features

    def encode_prompts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return text encodings `[..., text_width]` of token ids `[..., T]`."""
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        encoded: Tensor = self.text(input_ids, attention_mask)
        return encoded

    def decode(self, features: list[Tensor], prompt_BE: Tensor) -> Tensor:
        """Return logits `[B, 1, H, W]` for one prompt an image."""
        x = features[-1]
        for level in reversed(range(len(self.decoder))):
            x = self._decode_level(level, x, features[level], prompt_BE)
        return x

    def _decode_level(self, level: int, coarse_BCHW: Tensor, skip_BCHW: Tensor, prompt_BE: Tensor) -> Tensor:
        def rows(first: int, last: int) -> Tensor:
            x = F.interpolate(coarse_BCHW[:, :, first // 2 : last // 2], scale_factor=2.0, mode="nearest")
            x = torch.cat([x, skip_BCHW[:, :, first:last]], dim=1)
            x = self.decoder[level](x, prompt_BE)
            logits: Tensor = x if level else self.head(x)
            return logits

        return self._stripes(rows, skip_BCHW.shape[2], skip_BCHW.shape[3])

    def _in_stripes(self, block: nn.Module, x_BCHW: Tensor) -> Tensor:
        def rows(first: int, last: int) -> Tensor:
            part: Tensor = block(x_BCHW[:, :, first:last])
            return part

        return self._stripes(rows, x_BCHW.shape[2], x_BCHW.shape[3])

    def _stripes(self, rows: Callable[[int, int], Tensor], height: int, width: int) -> Tensor:
        """Put together what `rows(first, last)` computes, a stripe of an even number of rows at a time.

        Each stripe is given the rows beyond it that its own look at: nothing changes but rounding. While
        training, normalisation must see all at once.
        """
        n_rows = max(_REACH, _PIXELS_OF_A_STRIPE // width // 2 * 2)
        if self.training or n_rows >= height:
            return rows(0, height)
        whole = torch.empty(0)
        for top in range(0, height, n_rows):
            bottom = min(height, top + n_rows)
            first, last = max(0, top - _REACH), min(height, bottom + _REACH)
            stripe = rows(first, last)[:, :, top - first : bottom - first]
            if not top:
                size = (*stripe.shape[:2], height, width)
                whole = torch.empty(
                    size, dtype=stripe.dtype, device=stripe.device, memory_format=torch.channels_last
                )
            whole[:, :, top:bottom] = stripe
        return whole

    def embed(self, features: list[Tensor]) -> Tensor:
        """Return `[B, D]`: mean of the bottleneck, and mean and deviation of the finest features.

        Clarity shows in the finest level, content in the coarsest.
        """
        fine, coarse = features[0], features[-1]
        return torch.cat([coarse.mean((2, 3)), fine.mean((2, 3)), fine.std((2, 3))], dim=1)


class _Block(nn.Module):
    """Two 3x3 convolutions, each normalised over the batch."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class _ModulatedBlock(nn.Module):
    """As `_Block`, with a scale and a shift a channel from the prompt after the second normalisation."""

    def __init__(self, before: int, after: int, text_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.film1 = nn.Linear(text_width, 2 * after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.film2 = nn.Linear(text_width, 2 * after)

    def forward(self, x: Tensor, prompt_BE: Tensor) -> Tensor:
        x = F.relu(_modulate(self.norm1(self.conv1(x)), self.film1(prompt_BE)))
        return F.relu(_modulate(self.norm2(self.conv2(x)), self.film2(prompt_BE)))


class _Context(nn.Module):
    """Dilated convolutions and the mean: whether a vessel counts as large depends on the picture's scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(width, width, 3, padding=2, dilation=2, groups=width)
        self.far = nn.Conv2d(width, width, 3, padding=4, dilation=4, groups=width)
        self.mix = nn.Conv2d(3 * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.cat([self.near(x), self.far(x), x.mean((2, 3), keepdim=True).expand_as(x)], dim=1)
        return x + F.relu(self.norm(self.mix(wide)))


class _Words(nn.Embedding):
    """Drawn anew only where there is memory for it: for shapes alone torch would import its compiler."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class _TextEncoder(nn.Module):
    """Words, weighed by a learned importance, then a small perceptron; the order of words plays no part."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.words = _Words(vocab_size, width)
        self.importance = nn.Linear(width, 1)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Tanh())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.words(input_ids)
        # A prompt without a single token gives equal weights over its padding, never NaN.
        scores = self.importance(words).squeeze(-1).masked_fill(attention_mask == 0, -1e4)
        pooled = (F.softmax(scores, dim=-1).unsqueeze(-1) * words).sum(-2)
        encoded: Tensor = self.mlp(pooled)
        return encoded


def _modulate(x_BCHW: Tensor, film_B2C: Tensor) -> Tensor:
    scale, shift = film_B2C[..., None, None].chunk(2, dim=1)
    return x_BCHW * (1 + scale) + shift


def _pad_to_multiple(x_BCHW: Tensor, stride: int) -> Tensor:
    """Pad right and below by reflection (by repetition where an image is smaller than its padding)."""
    height, width = x_BCHW.shape[-2:]
    down, right = -height % stride, -width % stride
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(x_BCHW, (0, right, 0, down), mode=mode) if down or right else x_BCHW
