"""A segmenter's checkpoint folder from anywhere: what could run code is refused, the rest read strictly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from job.errors import InputError, IntegrityError
from job.storage import strict_json
from job.storage.documents import read_bytes

CODE = frozenset(
    {
        ".py", ".pyc", ".so", ".dll", ".dylib", ".sh",  # programs
        ".bin", ".pt", ".pth", ".pt2", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".mar", ".nemo",
        ".h5", ".keras", ".pb", ".onnx", ".engine", ".plan", ".gguf", ".msgpack", ".jar",
    }
)  # fmt: skip
"""Endings of what is, or may hold, code: programs, pickles, compiled graphs. Nothing of it is ever opened."""
INDEX = "model.safetensors.index.json"
MOST_BYTES_OF_JSON = 32 << 20
"""The tokenizer of a large language model has 11 MB."""
_ADVICE = (
    "keep config.json, model.safetensors and the tokenizer's files alone; weights in another format become"
    " safetensors with `safetensors.torch.save_file`, on a machine where the checkpoint is trusted."
    " A segmenter of this kind runs no code of a checkpoint, and no setting changes that"
)


def require_no_code(folder: Path) -> None:
    """Raise `IntegrityError` when a checkpoint folder holds pickles, programs or a call for remote code."""
    code = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in CODE and not path.is_dir()
    )
    if code:
        more = f" and {len(code) - 1} more" if len(code) > 1 else ""
        raise IntegrityError(
            f"{folder} holds {code[0]!r}{more}, which could run code when it is loaded: refused",
            advice=_ADVICE,
        )
    for path in sorted(folder.glob("*.json")):
        if path.is_file() and b"auto_map" in read_bytes(path, most_bytes=MOST_BYTES_OF_JSON):
            raise IntegrityError(
                f"{path} has an `auto_map`, which asks for code of the checkpoint to be run: refused",
                advice=_ADVICE,
            )


def read_json(path: Path, fields: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Read a checkpoint's JSON object, of whose keys only `fields` are taken, each of its type.

    Raises `IntegrityError` for what is no such object; fields that are not there are left out.
    """
    try:
        document = strict_json.parse(read_bytes(path, most_bytes=MOST_BYTES_OF_JSON))
    except ValueError as error:
        raise refused(path, str(error)) from error
    if not isinstance(document, dict):
        raise refused(path, "it is no JSON object")
    for name, kind in fields.items():
        if name in document and (not isinstance(document[name], kind) or isinstance(document[name], bool)):
            raise refused(path, f"its {name} is {json.dumps(document[name])[:40]}")
    return {name: document[name] for name in fields if name in document}


def shards_of(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights, as its index names them where there is one.

    Raises `InputError` naming those that are missing, `IntegrityError` for an index that is none.
    """
    index = folder / INDEX
    if index.is_file():
        names = read_json(index, {"weight_map": dict}).get("weight_map", {}).values()
        if not names or not all(isinstance(name, str) for name in names):
            raise refused(index, "its weight_map names no files")
        shards = sorted({folder / Path(name).name for name in names})
    else:
        shards = sorted(folder.glob("*.safetensors"))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing and (whole := folder / "model.safetensors").is_file():
        return [whole]  # the index is of another copy of the weights
    if missing or not shards:
        raise InputError(
            f"{folder} lacks {', '.join(missing) or '*.safetensors'}",
            advice="fetch all shards of the checkpoint; *.bin files must be converted to safetensors first",
        )
    return shards


def refused(path: Path, why: str) -> IntegrityError:
    """Return the error of a file of a checkpoint that cannot be used."""
    return IntegrityError(
        f"{path} is no file of a usable checkpoint: {why}", advice="fetch an undamaged copy of the checkpoint"
    )
