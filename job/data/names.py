"""Names: unique and safe as file names for samples, printable for what came from the disk."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

_LONGEST = 100
_HASH_DIGITS = 12


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return file-safe names, unique whatever the case: the stem, else the path, else with a hash.

    A stem that is nobody else's is always the name; the order of the paths does not count.
    """
    below = [
        Path(*path.parts[1:]) if path.parts[0] == "images" and len(path.parts) > 1 else path for path in paths
    ]
    levels = [
        [safe_name(path.stem) for path in below],
        [safe_name("_".join(path.with_suffix("").parts)) for path in below],
    ]
    names: dict[int, str] = {}
    taken: set[str] = set()
    for level in levels:
        avoid = taken | _repeated(level)
        free = {i: name for i, name in enumerate(level) if i not in names and name.lower() not in avoid}
        names |= free
        taken |= {name.lower() for name in free.values()}
    for i, path in enumerate(paths):
        if i not in names:
            names[i] = _hashed(path, taken)
            taken.add(names[i].lower())
    assert len(taken) == len(paths), "two samples of one name would share their files"
    return [names[i] for i in range(len(paths))]


def printable(path: Path | str) -> str:
    """Return a path as text for one line of any UTF-8 stream.

    Bytes that are not UTF-8 come as `\\xf3`, line breaks and other control characters as `\\n`.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_utf8(text: str) -> bool:
    """Tell whether text can be written as UTF-8: lone surrogates, and undecodable file names, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hashed(path: Path, taken: set[str]) -> str:
    stem = safe_name(path.stem)[: _LONGEST - _HASH_DIGITS - 1]
    digest = sha256(path.as_posix().encode("utf-8", "surrogateescape")).hexdigest()
    while (name := f"{stem}-{digest[:_HASH_DIGITS]}").lower() in taken:  # a file may be called like the hash
        digest = sha256(digest.encode()).hexdigest()
    return name


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(name.lower() for name in names).items() if count > 1}


def safe_name(name: str) -> str:
    """Return a name that is safe as a file name: underscores for all but letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-")[:_LONGEST] or "image"
