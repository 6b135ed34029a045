"""pydantic's errors in plain words: what was expected, what is there, and what to write instead."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from job.spec.fields import Located, known_paths, locate
from job.spec.positions import JSON, Path
from job.spec.secrets import redact
from job.spec.section import RULE
from job.spec.showing import is_secret, shorten, show_path, show_value


@dataclass(frozen=True, slots=True)
class Complaint:
    """An explained error: the path and the message, and what of the path to point at."""

    path: Path
    message: str
    points_at: Literal["key", "value"] = "value"


def explain(errors: Sequence[ErrorDetails], model: type[BaseModel]) -> list[Complaint]:
    """Return a complaint for every error; an unknown key that was meant to be a missing one makes one."""
    located = [locate(model, error["loc"]) for error in errors]
    missing = {place.path for place, error in zip(located, errors, strict=True) if error["type"] == "missing"}
    complaints = []
    meant: set[Path] = set()
    for place, error in zip(located, errors, strict=True):
        if _is_unknown_key(error):
            siblings = [path[-1] for path in missing if path[:-1] == place.path[:-1]]
            if found := _close(place.path[-1], siblings):
                meant.add((*place.path[:-1], found[0]))
                complaints.append(Complaint(place.path, _did_you_mean(found), "key"))
            else:
                complaints.append(Complaint(place.path, _unknown_key(place, model), "key"))
        else:
            complaints.append(_explain_one(error, place))
    return [complaint for complaint in complaints if complaint.path not in meant]


def _is_unknown_key(error: ErrorDetails) -> bool:
    return error["type"] == "extra_forbidden" or error["loc"][-1:] == ("[key]",)


def _unknown_key(place: Located, model: type[BaseModel]) -> str:
    """Look for what was meant: in the same object, in other kinds of it, then anywhere in a spec."""
    key = place.path[-1]
    if of := place.elsewhere.get(str(key)):
        return f"belongs to {_quoted(of)}, and this is {_quoted([place.kind])}; {_known(place)}"
    if found := _close(key, place.keys):
        return _did_you_mean(found)
    if found := _close(key, place.elsewhere):
        of = place.elsewhere[found[0]]
        return f"{_did_you_mean(found)} It belongs to {_quoted(of)}, and this is {_quoted([place.kind])}"
    paths = known_paths(model)
    found = [show_path(path) for path in paths if path[-1] == key]
    if not found:
        names = _close(key, dict.fromkeys(path[-1] for path in paths))
        found = [show_path(path) for path in paths if path[-1] in names]
    if found:
        return _did_you_mean(found)
    return f"unknown key; {_known(place)}"


def _known(place: Located) -> str:
    return f"known here: {', '.join(place.keys)}"


def _quoted(kinds: Sequence[str]) -> str:
    return _either([f'"{kind}"' for kind in kinds])


def _did_you_mean(found: Sequence[str]) -> str:
    return f"unknown key; did you mean {_either(found[:3])}?"


def _explain_one(error: ErrorDetails, place: Located) -> Complaint:
    kind, path, context = error["type"], place.path, error.get("ctx", {})
    if kind == RULE:
        return Complaint((*path, *context["at"]), redact(context["message"]))
    if kind == "value_error":
        return Complaint(path, redact(str(context["error"])))
    if kind == "missing":
        return Complaint(path, f"required key is missing{_about(place)}")
    if kind.startswith("union_tag_"):
        return _explain_tag(error, place)
    value: JSON = error["input"]
    if kind == "literal_error":
        return Complaint(path, _explain_choice(_choices(context["expected"]), value, path))
    if kind == "string_pattern_mismatch":
        return Complaint(path, _explain_pattern(context["pattern"], value, path, place))
    if kind in _TYPES:
        expected, advise = _TYPES[kind]
        advice = "" if is_secret(path) else advise(value)
        return Complaint(path, f"expected {expected}, got {show_value(value, path)}{advice}")
    if kind in _BOUNDS:
        bound = _number(context[_BOUNDS[kind][0]])
        return Complaint(path, f"expected {_BOUNDS[kind][1]} {bound}, got {show_value(value, path)}")
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return Complaint(path, _explain_length(kind, context, value))
    if kind == "multiple_of":
        return Complaint(path, _explain_multiple(context["multiple_of"], value, path))
    # pydantic's own words for what no model raises yet
    message = error["msg"].removeprefix("Input should be ")
    return Complaint(path, f"expected {message}, got {show_value(value, path)}")


def _explain_tag(error: ErrorDetails, place: Located) -> Complaint:
    discriminator = error["ctx"]["discriminator"].strip("'")
    path = (*place.path, discriminator)
    if error["type"] == "union_tag_not_found":
        for key in error["input"]:
            if _close(key, [discriminator]):
                return Complaint((*place.path, key), _did_you_mean([discriminator]), "key")
        return Complaint(path, f"required key is missing: {_quoted(place.tags)}")
    value = error["input"].get(discriminator)
    return Complaint(path, _explain_choice(_choices(error["ctx"]["expected_tags"]), value, path))


def _explain_choice(choices: list[str], value: JSON, path: Path) -> str:
    message = f"expected {_either(choices)}, got {show_value(value, path)}"
    by_text = {choice.strip('"'): choice for choice in choices}
    found = _close(value, by_text) if isinstance(value, str) and not is_secret(path) else []
    return f"{message}; did you mean {by_text[found[0]]}?" if found else message


def _explain_pattern(pattern: str, value: JSON, path: Path, place: Located) -> str:
    assert isinstance(value, str)
    message = f"{show_value(value, path)} does not match {pattern}{_about(place)}"
    if is_secret(path) or redact(value) != value:
        return message
    slug = re.sub(r"[^a-z0-9._-]+", "-", value[:63].lower()).strip("-._")
    return f"{message}; write {slug}" if re.fullmatch(pattern, slug) else message


def _explain_length(kind: str, context: dict[str, Any], value: JSON) -> str:
    assert isinstance(value, str | list | dict)
    if kind == "string_too_short":
        return "is empty" if not value else f"expected at least {context['min_length']} characters"
    if kind == "string_too_long":
        return f"expected at most {context['max_length']} characters, got {len(value)}"
    limit = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
    return f"expected {limit} {'entry' if limit.endswith(' 1') else 'entries'}, got {len(value)}"


def _explain_multiple(step: float, value: JSON, path: Path) -> str:
    assert isinstance(value, int | float)
    below = value // step * step
    message = f"expected a multiple of {_number(step)}, got {show_value(value, path)}"
    return f"{message}; write {_number(below)} or {_number(below + step)}"


def _write_integer(value: JSON) -> str:
    number = _read_number(value)
    return f"; write {_number(number)}" if number is not None and number.is_integer() else ""


def _write_number(value: JSON) -> str:
    number = _read_number(value)
    return f"; write {_number(number)}" if number is not None else ""


def _write_boolean(value: JSON) -> str:
    words = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}
    found = words.get(str(value).lower()) if isinstance(value, str | int) else None
    return f"; write {found}" if found else ""


def _write_string(value: JSON) -> str:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return f'; write "{shorten(str(value))}"' if numeric else ""


def _write_list(value: JSON) -> str:
    return f"; write [{show_value(value)}]" if isinstance(value, str | int | float) else ""


def _write_nothing(value: JSON) -> str:
    return ""


_TYPES: dict[str, tuple[str, Callable[[JSON], str]]] = {
    "int_type": ("an integer", _write_integer),
    "float_type": ("a number", _write_number),
    "finite_number": ("a finite number", _write_nothing),
    "bool_type": ("true or false", _write_boolean),
    "string_type": ("a string", _write_string),
    "list_type": ("a list", _write_list),
    "dict_type": ("an object", _write_nothing),
    "model_type": ("an object", _write_nothing),
    "model_attributes_type": ("an object", _write_nothing),
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _read_number(value: JSON) -> float | None:
    """Return the number that a string or a float means, None where it means none or is too long to be one."""
    if not isinstance(value, str | float) or len(str(value)) > 40:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _number(value: float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return shorten(repr(value))


def _about(place: Located) -> str:
    """Return the field's own words, as they end a sentence."""
    about = (place.field.description or "") if place.field else ""
    return f": {about[0].lower()}{about[1:].rstrip('.')}" if about else ""


def _choices(expected: str) -> list[str]:
    """Read pydantic's list of a literal's values; strings come back in double quotes."""
    return [
        f'"{string}"' if string else number
        for string, number in re.findall(r"'([^']*)'|(-?\d+|True|False|None)", expected)
    ]


def _either(choices: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(choices[:-1]), choices[-1]) if part)


def _close(word: str | int, known: Iterable[str | int]) -> list[str]:
    """Return the known words that a typo in `word` may have come from, the likeliest first."""
    if not isinstance(word, str) or len(word) > 60:
        return []
    import difflib  # only a spec with a mistake pays for it

    keys = [str(key) for key in known]
    part_of = [key for key in keys if len(word) >= 3 and word in key]
    cutoff = 0.6 if len(word) <= 2 else 0.7  # two letters for one have a ratio of 0.67
    return difflib.get_close_matches(word, keys, n=1, cutoff=cutoff) or part_of[:1]
