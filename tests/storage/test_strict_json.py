"""JSON as the standard has it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.storage import strict_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text().filter(lambda text: text not in strict_json.NOT_FINITE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


@given(VALUES)
def test_every_value_comes_back_from_strict_json(value: object) -> None:
    """A parser that knows no NaN reads it, and `loads` gives the numbers back."""
    text = strict_json.dumps(value)
    json.loads(text, parse_constant=refuse)
    assert repr(strict_json.loads(text)) == repr(value)


def test_null_stands_for_what_is_not_finite_where_asked() -> None:
    """At any depth; tuples become lists, and numpy's numbers Python's."""
    value = {"a": (math.nan, [np.float32("inf")]), "b": np.float32(0.5), "c": np.int64(3), "d": True}
    plain = strict_json.plain(value, null=True)
    assert json.dumps(plain, allow_nan=False) == '{"a": [null, [null]], "b": 0.5, "c": 3, "d": true}'


def test_text_that_is_no_json_is_refused() -> None:
    """As by the standard library."""
    with pytest.raises(ValueError, match="Expecting"):
        strict_json.loads("{")
