"""Digests of arrays."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from job.storage.digests import tensors_digest

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])


@given(hnp.arrays(FLOATS, hnp.array_shapes(max_dims=3, max_side=4)))
def test_layout_and_order_of_names_do_not_count(array: np.ndarray) -> None:
    """The same values, C or Fortran order, whichever tensor came first."""
    digest = tensors_digest({"a": array, "b": array[..., :1]})
    assert digest == tensors_digest({"b": array[..., :1].copy(), "a": np.asfortranarray(array)})


@given(hnp.arrays(np.float32, 5), st.integers(0, 4))
def test_a_changed_value_shows(array: np.ndarray, i: int) -> None:
    """One number of five, unless it is NaN, which equals itself here."""
    changed = array.copy()
    changed[i] = 1.0 if array[i] != 1.0 else 2.0
    assert tensors_digest({"a": array}) != tensors_digest({"a": changed})
    assert tensors_digest({"a": array}) == tensors_digest({"a": array.copy()})


def test_bit_patterns_of_one_value_are_one_value() -> None:
    """Every NaN is NaN and -0.0 is 0.0, whatever arithmetic made them."""
    other_nan = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    ours, theirs = np.array([np.nan, 0.0]), np.array([other_nan, -0.0])
    assert ours.tobytes() != theirs.tobytes()
    assert tensors_digest({"a": ours}) == tensors_digest({"a": theirs})


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros(4, np.float64)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.zeros(4, np.float32), "b": np.zeros(0, np.float32)},
    ],
)
def test_name_dtype_and_shape_count(other: dict[str, np.ndarray]) -> None:
    """Equal bytes under another description are something else."""
    assert tensors_digest(other) != tensors_digest({"a": np.zeros(4, np.float32)})


def test_facts_count_and_must_be_json() -> None:
    """Words beside the tensors are part of the digest."""
    tensors = {"a": np.arange(3)}
    assert tensors_digest(tensors, {"x": 1}) != tensors_digest(tensors, {"x": 2})
    assert tensors_digest(tensors, {"x": 1, "y": 2}) == tensors_digest(tensors, {"y": 2, "x": 1})
    with pytest.raises(ValueError, match="JSON"):
        tensors_digest(tensors, float("inf"))
