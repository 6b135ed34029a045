"""What the two kinds of Sa2VA differ in: how an image reaches the language model, and how that continues."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from job.errors import InputError
from job.segmenters.sa2va.loading import Checkpoint
from job.segmenters.sa2va.resize import Picture, Run

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values `[B, heads, tokens, D]` of each layer."""


@dataclass(frozen=True)
class Prepared:
    """An image and what is known of it before the device looks at it."""

    picture_HWC: Picture
    vision: dict[str, Tensor]
    """What a processor made of it for the vision tower; empty where that takes pixels."""
    group: tuple[int, ...]
    """Images of equal group can share a batch: the tokens of their prefixes are the same."""


@dataclass(frozen=True)
class Prefix:
    """A batch of images as far as all prompts agree: what the language model remembers of them."""

    layers: Layers
    length: int
    next_position: int
    """The rotary position of the next token; not `length` where image tokens share positions."""
    embedding_BD: Tensor
    """float32: the mean of the image's vision features."""

    def row(self, b: int) -> "Prefix":
        """Return the prefix of one image."""
        layers = tuple((keys[b : b + 1], values[b : b + 1]) for keys, values in self.layers)
        return Prefix(layers, self.length, self.next_position, self.embedding_BD[b : b + 1])


class Family(ABC):
    """One kind of checkpoint, for the path `shared`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.model = checkpoint.model
        self.tokenizer = checkpoint.tokenizer
        self.device = checkpoint.device
        self.seg_id = int(self.tokenizer.convert_tokens_to_ids("[SEG]"))
        if self.seg_id in (None, self.tokenizer.unk_token_id):
            raise InputError(
                "the checkpoint's tokenizer knows no [SEG]",
                advice="name a Sa2VA checkpoint with the tokenizer it was trained with",
            )

    @abstractmethod
    def prepare(self, picture_HWC: Picture) -> Prepared:
        """Do for one RGB image what the CPU has to do; safe to call from several threads."""

    @abstractmethod
    def tails(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text after the image, up to where the reply begins."""

    @abstractmethod
    def read(self, batch: Sequence[Prepared], runs: Sequence[Run]) -> Prefix:
        """Encode images of one group and run the language model over what precedes the prompts.

        `runs` are their pictures on the device.
        """

    @abstractmethod
    def tokens(self, prepared: Prepared) -> int:
        """Return about how many tokens the language model sees of an image."""

    @property
    @abstractmethod
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""

    @property
    def stop_words(self) -> tuple[str, ...]:
        """Texts that end a reply."""
        return ()

    @abstractmethod
    def _run(self, embeds_BQC: Tensor, cache: Any, positions_BQ: Tensor, mask: Tensor | None) -> Any:
        """Run the language model without its head; a mask is additive, `[1, 1, Q, tokens + Q]`."""

    def follow(
        self, prefix: Prefix, ids_Q: Tensor, offsets_Q: Tensor, mask_QT: Tensor | None
    ) -> tuple[Tensor, Prefix]:
        """Run tokens behind a prefix, the same for each image; returns last hidden states `[B, Q, C]`.

        And the prefix that reaches to their end.

        `offsets_Q` are positions from the prefix's end on. `mask_QT` says by True which of the T = prefix + Q
        tokens each of the Q sees; None: everything before it.
        """
        embeds_QC = self.model.get_input_embeddings()(ids_Q)
        rows = len(prefix.embedding_BD)
        positions_BQ = (prefix.next_position + offsets_Q).expand(rows, -1)
        mask = None
        if mask_QT is not None:
            lowest = torch.finfo(embeds_QC.dtype).min
            mask = torch.zeros(mask_QT.shape, dtype=embeds_QC.dtype, device=embeds_QC.device)
            mask = mask.masked_fill(~mask_QT, lowest).expand(rows, 1, -1, -1)
        output = self._run(embeds_QC.expand(rows, -1, -1), self._cache(prefix.layers), positions_BQ, mask)
        length = prefix.length + len(ids_Q)
        behind = prefix.next_position + int(offsets_Q[-1]) + 1 if mask_QT is None else -1
        return output.last_hidden_state, Prefix(
            self._layers(output.past_key_values), length, behind, prefix.embedding_BD
        )

    def vocabulary_logits(self, hidden: Tensor) -> Tensor:
        """Return the language model's logits `[..., V]` for its last hidden states."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits

    def _cache(self, layers: Layers) -> Any:
        # A fresh one each time: the model appends to it, and the prefix is used again.
        cache = DynamicCache()
        for number, (keys, values) in enumerate(layers):
            cache.update(keys[:, :, :0], values[:, :, :0], number)  # so that it exists; the rest uncopied
            cache.layers[number].keys, cache.layers[number].values = keys, values
        return cache

    def _layers(self, cache: Any) -> Layers:
        return tuple((layer.keys, layer.values) for layer in cache.layers)


def normalised(pixels_NHWC: Tensor, table_C256: Tensor) -> Tensor:
    """Return `[N, C, H, W]`: each 8-bit value replaced by what the checkpoint's own code makes of it.

    A table of 256 values a channel gives the reference's rounding on every device, and moves 8-bit pixels
    instead of normalised ones.
    """
    return torch.stack([table_C256[c][pixels_NHWC[..., c].long()] for c in range(len(table_C256))], dim=1)
