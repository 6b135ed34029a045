"""The header of a safetensors file, believed only after every number in it has been checked.

The format (https://huggingface.co/docs/safetensors, "Format"): eight bytes with the length of a JSON object,
the object (name -> dtype, shape, offsets; `__metadata__` -> strings), then the tensors' bytes without a gap.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from job.errors import IntegrityError
from job.storage import strict_json

MOST_HEADER_BYTES = 64 << 20
"""A table of 100,000 images has about 15 MB; the format's own reader stops at 100 MB."""
MOST_TENSORS = 100_000
MOST_DIMENSIONS = 16
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""What is read, by its name in the format."""
_LENGTH_BYTES = 8
_PICKLES = (
    (b"PK\x03\x04", "a zip archive, as torch.save writes it"),
    *((bytes([0x80, protocol]), "a pickle") for protocol in range(2, 6)),
)


@dataclass(frozen=True)
class TensorFacts:
    """What a header says of a tensor; `begin` is its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes, in the file and in memory."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Header:
    """A header whose tensors fill the rest of the file exactly, each of a known dtype."""

    tensors: Mapping[str, TensorFacts]
    metadata: Mapping[str, str]


class UnsafeFile(ValueError):
    """Says, in words that may follow the name of a file, why it is not read."""


def read_header(file: BinaryIO, *, most_header_bytes: int = MOST_HEADER_BYTES) -> Header:
    """Read and check a header; nothing of a tensor is read and no memory taken for one.

    Raises `UnsafeFile` unless it is JSON of known keys, dtypes and whole shapes, whose tensors lie behind it
    side by side, without gap or overlap, to the last byte of the file.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    start = file.read(_LENGTH_BYTES)
    for magic, what in _PICKLES:
        # The length of an honest header is never spelt so: it would be of more than 10^8 bytes.
        if start.startswith(magic) and not _length(start) <= most_header_bytes:
            raise UnsafeFile(f"it is {what}, which can run code when it is opened, not safetensors")
    if len(start) < _LENGTH_BYTES or not 2 <= _length(start) <= size - _LENGTH_BYTES:
        raise UnsafeFile("it is no safetensors file, or is cut short in its header")
    length = _length(start)
    if length > most_header_bytes:
        raise UnsafeFile(f"its header has {length:,} bytes, more than {most_header_bytes:,}")
    document = _document(file.read(length))
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise UnsafeFile("its metadata are no strings")
    if len(document) > MOST_TENSORS:
        raise UnsafeFile(f"it has more than {MOST_TENSORS:,} tensors")
    base = _LENGTH_BYTES + length
    tensors = {name: _facts(name, entry, base) for name, entry in document.items()}
    _require_seamless(tensors, base, size)
    return Header(tensors, metadata)


def read_array(file: BinaryIO, facts: TensorFacts) -> NDArray[Any]:
    """Read one tensor of a checked header; raises `UnsafeFile` when the file has shrunk since."""
    file.seek(facts.begin)
    data = bytearray(facts.size_bytes)
    view, filled = memoryview(data), 0
    while filled < len(data):
        step = file.readinto(view[filled:])  # type: ignore[attr-defined]  # FileIO has it
        if not step:
            raise UnsafeFile("it was cut short while it was read")
        filled += step
    if facts.dtype == "BOOL" and data.translate(None, b"\0\1"):
        raise UnsafeFile("it has a truth value that is neither 0 nor 1")
    return np.frombuffer(data, DTYPES[facts.dtype]).reshape(facts.shape)


def unsafe(path: Path, error: ValueError, *, advice: str, what: str) -> IntegrityError:
    """Return the error of a file that is not `what` it was taken for."""
    return IntegrityError(f"{path}: not {what}: {error}", advice=advice)


def _length(start: bytes) -> int:
    return int.from_bytes(start, "little")


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = strict_json.parse(text)
    except ValueError as error:
        raise UnsafeFile(f"its header is no JSON that is read: {error}") from error
    if not isinstance(document, dict):
        raise UnsafeFile("its header is no JSON object")
    return document


def _facts(name: str, entry: Any, base: int) -> TensorFacts:
    shown = repr(name[:80])
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnsafeFile(f"the tensor {shown} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnsafeFile(f"the tensor {shown} is of the type {str(dtype)[:20]!r}, which is not read")
    if not _whole(shape) or len(shape) > MOST_DIMENSIONS:
        raise UnsafeFile(f"the tensor {shown} has no shape of at most {MOST_DIMENSIONS} whole numbers")
    if not _whole(offsets) or len(offsets) != 2:
        raise UnsafeFile(f"the tensor {shown} has no offsets")
    facts = TensorFacts(dtype, tuple(shape), base + offsets[0])
    if offsets[1] - offsets[0] != facts.size_bytes:
        raise UnsafeFile(f"the tensor {shown} has other offsets than its shape needs")
    return facts


def _whole(numbers: Any) -> bool:
    # numpy counts in 64 bits: an axis of 2^63 beside one of 0 would be no bytes and no array.
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**48 for n in numbers)


def _require_seamless(tensors: Mapping[str, TensorFacts], base: int, size: int) -> None:
    at = base
    for name, facts in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].size_bytes)):
        if facts.begin != at:
            what = "overlaps another" if facts.begin < at else "leaves a gap before it"
            raise UnsafeFile(f"the tensor {name[:80]!r} {what}")
        at += facts.size_bytes
    if at != size:
        what = "is cut short" if at > size else "has bytes that belong to no tensor"
        raise UnsafeFile(f"it {what}: {size:,} bytes instead of {at:,}")
