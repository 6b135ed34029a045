"""A finished folder: `done.json` holds the facts of what made it and the sha256 of every other file in it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from job.errors import IntegrityError
from job.storage import strict_json
from job.storage.documents import read_bytes
from job.storage.local import sha256_file, write_atomic

RECORD = "done.json"


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the record: nothing in the folder may change from now on."""
    write_atomic(folder / RECORD, json.dumps({**facts, "files": _digests(folder)}, indent=1))


def read_sealed(
    folder: Path, facts: Mapping[str, Any], *, needs: Collection[str] = (), advice: str
) -> dict[str, Any] | None:
    """Return the record of a finished folder, with what it `needs`, None where there is none.

    Raises `IntegrityError` when it is broken or of something else than `facts` say, or when a file is not
    what was written.
    """
    try:
        record = strict_json.parse(read_bytes(folder / RECORD))
        promised: dict[str, str] = dict(record["files"])
        missing = set(needs) - record.keys()
        is_other = any(record[name] != value for name, value in facts.items())
        if missing:
            raise KeyError(min(missing))  # noqa: TRY301  (it is a broken record like the others)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder / RECORD} is not what this program writes: {error}", advice=advice
        ) from error
    if is_other:
        raise IntegrityError(f"{folder / RECORD} is the record of something else", advice=advice)
    found = _digests(folder)
    changed = sorted(file for file in promised.keys() | found.keys() if promised.get(file) != found.get(file))
    if changed:
        raise IntegrityError(f"{folder}: {changed[0]} is missing, new or changed", advice=advice)
    assert isinstance(record, dict)
    return record


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
