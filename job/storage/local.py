"""Files on the local disk: atomic writes, digests, places named by a URI, a lock that one process holds."""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from job.errors import InputError, JobError, SpecError, TryAgain
from job.stopping import raise_if_stopped

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


def make_folder(path: Path) -> None:
    """Make a folder and those around it; raises `InputError` where none can be (below /proc, say)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no folder can be made there", advice="set output.uri, or cache.uri, to another place"
        ) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside `path`, flush to the disk, then rename: a reader sees the old file or the new one."""
    settle(write_beside(path, data), path)


def write_beside(path: Path, data: bytes | memoryview | str) -> Path:
    """Write a file that `settle` brings to `path`; returns where it lies until then, seen by no reader."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with _removed_on_failure(partial, path):
        try:
            file = partial.open("wb", buffering=0)
        except FileNotFoundError:
            make_folder(path.parent)
            file = partial.open("wb", buffering=0)
        with file:
            rest = memoryview(data.encode() if isinstance(data, str) else data)
            while rest:  # a disk that becomes full takes a part and says so by the count alone
                rest = rest[file.write(rest) :]
    return partial


def settle(partial: Path, path: Path) -> None:
    """Flush a file that was written to the disk, then rename it to `path`."""
    with _removed_on_failure(partial, path):
        flush(partial)
        partial.replace(path)


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk; raises what the disk says."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _removed_on_failure(partial: Path, path: Path) -> Iterator[None]:
    with naming_a_full_disk(path):
        try:
            yield
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
    digests = []
    for path in files:
        raise_if_stopped()
        digests.append((path.relative_to(folder).as_posix(), sha256_file(path)))
    return sha256_json(digests)


def place(source: Path, target: Path) -> None:
    """Copy `source`: whoever edits the copy must not change the original, which other runs take over."""
    with naming_a_full_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)  # and not its mode: what is published is as open as the umask says


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what tells one run of this machine from the next: what was not flushed before may be torn.

    Where the system does not say, no other process's work is taken up.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid4().hex


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone may look into; one that is there stays as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Within: a full disk is `TryAgain`, which names `path` and what is free there, whoever met it."""
    try:
        yield
    except Exception as error:
        # Libraries wrap it in errors of their own; this program's are more exact already.
        if getattr(error, "errno", None) == errno.EFBIG:
            raise TryAgain(
                f"{path}: a file there became larger than this process may write",
                advice="raise the limit on the size of files (ulimit -f), then run the same command: it goes"
                " on from what is there",
            ) from error
        if isinstance(error, JobError) or not _is_full(error):
            raise
        raise TryAgain(
            f"{path}: the disk is full (too little is free: {_free_bytes(path):,} bytes)",
            advice=f"free space on the disk of {_nearest(path)}, then run the same command: it goes on from"
            " what is there",
        ) from error


def _is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path) -> Path:
    """Return the folder of `path`, or the nearest one above it that there is."""
    return next(folder for folder in path.absolute().parents if folder.is_dir())


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; raises `TryAgain` when another process holds it. A killed process lets go of it.

    The file says who holds it, since when.
    """
    make_folder(path.parent)
    with path.open("a+") as file:
        if not _locked(file):
            raise TryAgain(
                f"{what} is being worked on by another process{_holder(file)} ({path})",
                advice="wait for it to end, then run the same command: finished work is taken over",
            )
        with suppress(OSError):  # on a full disk the lock holds as well; closing has nothing to write
            file.truncate(0)
            os.write(file.fileno(), f"{platform.node()} {os.getpid()} {time.time():.0f}\n".encode())
        yield


def _holder(file: IO[str]) -> str:
    """Return who holds a lock and for how long; nothing where it is only just being taken."""
    file.seek(0)
    host, _, facts = file.read(1000).strip().partition(" ")
    pid, _, since = facts.partition(" ")
    if not (pid.isdecimal() and since.isdecimal()):
        return ""
    return f": {host}, process {pid}, for {max(0.0, time.time() - int(since)):.0f} s"


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
