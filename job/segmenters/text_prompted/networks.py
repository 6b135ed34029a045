"""CLIPSeg and SAM 3 as they come with transformers, taken apart: read prompts, read images, decode pairs.

Only parts that have public names are called, in the order of the networks' own `forward`: the same arithmetic
on pictures and text, less what no mask here depends on.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, CLIPSegForImageSegmentation, Sam3Model
from transformers.utils import logging as transformers_logging

from job.errors import IntegrityError, JobError, SpecError
from job.segmenters.checkpoint_files import read_json, refused, shards_of
from job.segmenters.special_tokens import require_plain_words
from job.segmenters.text_prompted.checkpoint_folder import CONFIG, Preparation, content_files, preparation
from job.storage.documents import open_plain
from job.storage.tensor_header import UnsafeFile, read_header

_NAMED = 5
_MOST_HEADER_BYTES = 8 << 20
_MOST_ASKED = 1.05
"""Numbers that a network asks for against those in its files: what is a little short is named by `_model`."""


@dataclass(frozen=True)
class Features:
    """What a network has read of images, kept for all their prompts."""

    rows: Any
    embedding_BD: Tensor
    """float32."""


class Network(Protocol):
    """A network in three parts."""

    preparation: Preparation
    device: torch.device
    dtype: torch.dtype
    pairs_at_once: int
    """Bounds memory: pairs of an image and a prompt that are decoded together."""

    def read_prompt(self, prompt: str) -> Any:
        """Return features of a prompt; raises `SpecError` for one that is too long."""

    def read_images(self, pixels_B3HW: Tensor) -> Features:
        """Return features of prepared images."""

    def decode(self, features: Features, b: int, prompts: Sequence[Any]) -> Tensor:
        """Return logits `[P, h, w]` of image b with each prompt."""


def open_network(kind: Literal["clipseg", "sam3"], folder: Path, device: str, dtype: str) -> Network:
    """Load a checkpoint folder; nothing but JSON, text and safetensors is opened, and no network is asked.

    Raises FileNotFoundError naming what the folder lacks, `IntegrityError` for code, damaged weights, and
    weights that lack what config.json asks for.
    """
    content_files(folder)
    model_class, known = _CLASSES[kind]
    found = read_json(folder / CONFIG, {"model_type": str}).get("model_type")
    if found not in known:
        raise refused(folder / CONFIG, f"its model_type is {found}, not {kind}")
    with _quiet():
        model = _model(model_class, folder, getattr(torch, dtype))
        tokenizer = _tokenizer(folder)
    prepares = preparation(folder)
    _require_fitting(folder, kind, model.config, prepares)
    prepared = model.to(device).eval().requires_grad_(False)
    parts = (prepared, tokenizer, prepares, torch.device(device))
    return _Clipseg(*parts) if kind == "clipseg" else _Sam3(*parts)


_CLASSES = {
    "clipseg": (CLIPSegForImageSegmentation, ("clipseg",)),
    # A checkpoint that tracks through videos holds the network for images as one of its parts.
    "sam3": (Sam3Model, ("sam3", "sam3_video")),
}


class _Clipseg:
    def __init__(self, model: Any, tokenizer: Any, prepared: Preparation, device: torch.device) -> None:
        self.preparation = prepared
        self.device = device
        self.dtype: torch.dtype = model.dtype
        self.pairs_at_once = 32
        self._model = model
        self._tokenizer = tokenizer
        self._length = int(model.config.text_config.max_position_embeddings)

    def read_prompt(self, prompt: str) -> Any:
        tokens = _tokens(self._tokenizer, prompt, self._length, self.device)
        return self._model.clip.get_text_features(**tokens).pooler_output[0]

    def read_images(self, pixels_B3HW: Tensor) -> Features:
        seen = self._model.clip.get_image_features(
            pixels_B3HW, interpolate_pos_encoding=True, output_hidden_states=True
        )
        # The first hidden state is the network's input.
        layers = [seen.hidden_states[layer + 1] for layer in self._model.config.extract_layers]
        return Features(layers, seen.pooler_output.float())

    def decode(self, features: Features, b: int, prompts: Sequence[Any]) -> Tensor:
        layers = [layer[b : b + 1].expand(len(prompts), -1, -1) for layer in features.rows]
        logits = self._model.decoder(layers, torch.stack(list(prompts))).logits
        return logits.reshape(len(prompts), *logits.shape[-2:])  # type: ignore[no-any-return]


class _Sam3:
    def __init__(self, model: Any, tokenizer: Any, prepared: Preparation, device: torch.device) -> None:
        self.preparation = prepared
        self.device = device
        self.dtype: torch.dtype = model.dtype
        self.pairs_at_once = 8
        self._model = model
        self._tokenizer = tokenizer
        self._length = int(model.config.text_config.max_position_embeddings)

    def read_prompt(self, prompt: str) -> Any:
        tokens = _tokens(self._tokenizer, prompt, self._length, self.device)
        return self._model.get_text_features(**tokens).pooler_output[0], tokens["attention_mask"][0]

    def read_images(self, pixels_B3HW: Tensor) -> Features:
        seen = self._model.get_vision_features(pixels_B3HW)
        return Features(seen, seen.last_hidden_state.float().mean(dim=1))

    def decode(self, features: Features, b: int, prompts: Sequence[Any]) -> Tensor:
        # As `forward` goes on from here, but for the objects that it looks for one by one: the semantic mask
        # takes nothing of their boxes, scores and masks, so that none are asked for.
        read, masks = (torch.stack(list(parts)) for parts in zip(*prompts, strict=True))
        levels, places = (
            _expanded(maps[:-1], b, len(prompts))  # the last is for tracking
            for maps in (features.rows.fpn_hidden_states, features.rows.fpn_position_encoding)
        )
        seen = self._model.detr_encoder(
            vision_features=[levels[-1]],
            text_features=read,
            vision_pos_embeds=[places[-1]],
            text_mask=masks.bool(),
        ).last_hidden_state
        found = self._model.mask_decoder(
            decoder_queries=seen[:, :0],
            backbone_features=list(levels),
            encoder_hidden_states=seen,
            prompt_features=read,
            prompt_mask=masks.bool(),
        )
        return found.semantic_seg[:, 0]  # type: ignore[no-any-return]


def _expanded(maps: Sequence[Tensor], b: int, count: int) -> tuple[Tensor, ...]:
    return tuple(one[min(b, len(one) - 1)][None].expand(count, -1, -1, -1) for one in maps)


def _tokens(tokenizer: Any, prompt: str, length: int, device: torch.device) -> Any:
    """Return `input_ids` and `attention_mask` `[1, length]` of a prompt."""
    require_plain_words(prompt, prompt, tokenizer)
    tokens = tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt")
    count = int(tokens["attention_mask"].sum())
    if count > length:
        raise SpecError(
            f"the prompt {prompt[:60]!r} has {count} tokens, and this network reads {length}",
            advice="shorten it: what it does not read cannot matter",
        )
    return {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}


def _model(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    try:
        _require_weights(model_class, folder)
        model, told = model_class.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (JobError, MemoryError, torch.OutOfMemoryError):
        raise
    # Of a configuration with odd values transformers makes whatever error it comes to.
    except Exception as error:
        raise IntegrityError(
            f"{folder}: the checkpoint cannot be loaded: {str(error)[:300]}",
            advice="fetch an undamaged copy of all its files",
        ) from error
    # What the file lacks would be filled with chance.
    lacking = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if lacking:
        named = ", ".join(lacking[:_NAMED]) + (" and others" if len(lacking) > _NAMED else "")
        raise IntegrityError(
            f"{folder}: the weights lack {len(lacking)} tensors that config.json asks for: {named}",
            advice="config.json and weights are of different models: fetch both anew",
        )
    return model


def _require_weights(model_class: Any, folder: Path) -> None:
    """Raise `IntegrityError` where config.json asks for more than the files hold; takes no memory for it."""
    held = 0
    for path in shards_of(folder):
        with open_plain(path) as file:
            try:
                header = read_header(file, most_header_bytes=_MOST_HEADER_BYTES)
            except UnsafeFile as error:
                raise refused(path, str(error)) from error
        held += sum(math.prod(facts.shape) for facts in header.tensors.values())
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        asked = sum(parameter.numel() for parameter in model_class(config).parameters())
    if asked > held * _MOST_ASKED:
        raise IntegrityError(
            f"{folder}: config.json asks for {asked:,} numbers, and the weights hold {held:,}",
            advice="config.json and weights are of different models: fetch both anew",
        )


def _require_fitting(folder: Path, kind: str, config: Any, prepares: Preparation) -> None:
    """Raise `IntegrityError` where prepared pictures, or layers that are asked for, do not fit."""
    size = (prepares.height, prepares.width)
    if kind == "clipseg":
        layers, patch = config.vision_config.num_hidden_layers, config.vision_config.patch_size
        if not all(0 <= layer < layers for layer in config.extract_layers):
            raise refused(folder / CONFIG, f"extract_layers {config.extract_layers} are not among {layers}")
        if min(size) < patch:
            raise refused(folder, f"pictures become {size[0]} x {size[1]}, less than a patch of {patch}")
        return
    # SAM 3 knows the places of one size alone.
    side = config.vision_config.backbone_config.image_size
    if size != (side, side):
        raise refused(folder, f"pictures become {size[0]} x {size[1]}, and the network reads {side} x {side}")


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # The library raises plain Exceptions for files that are no tokenizer.
    except Exception as error:
        raise refused(folder / "tokenizer.json", str(error)[:200]) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Within: transformers shows no bars and advises nobody; the standard output belongs to the job's log."""
    shown = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(shown)
        if bars:
            transformers_logging.enable_progress_bar()
