"""JSON text to values that know their place: the line and column of every key and value.

The standard library forgets positions, lets the last of two equal keys win and takes NaN. pydantic names
lines for syntax errors only. This parser reads strict JSON (RFC 8259) and keeps what a good message needs.
"""

import json
import math
import re
from bisect import bisect_right
from dataclasses import dataclass, field

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][-+]?[0-9]++)?(?![\w.])")
_WORD = re.compile(r"[-+]?\w+")
_LITERALS: dict[str, JSON] = {"true": True, "false": False, "null": None}
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_FROM_PYTHON = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a text: line and column in characters, both from 1; a tab counts one."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Node:
    """Where a value starts, where its key starts (None in lists and for the root), and what is in it."""

    value: Place
    key: Place | None
    members: dict[str | int, "Node"]

    def find(self, path: Path) -> "Node | None":
        """Return the node at `path` below this one, None where there is none."""
        node: Node | None = self
        for step in path:
            node = node.members.get(step) if node else None
        return node


@dataclass(frozen=True, slots=True)
class Refused:
    """A part that parses but that a spec may not hold: an equal key again, or a number beyond float64."""

    path: Path
    place: Place
    message: str
    hides_value: bool
    """Whether the value at `path` is no longer what the text says, so that judging it would mislead."""


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON text, its values, their places, and what was refused."""

    value: JSON
    root: Node
    refused: tuple[Refused, ...]


class MalformedError(ValueError):
    """The text is not JSON: says why, where, and in which value."""

    def __init__(self, message: str, place: Place, path: Path, line_text: str) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.path = path
        self.line_text = line_text


def parse(text: str, *, max_depth: int = 100, max_values: int = 1_000_000) -> Document:
    """Parse `text` as strict JSON; of equal keys the last wins, as in the standard library.

    Raises MalformedError at the first syntax error, where objects and lists nest deeper than `max_depth`, and
    after `max_values` values.
    """
    parser = _Parser(text, max_depth, max_values)
    value, root = parser.document()
    return Document(value, root, tuple(parser.refused))


@dataclass
class _Parser:
    text: str
    max_depth: int
    max_values: int
    at: int = 0
    values: int = 0
    refused: list[Refused] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.line_starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def document(self) -> tuple[JSON, Node]:
        self.skip_space()
        value, node = self.value((), None)
        self.skip_space()
        if self.at < len(self.text):
            raise self.error("the JSON value has ended, but more text follows; remove it", ())
        return value, node

    def value(self, path: Path, key: Place | None) -> tuple[JSON, Node]:
        self.values += 1
        if self.values > self.max_values:
            raise self.error(
                f"more than {self.max_values:,} values; a spec names data, it does not hold them", path
            )
        place = self.place(self.at)
        here = self.text[self.at : self.at + 1]
        if here in ("{", "["):
            if len(path) >= self.max_depth:
                raise self.error(f"nested deeper than {self.max_depth} levels", path)
            self.at += 1
            members: dict[str | int, Node] = {}
            value: JSON = self.object(path, members) if here == "{" else self.list(path, members)
            return value, Node(place, key, members)
        leaf = self.string(path) if here == '"' else self.scalar(path, place)
        return leaf, Node(place, key, {})

    def object(self, path: Path, members: dict[str | int, Node]) -> dict[str, JSON]:
        value: dict[str, JSON] = {}
        while not self.closes("}", path, first=not members):
            if not self.text.startswith('"', self.at):
                raise self.error("expected a key in double quotes" + self.advice(), path)
            key_place = self.place(self.at)
            key = self.string(path)
            self.skip_space()
            if not self.text.startswith(":", self.at):
                raise self.error("expected a colon after the key", path)
            self.at += 1
            self.skip_space()
            inner = (*path, key)
            if key in members:
                first = members[key].key
                assert first is not None
                message = f"duplicate key, first given on line {first.line}; remove one"
                self.refused.append(Refused(inner, key_place, message, hides_value=False))
            value[key], members[key] = self.value(inner, key_place)
        return value

    def list(self, path: Path, members: dict[str | int, Node]) -> list[JSON]:
        value: list[JSON] = []
        while not self.closes("]", path, first=not members):
            item, members[len(value)] = self.value((*path, len(value)), None)
            value.append(item)
        return value

    def closes(self, bracket: str, path: Path, *, first: bool) -> bool:
        """Step over the closing bracket, or over the comma before the next entry."""
        self.skip_space()
        if self.text.startswith(bracket, self.at):
            self.at += 1
            return True
        if first:
            return False
        if not self.text.startswith(",", self.at):
            raise self.error(f"expected a comma or {bracket}", path)
        comma = self.at
        self.at += 1
        self.skip_space()
        if self.text.startswith(bracket, self.at):
            self.at = comma
            raise self.error(f"comma before {bracket}; remove it", path)
        return False

    def string(self, path: Path) -> str:
        match = _STRING.match(self.text, self.at)
        if not match:
            raise self.error("string is not closed on its line, or holds a control character", path)
        try:
            value = json.loads(match[0])
            value.encode()
        except json.JSONDecodeError as error:
            self.at += error.pos
            raise self.error("not a JSON escape; write \\\\ for a backslash", path) from None
        except UnicodeEncodeError:
            raise self.error("string holds half a surrogate pair", path) from None
        self.at = match.end()
        assert isinstance(value, str)
        return value

    def scalar(self, path: Path, place: Place) -> JSON:
        if match := _NUMBER.match(self.text, self.at):
            self.at = match.end()
            number = float(match[0])
            if math.isinf(number):
                self.refuse_number(path, place, "the number is too large for float64; write a smaller one")
                return None
            return number if match[1] or match[2] else int(match[0])
        word = match[0] if (match := _WORD.match(self.text, self.at)) else ""
        if word in _LITERALS:
            self.at += len(word)
            return _LITERALS[word]
        if word in _NOT_FINITE:
            self.at += len(word)
            self.refuse_number(path, place, f"{word} is not a JSON number; write a finite one")
            return None
        advice = f"; write {_FROM_PYTHON[word]}" if word in _FROM_PYTHON else self.advice()
        raise self.error("expected a value" + advice, path)

    def refuse_number(self, path: Path, place: Place, message: str) -> None:
        self.refused.append(Refused(path, place, message, hides_value=True))

    def advice(self) -> str:
        """Return what to do about the habits of other notations."""
        rest = self.text[self.at : self.at + 2]
        if not rest:
            return ""
        if rest[0] == "#" or rest in ("//", "/*"):
            return "; JSON has no comments, remove it"
        if rest[0] == "'":
            return "; strings take double quotes"
        if rest[0] in "0123456789-+.":
            return "; numbers are written as 12, -0.5 or 3e-4"
        return ""

    def skip_space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def place(self, offset: int) -> Place:
        line = bisect_right(self.line_starts, offset)
        return Place(line, offset - self.line_starts[line - 1] + 1)

    def error(self, message: str, path: Path) -> MalformedError:
        if self.at == len(self.text):
            message += ", but the text ends"
        place = self.place(self.at)
        end = self.text.find("\n", self.at)
        line_text = self.text[self.line_starts[place.line - 1] : end if end >= 0 else len(self.text)]
        return MalformedError(message, place, path, line_text.removesuffix("\r"))
