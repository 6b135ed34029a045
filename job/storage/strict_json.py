"""JSON as the standard has it: NaN and infinities, which other languages' readers refuse, as words or null.

Artifacts take the words "NaN", "Infinity" and "-Infinity", as pydantic's `ser_json_inf_nan="strings"` does:
they come back as the numbers they were. Log lines and answers for other programs take null.
"""

import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MOST_BYTES = 64 << 20
MOST_DEPTH = 64
MOST_CONTAINERS = 2_000_000
"""Of objects and lists: an empty one takes two bytes in a file and thirty times as many in memory."""
MOST_DIGITS = 100
"""Of an integer: states of random generators have 39."""


def dumps(value: Any) -> str:
    """Return indented JSON that `loads` turns back into equal values."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Parse what `dumps` wrote; raises ValueError as `parse` does."""
    return _numbers(parse(text))


def parse(text: str | bytes, *, most_bytes: int = MOST_BYTES) -> Any:
    """Parse JSON from elsewhere; raises ValueError, in words that may follow the name of a file.

    Refused besides what is no JSON in UTF-8: NaN, numbers beyond float64, equal keys in an object (programs
    disagree on which counts), and what is larger, deeper or finer than a document of this program ever is.
    """
    if len(text) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        if decoded.count("[") + decoded.count("{") > MOST_CONTAINERS:
            raise ValueError(f"it has more than {MOST_CONTAINERS:,} lists and objects")
        value = json.loads(
            decoded,
            object_pairs_hook=_without_twins,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _require_shallow(value)
    return value


def plain(value: Any, *, null: bool = False) -> Any:
    """Return `value` with what is not finite as its word (or as null), and numpy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {key: plain(item, null=null) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, null=null) for item in value]
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    if math.isfinite(number):
        return number
    return None if null else _word(number)


_TOO_DEEP = f"its lists and objects nest deeper than {MOST_DEPTH} levels"


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {twin[:80]!r} twice")
    return found


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("it has a number beyond float64")
    return number


def _bounded(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it has an integer of {len(digits):,} digits")
    return int(digits)


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _word(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value
