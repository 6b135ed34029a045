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


def dumps(value: Any) -> str:
    """Return indented JSON that `loads` turns back into equal values."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Parse what `dumps` wrote; raises ValueError for anything that is not JSON."""
    return _numbers(json.loads(text))


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


def _word(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value
