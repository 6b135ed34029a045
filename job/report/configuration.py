"""The resolved spec as rows of (path, value, origin), without secrets."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from job.spec.positions import Path
from job.spec.secrets import redact
from job.spec.showing import is_secret, printable, show_path


@dataclass(frozen=True)
class Setting:
    """A value of the spec; `origin` is empty for a default."""

    path: str
    value: str
    origin: str

    @property
    def section(self) -> str:
        """First part of the path."""
        return self.path.split(".")[0].split("[")[0]


def settings(spec: Mapping[str, Any], origins: Mapping[str, str]) -> list[Setting]:
    """Flatten a spec in its order."""
    return [
        Setting(show_path(path), _shown(value, path), _origin(path, origins))
        for path, value in _leaves(dict(spec), ())
    ]


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list) and any(isinstance(inner, dict | str) for inner in value):
        for i, inner in enumerate(value):
            # A post-processing reads best on one line.
            yield from [((*path, i), inner)] if isinstance(inner, dict) else _leaves(inner, (*path, i))
    else:
        yield path, value


def _shown(value: Any, path: Path) -> str:
    if is_secret(path):
        return "(hidden)"
    if isinstance(value, str):
        return printable(redact(value))
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {_shown(inner, (*path, key))}" for key, inner in value.items() if inner is not None
        )
    return json.dumps(value)


def _origin(path: Path, origins: Mapping[str, str]) -> str:
    """Find where a value comes from: its own origin, or that of what holds it or of what it holds."""
    for length in range(len(path), 0, -1):
        if origin := origins.get(show_path(path[:length])):
            return origin
    shown = show_path(path)
    inside = (o for known, o in origins.items() if known.startswith((f"{shown}.", f"{shown}[")))
    return next(inside, "")
