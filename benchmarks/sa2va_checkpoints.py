"""Sa2VA checkpoints of the released geometries with random weights, from a folder of the model's own code.

The weights are what the code initialises, but for the language model's tokens: each is a random direction
strong enough to be known again behind the last layer, and the head answers `Sure, [SEG].` by it. So
`predict_forward` generates the reply that a trained model gives, as many tokens of it, and gets a mask.
"""

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from job.segmenters.remote_code import read_code
from job.segmenters.sa2va import loading
from job.segmenters.sa2va.importing import quiet
from job.spec.segmenter import Sa2vaSpec

REPLY = str(Sa2vaSpec.model_fields["reply"].default)
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>",
    "<p>", "</p>", "<vp>", "</vp>", "[SEG]",
]  # fmt: skip
LANGUAGE_MODELS: dict[str, tuple[int, int, int, int, int]] = {
    "tiny": (64, 96, 2, 4, 2),
    "1B": (896, 4864, 24, 14, 2),
    "4B": (2048, 11008, 36, 16, 2),
    "8B": (3584, 18944, 28, 28, 4),
}
"""Qwen2.5 of 0.5B, 3B and 7B (InternVL3-8B): width, MLP width, layers, heads, heads of keys and values."""
_VOCABULARY = 151_674
_SHARD_BYTES = 4 * 2**30
_TOKEN_STRENGTH = 2.0
"""Of a token's direction, against what a layer writes beside it."""


def make(folder: Path, code: Path, size: str, texts: Sequence[str], device: str, seed: int = 0) -> Path:
    """Write a checkpoint in bfloat16 (float32 for `tiny`), whose tokenizer knows the words of `texts`."""
    folder.mkdir(parents=True)
    for file in code.glob("*.py"):
        shutil.copy(file, folder)
    words = _tokenizer([*texts, f"user\nassistant\n{REPLY}"])
    words.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(_config(size, len(words))))
    dtype = torch.float32 if size == "tiny" else torch.bfloat16
    torch.manual_seed(seed)
    model = _initialised(folder, torch.device(device), dtype)
    _teach(model.language_model, words)
    _save(model, folder)
    return folder


def _config(size: str, known: int) -> dict[str, Any]:
    width, mlp, layers, heads, kv_heads = LANGUAGE_MODELS[size]
    tiny = size == "tiny"
    vision = {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "image_size": 448,
        "patch_size": 14, "hidden_size": 64 if tiny else 1024, "intermediate_size": 128 if tiny else 4096,
        "num_hidden_layers": 2 if tiny else 24, "num_attention_heads": 4 if tiny else 16, "qkv_bias": True,
        "qk_normalization": False, "norm_type": "layer_norm", "use_flash_attn": False,
    }  # fmt: skip
    language = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": width,
        "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": known if tiny else _VOCABULARY,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    return {
        "model_type": "sa2va_chat",
        "architectures": ["Sa2VAChatModel"],
        "auto_map": {
            "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfig",
            "AutoModel": "modeling_sa2va_chat.Sa2VAChatModel",
        },
        "vision_config": vision,
        "llm_config": language,
        "template": "qwen_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "force_image_size": 448,
        "max_dynamic_patch": 12,
        "ps_version": "v2",
        "select_layer": -1,
    }


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level, with each word of `texts` one token, as in the released tokenizers."""
    made = Tokenizer(models.BPE())
    split = Regex(r"\p{L}+| ?\p{L}+|\s|[^\s\p{L}]")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [*texts] * 4, trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL], special_tokens=True)
    return fast


def _initialised(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    model_class, config_class = (
        loading._class(read_code(folder), kind) for kind in ("AutoModel", "AutoConfig")
    )
    with quiet(), loading._default_dtype(dtype), device, torch.no_grad():
        model = model_class(config_class.from_pretrained(folder), use_flash_attn=False).eval()
        for part in model.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                # So that what goes through a layer keeps its size: masks then depend on image and prompt.
                inputs = (
                    part.weight.shape[0] if isinstance(part, nn.ConvTranspose2d) else part.weight[0].numel()
                )
                part.weight.normal_(std=inputs**-0.5)
        return model


def _teach(language_model: Any, words: PreTrainedTokenizerFast) -> None:
    """Let the model say the reply behind the template's last token, whatever it attends to."""
    embed = language_model.get_input_embeddings().weight
    head = language_model.get_output_embeddings().weight
    asked = words.encode("<|im_start|>assistant\n", add_special_tokens=False)
    chain = [asked[-1], *words.encode(REPLY, add_special_tokens=False), words.eos_token_id]
    assert len(set(chain)) == len(chain), f"a token twice in {chain}"
    with torch.no_grad():
        embed.normal_(std=_TOKEN_STRENGTH)
        head.normal_(std=0.001)
        for token, following in pairwise(chain):
            head[following] += embed[token] / embed[token].norm()


def _save(model: Any, folder: Path) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in model.state_dict().items():
        bytes_ = tensor.numel() * tensor.element_size()
        if size + bytes_ > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        size += bytes_
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
