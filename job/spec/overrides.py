"""`--set PATH=VALUE`: parsing, and merging into the document before it is validated."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from job.spec.fields import default_container, takes_list
from job.spec.positions import JSON, MalformedError, Path, parse
from job.spec.problems import Problem
from job.spec.secrets import redact
from job.spec.showing import is_secret, printable, shorten, show_path, show_value

EXAMPLE = "write it as --set finetune.learning_rate=5e-4"

_PATH = re.compile(r"[\w$-]+(?:\.[\w$-]+|\[\d{1,9}\])*", re.ASCII)
_STEP = re.compile(r"[\w$-]+|\[\d+\]", re.ASCII)
_MAX_STEPS = 20


@dataclass(frozen=True, slots=True)
class Override:
    """A `--set` option: where it writes, what, and how messages name it."""

    path: Path
    value: JSON
    option: str


def merge(
    document: dict[str, JSON], options: Sequence[str], model: type[BaseModel]
) -> tuple[dict[str, JSON], list[Override], list[Problem]]:
    """Return a copy of `document` with the options written into it, those that were, and what was wrong.

    A VALUE that is JSON is taken as such, any other as a string. A list or a dictionary that the document
    leaves out starts as its default, so that `finetune.net_arch.pi[0]=64` keeps the second layer; the index
    one past the end appends.
    """
    merged = copy.deepcopy(document)
    applied: list[Override] = []
    problems: list[Problem] = []
    for option in options:
        override, wrong = _parse(option)
        if not wrong:
            wrong = _write(merged, override, model)
        if not wrong:
            applied.append(override)
        problems += [
            Problem(override.option, None, None, show_path((*override.path, *inner)), message)
            for inner, message in wrong
        ]
    return merged, applied, problems


_Wrong = list[tuple[Path, str]]
"""What is wrong with an option, and where below its path."""


def _parse(option: str) -> tuple[Override, _Wrong]:
    target, equals, text = option.partition("=")
    path = _parse_path(target.strip())
    if not equals or not path:
        wrong = "expected PATH=VALUE" if path else "this is no path into a spec"
        return Override((), None, _named(target)), [((), f"{wrong}; {EXAMPLE}")]
    hidden = redact(text) if not is_secret((*path, text)) else "***"
    named = _named(f"{target.strip()}={shorten(hidden)}")
    try:
        document = parse(text)
    except MalformedError:
        return Override(path, text, named), [] if _is_utf8(text) else [((), "the value is not UTF-8")]
    return Override(path, document.value, named), [(part.path, part.message) for part in document.refused]


def _parse_path(text: str) -> Path:
    """Return the steps of `finetune.net_arch.pi[0]`, none where the text is no path."""
    steps = _STEP.findall(text) if _PATH.fullmatch(text) else []
    if len(steps) > _MAX_STEPS:
        return ()
    return tuple(int(step[1:-1]) if step[0] == "[" else step for step in steps)


def _write(document: dict[str, JSON], override: Override, model: type[BaseModel]) -> _Wrong:
    container: JSON = document
    path = override.path
    for depth, step in enumerate(path):
        wrong = _check_step(container, step, path[:depth])
        if wrong and not isinstance(container, list) and isinstance(step, int):
            where = show_path(path[:depth])
            wrong += (
                f"; give the whole list: --set '{where}=[...]'" if takes_list(model, path[:depth]) else ""
            )
        if wrong:
            return [((), wrong)]
        assert isinstance(container, dict | list)
        here = _get(container, step)
        if depth == len(path) - 1:
            here = override.value
        elif here is None:
            expected: type = dict if isinstance(path[depth + 1], str) else list
            default = default_container(model, path[: depth + 1])
            here = default if isinstance(default, expected) else expected()
        _put(container, step, here)
        container = here
    return []


def _check_step(container: JSON, step: str | int, path: Path) -> str:
    where = show_path(path)
    if isinstance(step, str) and isinstance(container, list):
        meant = show_path((*path, int(step) if re.fullmatch(r"\d{1,9}", step) else 0))
        return f"cannot be set: {where} is a list, whose entries go by index: {meant}"
    if isinstance(step, str) and not isinstance(container, dict):
        return f"cannot be set: {where} is {show_value(container, path)}, not an object"
    if isinstance(step, int):
        if not isinstance(container, list):
            return f"cannot be set: {where} is {show_value(container, path)}, not a list"
        if step > len(container):
            return f"cannot be set: {where} has {len(container)} entries, and [{len(container)}] appends one"
    return ""


def _get(container: dict[str, JSON] | list[JSON], step: str | int) -> JSON:
    if isinstance(container, dict):
        return container.get(str(step))
    assert isinstance(step, int)
    return container[step] if step < len(container) else None


def _put(container: dict[str, JSON] | list[JSON], step: str | int, value: JSON) -> None:
    if isinstance(container, dict):
        container[str(step)] = value
        return
    assert isinstance(step, int)
    container[step : step + 1] = [value]


def _is_utf8(text: str) -> bool:
    # The command line smuggles other bytes in as lone surrogates.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _named(text: str) -> str:
    return "--set " + shorten(printable(redact(text)), 120)
