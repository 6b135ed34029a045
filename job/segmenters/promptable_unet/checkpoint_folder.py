"""From a checkpoint folder to network and tokenizer; nothing of it is believed before it is checked.

`from_pretrained` would follow what the files say (other files, adapters, other classes) and fill what is
missing with chance. Here the configuration says which tensors there must be, and the file must hold those.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from job.segmenters.checkpoint_files import MOST_BYTES_OF_JSON, read_json, refused
from job.segmenters.promptable_unet.content import (
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    require_usable,
)
from job.segmenters.promptable_unet.modelling import MODEL_TYPE, PromptableUNet, PromptableUNetConfig
from job.storage.documents import open_plain, read_bytes
from job.storage.tensor_header import Header, UnsafeFile, read_array, read_header

_MOST_LEVELS = 8
_WIDEST = 1024
_MOST_WORDS = 1_000_000
_MOST_TOKENS = 64
"""Of a prompt."""
_MOST_HEADER_BYTES = 8 << 20
_FLOATS = ("F16", "F32", "F64")


def load(folder: Path) -> tuple[PromptableUNet, Tokenizer]:
    """Return network (float32, on the CPU, for evaluation) and tokenizer, which pads prompts to one length.

    Raises FileNotFoundError naming what the folder lacks, `IntegrityError` for a folder that holds code, and
    for files that are damaged, not finite, of other tensors than the configuration needs, or out of bounds.
    """
    require_usable(folder)
    config = _config(folder / CONFIG)
    tokenizer = _tokenizer(folder, config)
    return _network(folder / WEIGHTS, config), tokenizer


def _config(path: Path) -> PromptableUNetConfig:
    kinds: dict[str, type] = {"widths": list, "decoder_widths": list}
    kinds |= {"vocab_size": int, "text_width": int, "pad_token_id": int, "model_type": str}
    found = read_json(path, kinds)
    if found.pop("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise refused(path, f"its model_type is not {MODEL_TYPE}")
    config = PromptableUNetConfig(**found)
    for widths in (config.widths, config.decoder_widths):
        if len(widths) > _MOST_LEVELS or not all(type(w) is int and 1 <= w <= _WIDEST for w in widths):
            raise refused(path, f"widths are at most {_MOST_LEVELS} whole numbers from 1 to {_WIDEST}")
    if not len(config.widths) - 1 == len(config.decoder_widths) >= 1:
        raise refused(path, "decoder_widths must be one fewer than widths")
    if not (1 <= config.vocab_size <= _MOST_WORDS and 1 <= config.text_width <= _WIDEST):
        raise refused(path, f"vocab_size is at most {_MOST_WORDS:,} and text_width {_WIDEST}")
    if not 0 <= config.pad_token_id < config.vocab_size:
        raise refused(path, "pad_token_id is no word of its vocabulary")
    return config


def _network(path: Path, config: PromptableUNetConfig) -> PromptableUNet:
    with torch.device("meta"):  # shapes alone: no memory is taken on the word of a configuration
        network = PromptableUNet(config)
    try:
        with open_plain(path) as file:
            header = read_header(file, most_header_bytes=_MOST_HEADER_BYTES)
            _check_shapes(header, network.state_dict())
            state = {}
            for name, facts in header.tensors.items():
                values = torch.from_numpy(read_array(file, facts))
                if values.is_floating_point():
                    values = values.to(torch.float32)
                    if not torch.isfinite(values).all():
                        raise UnsafeFile(f"{name} holds values that are not finite")  # noqa: TRY301
                state[name] = values
    except UnsafeFile as error:
        raise refused(path, str(error)) from error
    network.load_state_dict(state, assign=True)
    network.eval()
    return network


def _check_shapes(header: Header, wanted: dict[str, Tensor]) -> None:
    if header.tensors.keys() != wanted.keys():
        missing = sorted(wanted.keys() - header.tensors.keys())
        unknown = sorted(header.tensors.keys() - wanted.keys())
        raise UnsafeFile(f"tensors missing: {missing[:5] or 'none'}; unknown: {unknown[:5] or 'none'}")
    for name, facts in header.tensors.items():
        if facts.shape != tuple(wanted[name].shape):
            raise UnsafeFile(f"{name} has shape {list(facts.shape)}, not {list(wanted[name].shape)}")
        allowed = _FLOATS if wanted[name].is_floating_point() else ("I64",)
        if facts.dtype not in allowed:
            raise UnsafeFile(f"{name} is {facts.dtype}, and {' or '.join(allowed)} is expected")


def _tokenizer(folder: Path, config: PromptableUNetConfig) -> Tokenizer:
    path = folder / TOKENIZER
    named: dict[str, Any] = {"pad_token": str, "unk_token": str}
    words = read_json(folder / TOKENIZER_CONFIG, named)
    read_json(path, {})  # strictly, before a parser that takes more
    try:
        tokenizer = Tokenizer.from_buffer(read_bytes(path, most_bytes=MOST_BYTES_OF_JSON))
    # The library raises plain Exceptions, and what its Rust code panics with is no Exception at all.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise refused(path, f"it is no tokenizer ({str(error)[:200]})") from error
    vocabulary = tokenizer.get_vocab()
    if vocabulary and max(vocabulary.values()) >= config.vocab_size:
        raise refused(path, f"it has words beyond the {config.vocab_size} of {CONFIG}")
    absent = [word for word in words.values() if word not in vocabulary]
    if "pad_token" not in words or absent:
        raise refused(folder / TOKENIZER_CONFIG, f"{absent or 'pad_token'} is not in the vocabulary")
    tokenizer.add_special_tokens(list(words.values()))
    pad = words["pad_token"]
    tokenizer.enable_padding(pad_id=vocabulary[pad], pad_token=pad)
    tokenizer.enable_truncation(_MOST_TOKENS)
    return tokenizer
