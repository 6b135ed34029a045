"""`sweep`: a grid over fields of `finetune` and `reward`, expanded into the specs of its points."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from job.spec.explain import explain
from job.spec.fields import locate
from job.spec.overrides import merge
from job.spec.positions import Path
from job.spec.secrets import redact
from job.spec.section import RULE, broken_rule
from job.spec.showing import shorten

if TYPE_CHECKING:
    from job.spec.job import JobSpec

MOST_POINTS = 256
_SWEPT = re.compile(r"(?:finetune|reward)\.[\w.\[\]-]+", re.ASCII)

Sweep = dict[str, Annotated[list[Any], Field(min_length=1, max_length=64)]]


def points(spec: "JobSpec") -> list[tuple[dict[str, Any], "JobSpec"]]:
    """Return every combination of values with its spec, the first value of each field first.

    A point is the spec without its sweep and with the values written into it as `--set` writes them. A spec
    without a sweep is its own only point, with no values.
    """
    if not spec.sweep:
        return [({}, spec)]
    document = _document(spec)
    return [(values, type(spec).model_validate(_with(spec, document, values))) for values in _grid(spec)]


def check(spec: "JobSpec") -> None:
    """Raise the error of the first value that its field refuses, of a field that is not there, or of size."""
    n_points = 1
    for path, values in spec.sweep.items():
        if not _SWEPT.fullmatch(path):
            raise broken_rule("only fields of finetune and reward can be swept", "sweep", path)
        n_points *= len(values)
        for position, value in enumerate(values):
            if value in values[:position]:
                raise broken_rule("this value is listed already; remove one", "sweep", path, position)
        for other in spec.sweep:
            if path.startswith((f"{other}.", f"{other}[")):
                raise broken_rule(f"{other}, which holds it, is swept too; remove one", "sweep", path)
    if n_points > MOST_POINTS:
        raise broken_rule(f"makes {n_points} points; at most {MOST_POINTS}", "sweep")
    document = _document(spec)
    for path, values in spec.sweep.items():
        for position, value in enumerate(values):
            _check_value(spec, document, path, position, value)
    for point in _grid(spec):
        try:
            type(spec).model_validate(_with(spec, document, point))
        except ValidationError as error:
            setting = ", ".join(f"{path} {shorten(redact(_worded(value)))}" for path, value in point.items())
            problem = explain(error.errors(include_url=False)[:1], type(spec))[0].message
            raise broken_rule(f"{setting}: {problem}", "sweep") from error


def label(values: Mapping[str, Any]) -> str:
    """Name a point by what it sets: `learning_rate 0.0005, n_epochs 20`."""
    names = [path.rpartition(".")[2] for path in values]
    shown = [path if names.count(name) > 1 else name for path, name in zip(values, names, strict=True)]
    return ", ".join(f"{name} {_worded(value)}" for name, value in zip(shown, values.values(), strict=True))


def _worded(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _check_value(spec: "JobSpec", document: dict[str, Any], path: str, position: int, value: object) -> None:
    changed, written, problems = merge(document, [_option(path, value)], type(spec))
    if problems:
        raise broken_rule(problems[0].message, "sweep", path)
    try:
        type(spec).model_validate(changed)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            _raise_if_at(problem, written[0].path, spec, path, position)


def _raise_if_at(problem: ErrorDetails, swept: Path, spec: "JobSpec", path: str, position: int) -> None:
    """Raise the problem if it is the field's or the value's own; rules between fields wait for the grid."""
    at = locate(type(spec), problem["loc"]).path
    if problem["type"] == RULE and at[: len(swept)] != swept:
        return
    if len(at) < len(swept):
        raise broken_rule("there is no such field", "sweep", path) from None
    complaint = explain([problem], type(spec))[0]
    is_of_field = complaint.points_at == "key" and at == swept
    within = () if is_of_field else (position, *complaint.path[len(swept) :])
    raise broken_rule(complaint.message, "sweep", path, *within) from None


def _document(spec: "JobSpec") -> dict[str, Any]:
    # Only what was given: a default that is written out would look like a choice.
    return spec.model_dump(mode="json", by_alias=True, exclude={"sweep"}, exclude_unset=True)


def _grid(spec: "JobSpec") -> Iterator[dict[str, Any]]:
    for values in product(*spec.sweep.values()):
        yield dict(zip(spec.sweep, values, strict=True))


def _with(spec: "JobSpec", document: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    changed, _, problems = merge(document, [_option(*item) for item in values.items()], type(spec))
    assert not problems  # each was tried alone, and none holds another
    return changed


def _option(path: str, value: object) -> str:
    return f"{path}={json.dumps(value)}"
