"""Headers of safetensors files: read as the format's own library reads them, or refused."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError
from safetensors.numpy import load, save

from job.errors import IntegrityError
from job.storage.tensor_header import DTYPES, UnsafeFile, read_array, read_header

ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5).filter(lambda name: name != "__metadata__"),
    hnp.arrays(
        st.sampled_from([dtype for dtype in DTYPES.values() if dtype != np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    min_size=1,  # of none, with empty metadata, the library writes what it cannot read
    max_size=4,
)
FIXTURE = [HealthCheck.function_scoped_fixture]


def read(path: Path) -> dict[str, Any]:
    with path.open("rb", buffering=0) as file:
        header = read_header(file)
        return {name: read_array(file, facts) for name, facts in header.tensors.items()}


@settings(deadline=None, max_examples=50, suppress_health_check=FIXTURE)
@given(arrays=ARRAYS, metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
def test_what_the_library_writes_comes_back(tmp_path: Path, arrays: Any, metadata: dict[str, str]) -> None:
    """Names, shapes, types, bits and metadata, of whatever arrays."""
    path = tmp_path / "t.safetensors"
    path.write_bytes(save(arrays, metadata))
    found = read(path)
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes()
    with path.open("rb", buffering=0) as file:
        assert read_header(file).metadata == metadata


@settings(deadline=None, max_examples=150, suppress_health_check=FIXTURE)
@given(data=st.data())
def test_what_is_read_the_library_would_read_alike(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever the numbers in the header: what is accepted here is a whole file of the format."""
    numbers = st.integers(-1, 9)
    entries = {
        name: {
            "dtype": data.draw(st.sampled_from(["U8", "F16", "F32", "F8_E4M3", "X"])),
            "shape": data.draw(st.lists(numbers, max_size=2)),
            "data_offsets": data.draw(st.lists(numbers, min_size=1, max_size=3)),
        }
        for name in "ab"[: data.draw(st.integers(1, 2))]
    }
    text = json.dumps(entries).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(range(data.draw(st.integers(0, 12))))
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    try:
        found = read(path)
    except UnsafeFile:
        return
    wanted = load(content)
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values.tolist() for name, values in wanted.items()
    }


def test_what_the_library_refuses_is_refused(tmp_path: Path) -> None:
    """An overlap, in both readers: the comparison above has something to compare."""
    entry = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
    text = json.dumps({"a": entry, "b": {**entry, "data_offsets": [1, 3]}}).encode()
    content = struct.pack("<Q", len(text)) + text + b"abc"
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(SafetensorError):
        load(content)
    with pytest.raises(UnsafeFile, match="'b' overlaps another"):
        read(tmp_path / "t")


@pytest.mark.parametrize(
    ("start", "words"),
    [(b"\x80\x04\x95" + b"a" * 9, "a pickle"), (struct.pack("<Q", 200_000_000), "no safetensors")],
)
def test_only_a_pickle_is_called_one(tmp_path: Path, start: bytes, words: str) -> None:
    """By its protocol's number, which a length in a header of another kind may begin with by half."""
    (tmp_path / "t").write_bytes(b"\x80" + start[1:] if words == "no safetensors" else start)
    with pytest.raises(UnsafeFile, match=words):
        read(tmp_path / "t")


def test_a_file_that_shrinks_is_no_array(tmp_path: Path) -> None:
    """Between the header and the tensor."""
    path = tmp_path / "t.safetensors"
    path.write_bytes(save({"a": np.arange(100)}))
    with path.open("rb", buffering=0) as file:
        header = read_header(file)
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(UnsafeFile, match="cut short while it was read"):
            read_array(file, header.tensors["a"])
    assert issubclass(UnsafeFile, ValueError)
    assert not issubclass(UnsafeFile, IntegrityError)
