"""Names of files within a folder or a store, judged by their text alone."""

import re
from pathlib import Path

from job.errors import IntegrityError

_CONTROL = re.compile(r"[\x00-\x1f\\]")


def inner_name(name: str) -> str:
    """Return a relative name of one or more parts with one / between them; raises ValueError for another.

    Refused are what could lead elsewhere (an empty part, `.`, `..`, a slash in front, a backslash) and what
    no line of text may hold (control characters, a NUL among them). Nothing is repaired.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or _CONTROL.search(name):
        raise ValueError(f"{name[:200]!r} is no name of a file within a folder")
    return name


def below(root: Path, key: str) -> Path:
    """Return the path of a store's key below a folder; raises `IntegrityError` for one that would leave it.

    Keys are names, which may hold anything: `..`, a slash in front, a NUL. None of them is repaired.
    """
    try:
        return root.joinpath(*inner_name(key).split("/"))
    except ValueError as error:
        raise IntegrityError(
            f"the key {key!r} cannot be a file below {root}",
            advice="rename or remove the object: keys are parts of names with one / between them",
        ) from error
