"""Names of files within a folder or a store, judged by their text alone."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\\]")


def inner_name(name: str) -> str:
    """Return a relative name of one or more parts with one / between them; raises ValueError for another.

    Refused are what could lead elsewhere (an empty part, `.`, `..`, a slash in front, a backslash) and what
    no line of text may hold (control characters, a NUL among them). Nothing is repaired.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or _CONTROL.search(name):
        raise ValueError(f"{name[:200]!r} is no name of a file within a folder")
    return name
