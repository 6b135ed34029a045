"""Files on the local disk: atomic writes, digests, places named by a URI, a lock that one process holds."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from job.errors import SpecError, TryAgain

LOCK_PATIENCE_S = 0.5
"""How long a held lock is tried again: `status` holds one for an instant to see whether it is free."""
UNFINISHED = ".tmp"
"""How the name of a file ends, after a leading dot, while it is being written."""


def local_path(uri: str) -> Path:
    """Return the path that a plain path or `file://` URI names.

    Raises `SpecError` for other schemes and hosts, for a URI that cannot be parsed, for an unescaped `#` or
    `?` in a file URI (which would cut the path short), and for the home of a user that there is not.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SpecError(f"{uri!r} is no URI: {error}", advice="give a path or a file:// URI") from error
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise SpecError(
            f"{uri!r} names the host {parts.netloc!r}",
            advice="write file:///absolute/path with three slashes, or the path alone",
        )
    if parts.scheme == "file" and ("#" in uri or "?" in uri):
        raise SpecError(
            f"{uri!r}: in a file URI the path ends before # or ?",
            advice="write %23 for # and %3F for ?, or the path alone",
        )
    if parts.scheme in ("", "file") or len(parts.scheme) == 1:
        return _at_home(Path(unquote(parts.path) if parts.scheme == "file" else uri))
    advice = "give a path, file:// or s3://BUCKET/PREFIX"
    if parts.scheme == "s3":
        advice = "write s3:// in lower case"
    if "://" not in uri:
        advice += f"; write ./{uri} for a local name with a colon"
    raise SpecError(f"{uri!r}: {parts.scheme}: URIs cannot be read by this version", advice=advice)


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SpecError(
            f"{path}: {path.parts[0]} has no home folder here",
            advice=f"write the path in full, or ./{path} for a name that begins with a tilde",
        ) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside `path`, flush to the disk, then rename: a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with _disk_full_is_transient(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON."""
    return sha256_text(canonical_json(value))


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Return the sha256 of a text's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_folder(folder: Path) -> str:
    """Return a digest of every file's relative path and bytes below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sha256_json([(path.relative_to(folder).as_posix(), sha256_file(path)) for path in files])


def place(source: Path, target: Path) -> None:
    """Copy `source`: whoever edits the copy must not change the original, which other runs take over."""
    with _disk_full_is_transient(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


@contextmanager
def _disk_full_is_transient(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgain(
                f"{path}: the disk is full", advice="free space, then run the same command"
            ) from error
        raise


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; raises `TryAgain` when another process holds it. A killed process lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not _locked(file):
            raise TryAgain(
                f"{what} is being worked on by another process ({path})",
                advice="wait for it to end, then run the same command: finished work is taken over",
            )
        yield


def _locked(file: IO[str]) -> bool:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOCK_PATIENCE_S / 10)
        else:
            return True
