"""What the models say about themselves: their keys, the models behind a path, and their defaults."""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Discriminator, Tag
from pydantic.fields import FieldInfo

from job.spec.positions import JSON, Path

Model = type[BaseModel]
_Chosen = str | Discriminator | None
"""How a choice of annotations is made: by the key of that name, by a function of the value, or not at all."""


@dataclass(frozen=True, slots=True)
class Located:
    """A pydantic location read against the models."""

    path: Path
    """The location as the JSON has it: without union tags and without pydantic's `[key]`."""
    keys: tuple[str, ...]
    """The keys that the enclosing object may have, empty in lists and where no model knows the place."""
    field: FieldInfo | None
    """The field at the path, where there is one."""
    tags: tuple[str, ...]
    """The kinds to choose from, where the path holds a choice of sections."""
    kind: str
    """The kind that was chosen of the enclosing object; empty where there is none to choose."""
    elsewhere: Mapping[str, tuple[str, ...]]
    """Keys that this kind lacks, each with the kinds that have it."""


def locate(model: Model, loc: Path) -> Located:
    """Read a pydantic error's `loc` against `model`."""
    path: list[str | int] = []
    keys: tuple[str, ...] = ()
    field: FieldInfo | None = None
    annotation: Any = model
    discriminator: _Chosen = None
    in_dictionary = False
    choice: dict[str, Any] = {}
    kind = chosen = ""
    for step in loc:
        annotation, discriminator = _unwrap(annotation, discriminator)
        if discriminator is not None:
            members = _tagged(annotation, discriminator)
            choice, chosen = (members, str(step)) if isinstance(discriminator, str) else ({}, "")
            annotation, discriminator = members.get(str(step)), None
            continue
        if step == "[key]" and in_dictionary:
            break
        path.append(step)
        kind, chosen = chosen, ""
        in_dictionary = typing.get_origin(annotation) is dict
        keys, field = tuple(_inner(annotation)), None
        if _is_model(annotation):
            field = _by_key(annotation).get(str(step))
            annotation, discriminator = _annotation(field)
        else:
            annotation = _inner(annotation).get(str(step), _item(annotation))
    annotation, discriminator = _unwrap(annotation, discriminator)
    tags = _tagged(annotation, discriminator) if isinstance(discriminator, str) else {}
    elsewhere = _elsewhere(choice, keys) if kind else {}
    return Located(tuple(path), keys, field, tuple(tags), kind, elsewhere)


def known_paths(model: Model) -> list[Path]:
    """Return the path of every key that a document of `model` may hold outside lists, in reading order."""
    return list(dict.fromkeys(_walk(model, None, ())))


def default_container(model: Model, path: Path) -> JSON:
    """Return what a document starts from when only a part below `path` is given.

    A list or a free dictionary starts as its default, a section as an empty object, a choice of sections as
    the default choice; None where the models expect no container.
    """
    annotation: Any = model
    value: Any = None
    for step in path:
        if _is_model(annotation) and (field := _by_key(annotation).get(str(step))):
            annotation, discriminator = _annotation(field)
            value = None if field.is_required() else field.get_default(call_default_factory=True)
            if isinstance(value, BaseModel):
                by_key = discriminator if isinstance(discriminator, str) else None
                chosen = {by_key: getattr(value, by_key)} if by_key else {}
                annotation, value = type(value), chosen
        else:
            return None
    if isinstance(value, list):
        return [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value]
    return dict(value) if isinstance(value, dict) else None


def takes_list(model: Model, path: Path) -> bool:
    """Return whether the models expect a list at `path`, or also one."""
    annotation: Any = model
    discriminator: _Chosen = None
    for step in path:
        if not (_is_model(annotation) and (field := _by_key(annotation).get(str(step)))):
            return False
        annotation, discriminator = _unwrap(*_annotation(field))
    members = _tagged(annotation, discriminator).values() if discriminator else [annotation]
    return any(typing.get_origin(_unwrap(member, None)[0]) is list for member in members)


def _elsewhere(choice: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the keys of the kinds of a choice that are not among `keys`."""
    found: dict[str, tuple[str, ...]] = {}
    for tag, member in choice.items():
        for key in _inner(member):
            if key not in keys:
                found[key] = (*found.get(key, ()), tag)
    return found


def _walk(annotation: Any, discriminator: _Chosen, path: Path) -> Iterator[Path]:
    annotation, discriminator = _unwrap(annotation, discriminator)
    if discriminator is not None:
        for member in typing.get_args(annotation):
            yield from _walk(member, None, path)
        return
    inner = _inner(annotation)
    for key in inner:
        yield (*path, key)
        if _is_model(annotation):
            yield from _walk(*_annotation(_by_key(annotation)[key]), (*path, key))


def _unwrap(annotation: Any, discriminator: _Chosen) -> tuple[Any, _Chosen]:
    """Strip Annotated and `| None`; return the discriminator of a union that has one."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *metadata = typing.get_args(annotation)
        found = [info.discriminator for info in metadata if isinstance(info, FieldInfo)]
        found += [info for info in metadata if isinstance(info, Discriminator)]
        return _unwrap(annotation, discriminator or next((d for d in found if d is not None), None))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        some = [member for member in typing.get_args(annotation) if member is not type(None)]
        if len(some) == 1:
            return _unwrap(some[0], None)
    return annotation, discriminator


def _annotation(field: FieldInfo | None) -> tuple[Any, _Chosen]:
    if field is None:
        return None, None
    by_function = next((info for info in field.metadata if isinstance(info, Discriminator)), None)
    return field.annotation, field.discriminator or by_function


def _tagged(union: Any, discriminator: str | Discriminator) -> dict[str, Any]:
    if isinstance(discriminator, Discriminator):
        return {
            info.tag: member
            for member in typing.get_args(union)
            for info in typing.get_args(member)[1:]
            if isinstance(info, Tag)
        }
    return {
        tag: member
        for member in typing.get_args(union)
        for tag in typing.get_args(member.model_fields[discriminator].annotation)
    }


def _by_key(model: Model) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _inner(annotation: Any) -> dict[str, Any]:
    """Return the keys of a model, or of a dictionary over literals, each with its annotation."""
    if _is_model(annotation):
        return {key: field.annotation for key, field in _by_key(annotation).items()}
    if typing.get_origin(annotation) is dict:
        key, item = typing.get_args(annotation)
        return dict.fromkeys(typing.get_args(key), item)
    return {}


def _item(annotation: Any) -> Any:
    arguments = typing.get_args(annotation)
    return arguments[-1] if typing.get_origin(annotation) in (list, dict) else None


def _is_model(annotation: Any) -> typing.TypeGuard[Model]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
