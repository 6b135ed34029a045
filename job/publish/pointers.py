"""Which runs `models/*/` names, read lightly: nothing here needs numpy or knows what a champion was worth."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from job.errors import InputError, IntegrityError, Missing
from job.storage.documents import parse_as
from job.storage.store import ObjectStore

MODELS = "models"
CHAMPION = "champion.json"
LAST = "last.json"
_RUN = re.compile(r"runs/([^/\\\x00-\x1f]+)/([^/\\\x00-\x1f]+)")


def _a_run(path: str) -> str:
    match = _RUN.fullmatch(path)
    if match is None or {".", ".."} & set(match.groups()):
        raise ValueError("is no runs/NAME/RUN_ID")
    return path


RunPath = Annotated[str, AfterValidator(_a_run)]
"""`runs/<name>/<run_id>`, relative to the output root, and nothing that could lead elsewhere."""


class Pointer(BaseModel):
    """A published run, by place and by content."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: RunPath
    manifest_sha256: str


class Pointers(BaseModel):
    """What `champion.json` says of runs; `job.publish.champion` has the whole document."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    current: Pointer
    previous: Pointer | None = None


class _Last(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    run: Pointer


_Model = TypeVar("_Model", bound=BaseModel)


def champion_of(store: ObjectStore, name: str) -> Pointer:
    """Return the run that `models/<name>/champion.json` names; raises `InputError` when there is none."""
    key = f"{MODELS}/{name}/{CHAMPION}"
    try:
        data, _ = store.read(key)
    except Missing as error:
        raise InputError(
            f"{store.uri}/{key}: there is no champion of {name!r}",
            advice=f"promote a run first, or name the newest one by {store.uri}/runs/{name}",
        ) from error
    return _current(store, key, data)


def champions(store: ObjectStore) -> dict[str, Pointer | IntegrityError]:
    """Return every name's champion, or what is wrong with its record."""
    found: dict[str, Pointer | IntegrityError] = {}
    for key, data in _records(store, CHAMPION):
        try:
            found[key.split("/")[1]] = _current(store, key, data)
        except IntegrityError as error:  # the other names are listed all the same
            found[key.split("/")[1]] = error
    return found


def named_runs(store: ObjectStore) -> set[str]:
    """Return every run that a champion of any name is or was before, or that `last.json` names.

    Raises `IntegrityError` for a record that cannot be read: nobody knows then which run it needs.
    """
    runs = set()
    for key, data in _records(store, CHAMPION):
        both = _parse(Pointers, data, f"{store.uri}/{key}")
        runs |= {pointer.run for pointer in (both.current, both.previous) if pointer is not None}
    for key, data in _records(store, LAST):
        runs.add(_parse(_Last, data, f"{store.uri}/{key}").run.run)
    return runs


def _records(store: ObjectStore, file: str) -> Iterator[tuple[str, bytes]]:
    for stat in store.entries(f"{MODELS}/"):
        parts = stat.key.split("/")
        if len(parts) == 3 and parts[2] == file:
            try:
                yield stat.key, store.read(stat.key)[0]
            except Missing:  # removed since
                continue


def _current(store: ObjectStore, key: str, data: bytes) -> Pointer:
    where = f"{store.uri}/{key}"
    current, name = _parse(Pointers, data, where).current, key.split("/")[1]
    if current.run.split("/")[1] != name:
        raise IntegrityError(
            f"{where} names {current.run}, which is no run of {name!r}",
            advice="promote a run by hand, which writes it anew",
        )
    return current


def _parse(model: type[_Model], data: bytes, where: str) -> _Model:
    advice = "promote a run by hand, which writes it anew"
    return parse_as(model, data, where, what="what this program writes", advice=advice)
