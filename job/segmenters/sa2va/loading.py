"""A checkpoint folder as a model on its device: trusted code, checked versions, weights shard by shard."""

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoProcessor, AutoTokenizer

from job.errors import InputError, IntegrityError, JobError, SpecError
from job.segmenters.checkpoint_files import shards_of
from job.segmenters.remote_code import RemoteCode, trusted_code
from job.segmenters.sa2va.attention import use_attention
from job.segmenters.sa2va.importing import load_class, quiet
from job.segmenters.sa2va.options import Sa2vaOptions
from job.segmenters.sa2va.requirements import check_requirements, language_model

_NAMED = 5


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model of its own code, and what turns text into tokens."""

    model: Any
    tokenizer: Any
    processor: Any
    """Qwen-VL's; None for the InternVL kind."""
    language_model: str
    device: torch.device
    dtype: torch.dtype

    @property
    def is_qwen_vl(self) -> bool:
        """Whether a Qwen-VL reads the image, with its own vision tower, instead of InternViT and an LLM."""
        return self.processor is not None


def load_checkpoint(folder: Path, device: str, options: Sa2vaOptions, uri: str | None = None) -> Checkpoint:
    """Load a folder of config.json, safetensors, tokenizer and code; no network is asked.

    The model is made on the device in its dtype and filled shard by shard, tensor by tensor: float32 shards
    become bfloat16 without a second copy of the model anywhere. Raises `IntegrityError` for code that the
    user does not vouch for and for damaged weights, `InputError` for what is missing or cannot run here.
    """
    config = _config(folder)
    code = trusted_code(folder, options.trust_code, uri)
    check_requirements(code, config, options)
    dtype: torch.dtype = getattr(torch, options.dtype)
    place = torch.device(device)
    if place.type == "cpu" and dtype == torch.float16:
        raise SpecError(
            "segmenter.dtype float16 is for a GPU: on a CPU its arithmetic is not there for all of the model",
            advice='set segmenter.dtype to "bfloat16" or "float32"',
        )
    with quiet():
        with _blamed_on_code(folder):
            model = _empty_model(folder, code, place, dtype)
        _fill(model, folder)
        with _blamed_on_tokenizer(folder):
            tokenizer, processor = _words(folder, code, has_processor="llm_config" not in config)
    use_attention(model, options.attention)
    checkpoint = Checkpoint(model, tokenizer, processor, language_model(config), place, dtype)
    _prepare(checkpoint, options)
    return checkpoint


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} lacks config.json", advice="name the folder of a Sa2VA checkpoint"
        ) from error
    except ValueError as error:
        raise InputError(f"{folder}/config.json is no JSON", advice="fetch an undamaged copy") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder}/config.json is no JSON object", advice="fetch an undamaged copy")
    return config


def _empty_model(folder: Path, code: RemoteCode, device: torch.device, dtype: torch.dtype) -> Any:
    model_class, config_class = (_class(code, kind) for kind in ("AutoModel", "AutoConfig"))
    config = config_class.from_pretrained(folder, local_files_only=True)
    with _default_dtype(dtype), device, _no_initialisation():
        # Without the flag the code would take flash-attn where it is installed, which knows no masks.
        model = model_class(config, use_flash_attn=False)
    if not hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}  # transformers 5 expects it; the code was written for 4
    for part in model.modules():
        if part is not model and getattr(part, "all_tied_weights_keys", None):
            part.tie_weights()
    return model.eval().requires_grad_(False)


def _class(code: RemoteCode, kind: str) -> Any:
    reference = code.reference(kind) or (
        code.reference("AutoModelForCausalLM") if kind == "AutoModel" else None
    )
    if reference is None:
        raise InputError(
            f"config.json names no code for {kind}",
            advice="name the folder of a Sa2VA checkpoint with its code",
        )
    return load_class(code, reference)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _no_initialisation() -> Iterator[None]:
    """Within: modules are made without random weights, which billions of parameters would wait for."""
    with ExitStack() as stack:
        initialization = importlib.import_module("transformers.initialization")
        stack.enter_context(initialization.no_init_weights())
        yield


def _fill(model: nn.Module, folder: Path) -> None:
    """Copy every tensor of the shards into the model, cast to the model's dtype on the way."""
    wanted: dict[str, Tensor] = model.state_dict(keep_vars=True)
    filled: set[int] = set()
    for shard in shards_of(folder):
        try:
            with safe_open(shard, framework="pt") as file, torch.no_grad():
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    if (target := wanted.get(name)) is None:
                        continue
                    source = file.get_tensor(name)
                    if source.shape != target.shape:
                        raise IntegrityError(
                            f"{shard.name}: {name} is {tuple(source.shape)}, but config.json asks for"
                            f" {tuple(target.shape)}",
                            advice="config.json and weights are of different models: fetch both anew",
                        )
                    target.copy_(source)
                    filled.add(target.data_ptr())
        except (SafetensorError, OSError) as error:
            raise IntegrityError(
                f"{shard}: not readable ({error})", advice="fetch an undamaged copy of the file"
            ) from error
    lacking = [name for name, tensor in wanted.items() if tensor.numel() and tensor.data_ptr() not in filled]
    if lacking:
        named = ", ".join(lacking[:_NAMED]) + (" and others" if len(lacking) > _NAMED else "")
        raise IntegrityError(
            f"{folder}: the shards lack {len(lacking)} of {len(wanted)} tensors: {named}",
            advice="fetch all shards of the checkpoint, and code of the same version",
        )


def _words(folder: Path, code: RemoteCode, *, has_processor: bool) -> tuple[Any, Any]:
    """Return tokenizer and processor, the latter None for the InternVL kind."""
    if has_processor:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return processor.tokenizer, processor
    return _tokenizer(folder, code), None


@contextmanager
def _blamed_on_code(folder: Path) -> Iterator[None]:
    """Within: what the checkpoint's code raises of its own is an error of the checkpoint."""
    try:
        yield
    except (JobError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{folder}: the checkpoint's code failed to make the model: {type(error).__name__}:"
            f" {str(error)[:200]}",
            advice="config.json and code are of different versions, or the code was written for another"
            " version of transformers: fetch both anew, or name a checkpoint that is known to run",
        ) from error


@contextmanager
def _blamed_on_tokenizer(folder: Path) -> Iterator[None]:
    try:
        yield
    except (JobError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(f"{folder}: its tokenizer needs a package: {error}", advice="install it") from error
    # The libraries raise plain Exceptions for files that are no tokenizer.
    except Exception as error:
        raise IntegrityError(
            f"{folder}: its tokenizer cannot be read: {str(error)[:200]}",
            advice="fetch tokenizer.json and the files beside it anew",
        ) from error


def _tokenizer(folder: Path, code: RemoteCode) -> Any:
    own = code.reference("AutoTokenizer", "tokenizer_config.json")
    if own is not None:
        return load_class(code, own).from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _prepare(checkpoint: Checkpoint, options: Sa2vaOptions) -> None:
    """Tell the model its dtype and the cap on generation, each kind in its own way."""
    model = checkpoint.model
    if not checkpoint.is_qwen_vl:
        model.preparing_for_generation(
            checkpoint.tokenizer, max_new_tokens=options.max_new_tokens, torch_dtype=checkpoint.dtype
        )
        return
    model.torch_dtype = checkpoint.dtype
    generate = model.model.generate
    # predict_forward of this kind asks for up to 2,048 tokens, whatever is wanted.
    model.model.generate = lambda *args, **asked: generate(
        *args, **{**asked, "max_new_tokens": options.max_new_tokens}
    )
