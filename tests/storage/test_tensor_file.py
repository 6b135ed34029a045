import numpy as np
import pytest
from safetensors.numpy import save_file

from job.errors import IntegrityError
from job.storage.digests import tensors_digest
from job.storage.tensor_file import read_tensors, write_tensors


@pytest.mark.parametrize("flush", [True, False])
def test_tensors_and_document_come_back(tmp_path, flush):
    """Shapes, types and bits survive, also of scalars and of arrays that are views."""
    tensors = {
        "view": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "scalar": np.array(3.5),
        "flags": np.array([True, False]),
        "empty": np.empty((0, 2), np.int64),
    }
    document = {"names": ["ä", "b"], "big": 2**100, "nested": {"x": None}}
    write_tensors(tmp_path / "deep" / "file.safetensors", tensors, document, flush=flush)
    read, read_document = read_tensors(tmp_path / "deep" / "file.safetensors")
    assert read_document == document
    assert set(read) == set(tensors)
    for name, values in tensors.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values, strict=True)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.safetensors"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    """What cannot be written does not touch what was there."""
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"x": np.zeros(2)}, {"version": 1})
    with pytest.raises(TypeError):
        write_tensors(path, {"x": np.ones(2)}, {"version": object()})
    assert read_tensors(path)[1] == {"version": 1}


@pytest.mark.parametrize("damage", ["truncate", "zeros", "garbage", "foreign", "list"])
def test_damaged_and_foreign_files_are_refused(tmp_path, damage):
    """A file that is cut, altered, not safetensors, without our document or with another is refused."""
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"x": np.zeros(100)}, {"version": 1})
    match damage:
        case "truncate":
            path.write_bytes(path.read_bytes()[:-8])
        case "zeros":
            write_tensors(path, {"x": np.ones(100)}, {"version": 1}, flush=False)
            path.write_bytes(path.read_bytes()[:-8] + bytes(8))
        case "garbage":
            path.write_bytes(b"\x80\x04garbage" * 20)
        case "foreign":
            save_file({"x": np.zeros(2)}, path)
        case "list":
            digest = tensors_digest({"x": np.zeros(2)})
            save_file({"x": np.zeros(2)}, path, {"description": f'{{"document": [1], "sha256": "{digest}"}}'})
    with pytest.raises(IntegrityError):
        read_tensors(path)


def test_a_missing_file_is_not_a_damaged_one(tmp_path):
    """Absence is the caller's to explain."""
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.safetensors")
