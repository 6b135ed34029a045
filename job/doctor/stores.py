"""The places that a job reads and writes, one by one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from job.doctor.findings import Finding
from job.spec.job import JobSpec
from job.spec.positions import Path as SpecPath
from job.spec.secrets import redact
from job.spec.showing import show_path
from job.storage import preflight
from job.storage.local import local_path
from job.storage.preflight import Preflight
from job.storage.uris import is_remote, open_store, parent_and_name, split_s3

LARGEST_SKEW_S = 60.0
"""Signatures fail beyond 15 minutes; a clock that is a minute off will get there."""
SLOW_S = 5.0
"""A probe is some ten small requests."""
DEEPEST = 20
"""Folders within folders that are looked into for an object."""
OUTPUT = ("output", "uri")
CACHE = ("cache", "uri")


@dataclass(frozen=True)
class Place:
    """A URI of a spec, or the one that was given."""

    field: str
    uri: str
    is_output: bool = False
    spec: JobSpec | None = None
    """Of the output: what its folders on this machine follow from."""


def places_of(spec: JobSpec) -> list[Place]:
    """Return every place that a spec names, inputs first; what ships with the program is none."""
    inputs = [
        Place(show_path(path), uri)
        for path, uri in _uris(spec.model_dump(mode="json"))
        if path not in (OUTPUT, CACHE) and not uri.startswith(("synthetic:", "embedded:"))
    ]
    return [*inputs, Place("output.uri", spec.output.uri, is_output=True, spec=spec)]


def store(place: Place) -> Iterator[Finding]:
    """Probe the output's store, or look whether an input can be read; raises what the store raises.

    A local output is a matter of its disk.
    """
    if not place.is_output:
        yield from _input(place)
    elif is_remote(place.uri):
        yield from _output(place.field, redact(place.uri), preflight.check(open_store(place.uri)))


def _output(field: str, uri: str, found: Preflight) -> Iterator[Finding]:
    yield Finding("ok", field, f"{uri} can be written, read and deleted ({found.seconds:.1f} s)")
    if not found.conditional_writes:
        yield Finding(
            "warning", field, "the store ignores conditional writes (If-None-Match, If-Match)",
            "never run two attempts of one run, or two promoting jobs of one name, at the same time",
        )  # fmt: skip
    if abs(found.clock_skew_s) > LARGEST_SKEW_S:
        side = "ahead of" if found.clock_skew_s > 0 else "behind"
        what = f"this machine's clock is {abs(found.clock_skew_s):.0f} s {side} the store's"
        yield Finding("warning", field, what, "set the clock of the one that is wrong (NTP)")
    if found.seconds > SLOW_S:
        what = f"the store is slow: {found.seconds:.0f} s for some ten small requests"
        yield Finding("warning", field, what, "choose a store nearby, or look at the network between")


def _input(place: Place) -> Iterator[Finding]:
    shown = redact(place.uri)
    if not is_remote(place.uri):
        if local_path(place.uri).exists():
            yield Finding("ok", place.field, f"{shown} is there")
        else:
            yield Finding("error", place.field, f"{shown} does not exist", "check the place")
        return
    if _reads(place.uri):
        yield Finding("ok", place.field, f"{shown} can be listed and read")
    else:
        advice = "check the place, and its upper and lower case"
        yield Finding("error", place.field, f"{shown}: nothing is there", advice)


def _reads(uri: str) -> bool:
    """Read a byte of one object at or below a URI; returns whether there is any, raises what stores raise.

    To list and to see an object's size take other rights than to read it.
    """
    from job.storage.s3 import S3Store  # boto3 takes a moment

    store = S3Store(*split_s3(uri))
    for _ in range(DEEPEST):
        names = store.children()
        objects = [name for name in names if not name.endswith("/")]
        if objects:
            store.read_byte(objects[0])
            return True
        if not names:
            break
        store = store.at(names[0])
    parent, name = parent_and_name(uri)
    above = S3Store(*split_s3(parent))
    if not name or above.stat(name) is None:
        return False
    above.read_byte(name)
    return True


def _uris(value: Any, path: SpecPath = ()) -> Iterator[tuple[SpecPath, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _uris(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _uris(inner, (*path, position))
    elif isinstance(value, str) and any(str(step).endswith("uri") for step in path[-2:]):
        yield path, value
