"""Hostile weights: reward networks, policies, stable-baselines3 zips and segmenters' checkpoints."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile import valid
from tests.hostile.making import Make, Touch, deep, file, of, pickled, sparse, torch_zip, written


def _beside_weights(
    name: str, make: Callable[[Path], bytes] = lambda marker: pickle.dumps(Touch(marker))
) -> Make:
    def checkpoint(folder: Path, marker: Path) -> Path:
        written(valid.checkpoint(folder / "checkpoint") / name, make(marker))
        return folder / "checkpoint"

    return checkpoint


def _program(marker: Path) -> bytes:
    return f"open({str(marker)!r}, 'w')\n".encode()


def _zip_with(**parts: Callable[[Path], bytes]) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        with zipfile.ZipFile(folder / "final_model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, part in parts.items():
                archive.writestr(name, part(marker))
        return folder / "final_model.zip"

    return make


def _torch_bytes(value: Callable[[Path], object]) -> Callable[[Path], bytes]:
    def make(marker: Path) -> bytes:
        buffer = io.BytesIO()
        torch.save(value(marker), buffer)
        return buffer.getvalue()

    return make


def _expanded(marker: Path) -> object:
    return {"action_net.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}


# Safetensors.


def _tensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _giant_header(folder: Path, marker: Path) -> Path:
    return sparse("net.safetensors", struct.pack("<Q", 90 << 20) + b'{"a":', 100 << 20)(folder, marker)


def _header_of_empty_lists(folder: Path, marker: Path) -> Path:
    return written(folder / "net.safetensors", _tensors(b'{"a":[' + b"[]," * 4_000_000 + b"[]]}"))


def _network(spoil: Callable[[dict[str, Any], dict[str, Any], bytearray], None]) -> Make:
    """Return the network that ships, spoilt: header, what it says of itself, and the tensors' bytes."""

    def make(folder: Path, marker: Path) -> Path:
        content = valid.network(folder / "net.safetensors").read_bytes()
        length = 8 + int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8:length]), bytearray(content[length:])
        about = json.loads(header["__metadata__"]["reward_network"])
        spoil(header, about, data)
        header["__metadata__"]["reward_network"] = json.dumps(about)
        return written(folder / "net.safetensors", _tensors(header, bytes(data)))

    return make


def _not_finite(header: dict[str, Any], about: dict[str, Any], data: bytearray) -> None:
    data[:2] = np.float16(np.nan).tobytes()


def _wide(header: dict[str, Any], about: dict[str, Any], data: bytearray) -> None:
    about["config"]["widths"] = [4, 10**12]


def _ravenous(header: dict[str, Any], about: dict[str, Any], data: bytearray) -> None:
    about["config"] |= {"widths": [256] * 6, "max_side": 2048}


def _renamed(header: dict[str, Any], about: dict[str, Any], data: bytearray) -> None:
    header["../" * 20 + "etc/passwd"] = header.pop("style.bias")


def _deep_about(header: dict[str, Any], about: dict[str, Any], data: bytearray) -> None:
    about["config"] = json.loads("[" * 500 + "]" * 500)


# Checkpoints.


def _config(**fields: object) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        path = valid.checkpoint(folder / "checkpoint") / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder / "checkpoint"

    return make


def _part(name: str, data: bytes) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        written(valid.checkpoint(folder / "checkpoint") / name, data)
        return folder / "checkpoint"

    return make


def _more_words(folder: Path, marker: Path) -> Path:
    path = valid.checkpoint(folder / "checkpoint") / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["vein"] = 10**6
    path.write_text(json.dumps(document))
    return folder / "checkpoint"


def _piped(folder: Path, marker: Path) -> Path:
    path = valid.checkpoint(folder / "checkpoint") / "config.json"
    path.unlink()
    os.mkfifo(path)
    return folder / "checkpoint"


def _cut_weights(folder: Path, marker: Path) -> Path:
    path = valid.checkpoint(folder / "checkpoint") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    return folder / "checkpoint"


def _nan_weights(folder: Path, marker: Path) -> Path:
    path = valid.checkpoint(folder / "checkpoint") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + np.float16(np.nan).tobytes())
    return folder / "checkpoint"


_NET = "net.safetensors"
_F4 = _tensor([1], 0, 4)
_TERABYTE = _tensors({"a": _tensor([1 << 38], 0, 1 << 40)})

WEIGHTS = (
    *of(
        "network",
        4,
        {
            "network that is a pickle": pickled(_NET),
            "network that is a torch zip": torch_zip("best_reward_net.pth"),
            "network that is an old torch file": torch_zip("best_reward_net.pth", legacy=True),
            "network that is empty": file(_NET, b""),
            "network with a header of 90 MiB": _giant_header,
            "network with a header of empty lists": _header_of_empty_lists,
            "network with a header longer than itself": file(_NET, _tensors({}, length=1 << 62)),
            "network with a deep header": file(_NET, _tensors(b'{"a":' + deep() + b"}")),
            "network with overlapping tensors": file(
                _NET, _tensors({"a": _tensor([2], 0, 8), "b": _tensor([2], 4, 12)}, bytes(12))
            ),
            "network with one tensor twice": file(
                _NET, _tensors(b'{"a":%b,"a":%b}' % ((json.dumps(_F4).encode(),) * 2), bytes(4))
            ),
            "network with a gap": file(_NET, _tensors({"a": _tensor([1], 4, 8)}, bytes(8))),
            "network with more behind": file(_NET, _tensors({"a": _F4}, bytes(4096))),
            "network with a tensor beyond its end": file(
                _NET, _tensors({"a": _tensor([1 << 40], 0, 1 << 42)})
            ),
            "network with a shape that wraps around": file(
                _NET, _tensors({"a": _tensor([1 << 32, 1 << 32], 0, 0)})
            ),
            "network with a negative shape": file(_NET, _tensors({"a": _tensor([-1, -1], 0, 4)}, bytes(4))),
            "network with a shape of fractions": file(_NET, _tensors({"a": _tensor([1.0], 0, 4)}, bytes(4))),
            "network with negative offsets": file(_NET, _tensors({"a": _tensor([1], -4, 0)}, bytes(4))),
            "network with an unknown dtype": file(_NET, _tensors({"a": _tensor([1], 0, 8, "O")}, bytes(8))),
            "network of a terabyte": sparse(_NET, _TERABYTE, 1 << 40),
            "network with NaN": _network(_not_finite),
            "network that claims to be huge": _network(_wide),
            "network that would need 20 GiB to answer": _network(_ravenous),
            "network with a tensor named for a file": _network(_renamed),
            "network that describes itself deeply": _network(_deep_about),
        },
    ),
    *of(
        "network",
        3,
        {
            "network that is a device": lambda folder, marker: Path("/dev/zero"),
        },
    ),
    *of(
        "policy",
        4,
        {
            "policy that is a pickle": pickled("policy.safetensors"),
            "policy that is an SB3 zip": _zip_with(data=lambda marker: pickle.dumps(Touch(marker))),
            "policy of a terabyte": sparse("policy.safetensors", _TERABYTE, 1 << 40),
            "policy without a document": file("policy.safetensors", _tensors({"a": _F4}, bytes(4))),
            "policy with metadata that are numbers": file(
                "policy.safetensors", _tensors({"__metadata__": {"a": 1}})
            ),
        },
    ),
    *of(
        "tensors",
        4,
        {
            "table with a truth value of 7": file(
                "t.safetensors",
                _tensors(
                    {
                        "__metadata__": {"description": '{"document": {}, "sha256": ""}'},
                        "a": _tensor([1], 0, 1, "BOOL"),
                    },
                    b"\7",
                ),
            ),
        },
    ),
    *of(
        "zip",
        4,
        {
            "SB3 zip with a pickle in it": _zip_with(
                **{"policy.pth": lambda marker: pickle.dumps(Touch(marker))}
            ),
            "SB3 zip with a torch zip that runs code": _zip_with(
                **{"policy.pth": _torch_bytes(lambda marker: {"x": Touch(marker)})}
            ),
            "SB3 zip that is a bomb": _zip_with(**{"policy.pth": lambda marker: bytes(80 << 20)}),
            "SB3 zip with a tensor of terabytes": _zip_with(**{"policy.pth": _torch_bytes(_expanded)}),
        },
    ),
    *of(
        "segmenter",
        4,
        {
            "checkpoint with pickled weights": (_beside_weights("pytorch_model.bin"), "pytorch_model.bin"),
            "checkpoint with a state dict": (_beside_weights("optimizer.pt"), "optimizer.pt"),
            "checkpoint with an exported program": (_beside_weights("model.pt2"), "model.pt2"),
            "checkpoint with code": (_beside_weights("modeling_x.py", _program), "modeling_x.py"),
            "checkpoint with code below": (_beside_weights("deep/down/x.PY", _program), "x.PY"),
            "checkpoint that asks for its code": (
                _config(auto_map={"AutoModel": "modeling_x.Model"}),
                "auto_map",
            ),
            "checkpoint that asks for code from elsewhere": (
                _config(auto_map={"AutoModel": "a/b--c.D"}),
                "auto_map",
            ),
            "checkpoint of another family": (_config(model_type="llama"), "config.json"),
            "checkpoint that claims to be huge": (_config(widths=[10**9] * 4), "config.json"),
            "checkpoint with widths that are no list": (_config(widths="12"), "config.json"),
            "checkpoint with a vocabulary of 10^12": (_config(vocab_size=10**12), "config.json"),
            "checkpoint with a larger network than weights": (
                _config(widths=[1024] * 4),
                "model.safetensors",
            ),
            "checkpoint with a padding word outside": (_config(pad_token_id=-1), "config.json"),
            "checkpoint with a deep config": (_part("config.json", deep()), "config.json"),
            "checkpoint with weights cut short": (_cut_weights, "model.safetensors"),
            "checkpoint with NaN weights": (_nan_weights, "model.safetensors"),
            "checkpoint with a pickle for weights": (
                _beside_weights("model.safetensors"),
                "model.safetensors",
            ),
            "checkpoint with a tokenizer that is a list": (_part("tokenizer.json", b"[]"), "tokenizer.json"),
            "checkpoint with a tokenizer that is deep": (_part("tokenizer.json", deep()), "tokenizer.json"),
            "checkpoint with a tokenizer of nothing": (
                _part("tokenizer.json", b'{"version":"1.0"}'),
                "tokenizer.json",
            ),
            "checkpoint with words beyond its network": (_more_words, "tokenizer.json"),
        },
    ),
    *of(
        "segmenter",
        3,
        {
            "checkpoint with a config that is a pipe": (_piped, "config.json"),
        },
    ),
)
