"""A store in a folder: the same promises as a bucket's, kept with a rename and a lock."""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from job.errors import Denied, Missing
from job.storage.background import Background
from job.storage.documents import open_plain, require_small
from job.storage.local import UNFINISHED, flush, write_atomic
from job.storage.names import below
from job.storage.store import (
    Advance,
    Arrived,
    Changed,
    Download,
    Landed,
    Stat,
    Upload,
    no_advance,
    no_arrival,
)

_LOCK = f".store.lock{UNFINISHED}"
AT_ONCE = 1000
"""Names that `children` gives at most."""
_BLOCK = 1 << 20
_TRIES = 1000
"""To make a folder that others remove as often as it is made."""
_Opened = TypeVar("_Opened")


@dataclass(frozen=True)
class LocalStore:
    """Objects are the files below `folder`; hidden unfinished files are none."""

    folder: Path

    @property
    def uri(self) -> str:
        """The folder."""
        return str(self.folder)

    def at(self, prefix: str) -> "LocalStore":
        """Return the store below a prefix."""
        return LocalStore(below(self.folder, prefix)) if prefix else self

    def stat(self, key: str) -> Stat | None:
        """Return what is known of a file."""
        path = below(self.folder, key)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise self._denied(path) from error
        return _stat(key, found) if path.is_file() else None

    def entries(self, prefix: str = "") -> Iterator[Stat]:
        """Yield the files whose key starts with `prefix`."""
        for key in sorted(self._keys(prefix)):
            found = self.stat(key)
            if found is not None:  # not deleted since
                yield found

    def children(self) -> list[str]:
        """Return what is directly in the folder."""
        if not self.folder.is_dir():
            return []
        inside = (path for path in self.folder.iterdir() if not path.name.endswith(UNFINISHED))
        return sorted(f"{path.name}/" if path.is_dir() else path.name for path in inside)[:AT_ONCE]

    def read(self, key: str) -> tuple[bytes, str]:
        """Return a file's bytes and version."""
        path = below(self.folder, key)
        try:
            with open_plain(path) as file:
                found = os.fstat(file.fileno())
                require_small(str(path), found.st_size)
                return file.read(), _stat(key, found).etag
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise self._missing(key) from error
        except PermissionError as error:
            raise self._denied(path) from error

    def write(self, key: str, data: bytes) -> str:
        """Write a file in one step."""
        with _alone(below(self.folder, key)):
            return self._write(key, data)

    def create(self, key: str, data: bytes) -> str:
        """Write a file where there is none."""
        with _alone(below(self.folder, key)):
            if self.stat(key) is not None:
                raise Changed(key)
            return self._write(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Replace a file that is still the version `etag`."""
        with _alone(below(self.folder, key)):
            found = self.stat(key)
            if found is None or found.etag != etag:
                raise Changed(key)
            return self._write(key, data)

    def download(
        self, items: Sequence[Download], advance: Advance = no_advance, arrived: Arrived = no_arrival
    ) -> list[str]:
        """Copy files out of the store."""
        digests = []
        for item in items:
            found = self.stat(item.source.key)
            if found is None:
                raise self._missing(item.source.key)
            if found.etag != item.source.etag:
                raise Changed(item.source.key)
            source = below(self.folder, item.source.key)
            digests.append(_copy(source, item.target, advance, flushed=False))
            arrived(item, digests[-1])
        return digests

    def bring(self, items: Sequence[Download], advance: Advance, landed: Landed, digests: Background) -> None:
        """Copy files out of the store, which digests them."""
        for item in items:
            digest: Future[str] = Future()
            digest.set_result(*self.download([item], advance))
            landed(item, digest)

    def upload(self, items: Sequence[Upload], advance: Advance = no_advance) -> list[str]:
        """Copy files into the store."""
        return [_copy(item.source, below(self.folder, item.key), advance, flushed=True) for item in items]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, and the folders that they leave empty."""
        for key in keys:
            path = below(self.folder, key)
            if not path.parent.is_dir():
                continue
            with _alone(path):
                path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.folder or not _remove_empty(folder):
                    break

    def now(self) -> float:
        """Return this machine's time: the store has no other."""
        return time.time()

    def abort_stale_uploads(self, older_than_s: float) -> int:
        """Remove unfinished files."""
        stale = [
            path
            for path in self.folder.rglob(f".*{UNFINISHED}")
            if path.name != _LOCK and path.is_file() and path.stat().st_mtime < time.time() - older_than_s
        ]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _keys(self, prefix: str) -> Iterator[str]:
        folder = self.folder / prefix.rpartition("/")[0] if "/" in prefix else self.folder
        for place, _, names in os.walk(folder):
            for name in names:
                if not (name.startswith(".") and name.endswith(UNFINISHED)):
                    key = Path(place, name).relative_to(self.folder).as_posix()
                    if key.startswith(prefix):
                        yield key

    def _write(self, key: str, data: bytes) -> str:
        path = below(self.folder, key)
        try:
            write_atomic(path, data)
        except PermissionError as error:
            raise self._denied(path) from error
        return _stat(key, path.stat()).etag

    def _missing(self, key: str) -> Missing:
        return Missing(f"{self.folder / key}: does not exist", advice="check the place")

    def _denied(self, path: Path) -> Denied:
        return Denied(f"{path}: permission denied", advice="check the owner and the mode of the folder")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only one who writes beside `path`, on this machine or another that shares the disk."""
    folder = path.parent
    try:
        file = _lock(folder)
        try:
            yield
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(
                f"{folder}: cannot be written", advice="check the owner and the mode of the folder"
            ) from error
        raise


def _lock(folder: Path) -> int:
    """Return the descriptor of the folder's lock; closing it lets go."""
    path = folder / _LOCK
    while True:
        file = _open_in(folder, lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644))
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file
        os.close(file)  # removed while it was waited for: whoever comes now makes, and locks, another one


def _open_in(folder: Path, open_file: Callable[[], _Opened]) -> _Opened:
    """Open a file in a folder, made where it is missing, while others may remove it as empty."""
    for _ in range(_TRIES):
        # Removed before mkdir has made what is inside, has looked at what it found, or the file is opened.
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            return open_file()
    folder.mkdir(parents=True, exist_ok=True)
    return open_file()


def _remove_empty(folder: Path) -> bool:
    """Remove a folder that holds nothing but its lock; returns whether it did."""
    try:
        if any(inner.name != _LOCK for inner in folder.iterdir()):
            return False
        with _alone(folder / _LOCK):
            if any(inner.name != _LOCK for inner in folder.iterdir()):
                return False
            (folder / _LOCK).unlink()
            folder.rmdir()
    except FileNotFoundError:  # somebody else was faster
        return True
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            return False
        raise
    return True


def _stat(key: str, found: os.stat_result) -> Stat:
    # A replaced file is another inode, even within one tick of the clock.
    return Stat(
        key, found.st_size, f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}", found.st_mtime
    )


def _copy(source: Path, target: Path, advance: Advance, *, flushed: bool) -> str:
    partial = target.with_name(f".{target.name}.{os.getpid()}{UNFINISHED}")
    digest = hashlib.sha256()
    try:
        with source.open("rb") as reader, _open_in(target.parent, lambda: partial.open("wb")) as writer:
            while block := reader.read(_BLOCK):
                digest.update(block)
                writer.write(block)
                advance(len(block))
        if flushed:
            flush(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()
