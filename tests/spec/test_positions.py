import json
from json import JSONDecodeError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.spec.positions import MalformedError, Node, Path, Place, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
SPACE = st.text(" \t\n\r", max_size=3)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """Draw JSON text whose white space and escapes no printer would choose."""

    def write(value: Any) -> str:
        def space() -> str:
            return draw(SPACE)

        if isinstance(value, dict):
            items = (f"{space()}{write(k)}{space()}:{space()}{write(v)}{space()}" for k, v in value.items())
            return "{" + (",".join(items) or space()) + "}"
        if isinstance(value, list):
            return "[" + (",".join(f"{space()}{write(v)}{space()}" for v in value) or space()) + "]"
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    return draw(SPACE) + write(draw(VALUES)) + draw(SPACE)


def nodes(node: Node, path: Path = ()) -> list[tuple[Path, Node]]:
    """List a node and all below it."""
    below = [entry for step, inner in node.members.items() for entry in nodes(inner, (*path, step))]
    return [(path, node), *below]


def offset(text: str, place: Place) -> int:
    """Count characters up to a place, independently of the parser: by splitting the text into lines."""
    return sum(len(line) + 1 for line in text.split("\n")[: place.line - 1]) + place.column - 1


def at(value: Any, path: Path) -> Any:
    """Follow a path through a value."""
    for step in path:
        value = value[step]
    return value


@settings(deadline=None)
@given(json_texts())
def test_every_place_is_where_the_standard_library_reads_that_value_and_key(text: str) -> None:
    """At each place raw_decode reads the value, and the key, that the path leads to."""
    document = parse(text)
    expected = json.loads(text)
    assert document.value == expected
    assert document.refused == ()
    decoder = json.JSONDecoder()
    for path, node in nodes(document.root):
        assert decoder.raw_decode(text, offset(text, node.value))[0] == at(expected, path)
        if node.key:
            assert decoder.raw_decode(text, offset(text, node.key))[0] == path[-1]
    assert len(nodes(document.root)) == count(expected)


def count(value: Any) -> int:
    """Count the values in a value, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, inner))


@settings(deadline=None)
@given(json_texts(), st.data())
def test_it_takes_exactly_what_strict_json_takes(text: str, data: st.DataObject) -> None:
    """A damaged text is accepted by this parser and by the standard library, or by neither."""
    if text:
        cut = data.draw(st.integers(0, len(text) - 1))
        text = (
            text[:cut]
            + data.draw(st.sampled_from(["", ",", '"', "0", "{", "]", ".", "\\", "\n", "-"]))
            + text[cut + 1 :]
        )
    try:
        expected = json.loads(text)
    except JSONDecodeError:
        with pytest.raises(MalformedError):
            parse(text)
        return
    if any(0xD800 <= ord(character) <= 0xDFFF for character in json.dumps(expected, ensure_ascii=False)):
        return  # half a surrogate pair, which JSON takes and no file can hold
    document = parse(text)
    if not document.refused:
        assert document.value == expected


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('{"a": 1,\n "b": 2,\n}', (2, 8), "comma before }; remove it"),
        ("[1, 2,]", (1, 6), "comma before ]; remove it"),
        ("{'a': 1}", (1, 2), "expected a key in double quotes; strings take double quotes"),
        ("{a: 1}", (1, 2), "expected a key in double quotes"),
        ('{"a": 1 "b": 2}', (1, 9), "expected a comma or }"),
        ('{"a" 1}', (1, 6), "expected a colon after the key"),
        ('{"a": True}', (1, 7), "expected a value; write true"),
        ('{"a": None}', (1, 7), "expected a value; write null"),
        ('{"a": .5}', (1, 7), "expected a value; numbers are written as 12, -0.5 or 3e-4"),
        ('{"a": 1_000}', (1, 7), "expected a value; numbers are written as 12, -0.5 or 3e-4"),
        (
            '{\n\t// size\n "a": 1}',
            (2, 2),
            "expected a key in double quotes; JSON has no comments, remove it",
        ),
        ('{"a": # x\n1}', (1, 7), "expected a value; JSON has no comments, remove it"),
        ('{"a": "b\n"}', (1, 7), "string is not closed on its line, or holds a control character"),
        ('{"a": "\\d"}', (1, 8), "not a JSON escape; write \\\\ for a backslash"),
        ('{"a": "\\ud83d"}', (1, 7), "string holds half a surrogate pair"),
        ('{"a": 1}\n}', (2, 1), "the JSON value has ended, but more text follows; remove it"),
        ('{"a": [1', (1, 9), "expected a comma or ], but the text ends"),
        ("", (1, 1), "expected a value, but the text ends"),
    ],
)
def test_a_syntax_error_says_what_to_do_at_its_place(text: str, place: tuple[int, int], message: str) -> None:
    """The habits of other notations are named, at the line and column of the first wrong character."""
    with pytest.raises(MalformedError) as caught:
        parse(text)
    assert (caught.value.place.line, caught.value.place.column) == place
    assert caught.value.message == message


def test_a_tab_counts_one_column_and_so_does_a_character_outside_the_basic_plane() -> None:
    """Columns are characters, as editors without tab stops count them."""
    node = parse('{\t"😀é":\t1}').root.find(("😀é",))
    assert node is not None
    assert node.key == Place(1, 3)
    assert node.value == Place(1, 9)


def test_equal_keys_are_refused_at_each_later_one_and_the_last_wins() -> None:
    """Every repetition is named with the first one's line, and places are those of the last value."""
    document = parse('{"a": {"b": 1},\n"c": 0,\n"a": {},\n"a": 5}')
    assert [(part.path, part.place.line, part.place.column) for part in document.refused] == [
        (("a",), 3, 1),
        (("a",), 4, 1),
    ]
    assert document.refused[0].message == "duplicate key, first given on line 1; remove one"
    assert document.value == {"a": 5, "c": 0}
    node = document.root.find(("a",))
    assert node is not None
    assert node.value == Place(4, 6)
    assert document.root.find(("a", "b")) is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 5000])
def test_numbers_that_are_not_finite_are_refused_where_they_stand(number: str) -> None:
    """What the standard library would take as nan or inf, or choke on, is refused at its place."""
    (part,) = parse(f'{{"a": [0, {number}]}}').refused
    assert (part.path, part.place, part.hides_value) == (("a", 1), Place(1, 11), True)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_capped_before_recursion_is(opening: str) -> None:
    """A hundred levels parse, one more is refused at its bracket, and a million are refused as fast."""
    closing = {"[": "]", '{"a":': "}"}[opening]
    parse(opening * 100 + ("" if opening == "[" else "1") + closing * 100)
    for levels in (101, 1_000_000 // len(opening)):
        with pytest.raises(MalformedError, match="nested deeper than 100 levels") as caught:
            parse(opening * levels)
        assert caught.value.place == Place(1, 100 * len(opening) + 1)
