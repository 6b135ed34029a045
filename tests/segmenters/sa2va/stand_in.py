"""Makes a checkpoint of the stand-in: real files of a real format, random weights, a reply that is wanted.

Its language model is a real Qwen2 that learned a chain: behind each token of the reply comes the next, behind
the last the end. So both paths must find out by themselves what it says.
"""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from job.segmenters.registry import sa2va_options
from job.segmenters.remote_code import read_code
from job.segmenters.sa2va import loading
from job.segmenters.sa2va.options import Sa2vaOptions
from job.spec.segmenter import Sa2vaSpec

CODE = Path(__file__).parent / "stand_in_code"
WORDS = [
    "user",
    "assistant",
    "Sure",
    ",",
    ".",
    "It",
    "No",
    "segment",
    "the",
    "vessels",
    "fine",
    "major",
    "please",
]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>", "[SEG]"]
END = "<|im_end|>"
SURE = ("Sure", ",", "[SEG]", ".", END)
IT = ("It", ",", "[SEG]", ".", END)
NONE = ("No", ".", END)
LOOP = ("Sure", ",", "[SEG]", ",")
"""Behind the comma comes [SEG] and behind [SEG] a comma, until generation is stopped."""
_SHARDS = 3
_WIDTH = 32


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; what it does not know is one token."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", eos_token=END, pad_token="<|endoftext|>"
    )
    made.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL], special_tokens=True
    )
    return made


def options(**chosen: object) -> Sa2vaOptions:
    """Return a spec's options with its defaults, but float32: the stand-in is as small as that."""
    section = {"kind": "sa2va", "uri": "anywhere", "dtype": "float32", **chosen}
    return sa2va_options(Sa2vaSpec.model_validate(section))


def make(
    folder: Path, reply: Sequence[str] = SURE, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a checkpoint of several shards whose model answers `reply`; returns the folder."""
    words = tokenizer()
    shutil.copytree(CODE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    words.save_pretrained(folder)
    model_type = {"model_type": "sa2va_chat", "architectures": ["Sa2VAChatModel"]}
    auto_map = {
        "AutoConfig": "configuration_sa2va_chat.Sa2VAChatConfig",
        "AutoModel": "modeling_sa2va_chat.Sa2VAChatModel",
    }
    (folder / "config.json").write_text(
        json.dumps(
            {
                **model_type,
                "auto_map": auto_map,
                "llm_config": _language_model(len(words)),
                "template": "chat",
            }
        )
    )
    model = loading._empty_model(folder, read_code(folder), torch.device("cpu"), torch.float32)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _randomise(tensors, seed)
    chain = [words.convert_tokens_to_ids(token) for token in ("assistant", *reply)]
    _teach(tensors, chain)
    names = sorted(tensors)
    weight_map = {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        part = {name: tensors[name].to(dtype) for name in names[shard::_SHARDS]}
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _language_model(vocabulary: int) -> dict[str, object]:
    sizes = {"hidden_size": _WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": vocabulary}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
    return {"architectures": ["Qwen2ForCausalLM"], **sizes, **heads, **tokens, "tie_word_embeddings": False}


def _randomise(tensors: dict[str, Tensor], seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for name in sorted(tensors):
        tensor = tensors[name]
        scale = 0.1 if tensor.dim() < 2 else 1.5 / tensor[0].numel() ** 0.5
        tensor.copy_(torch.randn(tensor.shape, generator=chance) * scale + ("norm" in name) * 1.0)


def _teach(tensors: dict[str, Tensor], chain: Sequence[int]) -> None:
    """Let the model say `chain[i + 1]` behind `chain[i]`, whatever it attends to."""
    embed = tensors["language_model.model.embed_tokens.weight"]
    head = tensors["language_model.lm_head.weight"]
    embed.copy_(torch.nn.functional.one_hot(torch.arange(len(embed)) % _WIDTH, _WIDTH) * 40.0)
    head.mul_(0.01)
    for token, following in itertools.pairwise(chain):
        head[following] += embed[token]
