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


@given(VALUES)
def test_json_from_elsewhere_is_parsed_as_the_library_does(value: object) -> None:
    """Words stay words; equal values from text and from bytes."""
    text = json.dumps(strict_json.plain(value, null=True))
    assert strict_json.parse(text) == strict_json.parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "beyond float64"),
        ("[" + "9" * 101 + "]", "an integer of 101 digits"),
        ("[" * 66 + "]" * 66, "nest deeper than 64"),
        ("[" * 10**6, "nest deeper than 64|more than"),
        ("[" + "[]," * 2_000_000 + "[]]", "more than 2,000,000 lists and objects"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b'"' + b"a" * 100 + b'"', "more than 100 bytes"),
    ],
)
def test_what_programs_read_differently_or_cannot_hold_is_refused(text: str | bytes, complaint: str) -> None:
    """In words that may follow the name of a file."""
    with pytest.raises(ValueError, match=complaint):
        strict_json.parse(text, most_bytes=100 if isinstance(text, bytes) else strict_json.MOST_BYTES)


def test_what_is_just_within_the_limits_is_read() -> None:
    """64 levels, an integer of 100 digits."""
    assert strict_json.parse("[" * 65 + "]" * 65)
    assert strict_json.parse("9" * 100) == int("9" * 100)
