"""The tensors of a stable-baselines3 zip, and nothing else of it: the rest of such a file can run code."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from job.storage.documents import read_bytes

MOST_BYTES = 64 << 20
MOST_MEMBERS = 1_000
_POLICY = "policy.pth"
_DTYPES = (torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)


def read_policy_state(path: Path) -> dict[str, NDArray[Any]]:
    """Return the policy's state dict as arrays.

    Raises ValueError for what is no such zip, for one that would unpack to more than `MOST_BYTES`, and for
    tensors that are not plain; `IntegrityError` for a larger file or a pipe. `PPO.load` would run what is in
    `data`.
    """
    inner = _member(read_bytes(path, most_bytes=MOST_BYTES), _POLICY)
    _require_bounded(inner)  # what torch.save writes is a zip once more
    try:
        state = torch.load(io.BytesIO(inner), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of torch raises whatever the bytes lead to
        raise ValueError(f"its {_POLICY} holds more than tensors, or is damaged") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"its {_POLICY} is no state dict")
    if not all(isinstance(values, torch.Tensor) and _is_plain(values) for values in state.values()):
        raise ValueError(f"its {_POLICY} holds more than plain tensors")
    return {name: values.numpy() for name, values in state.items()}


def _member(data: bytes, name: str) -> bytes:
    names = _require_bounded(data)
    if names.count(name) != 1:
        raise ValueError(f"it has {names.count(name)} {name}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(name) as file:
            content = file.read(MOST_BYTES + 1)  # a header may lie about the size
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"its {name} cannot be unpacked ({error})") from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"its {name} has more than {MOST_BYTES:,} bytes")
    return content


def _require_bounded(data: bytes) -> list[str]:
    """Return the names in a zip; raises ValueError for one that unpacks to too much."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"it is no zip archive ({error})") from error
    if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_MEMBERS:,} members or {MOST_BYTES:,} bytes")
    return [member.filename for member in members]


def _is_plain(values: torch.Tensor) -> bool:
    # A few bytes of storage can be shown as a tensor of terabytes by strides of zero.
    is_whole = values.layout is torch.strided and values.numel() <= values.untyped_storage().nbytes()
    return is_whole and not values.is_quantized and values.dtype in _DTYPES
