"""Folders that show cached content under the names of a dataset or a checkpoint, and which of them may go.

inputs/<digest>/        hard links to content
inputs/<digest>.json    what belongs there; written last, touched at each use
inputs/<digest>.use     locked (shared) by every process that works with the folder
inputs/<digest>.build   locked by the one process that fills it
"""

import fcntl
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from job.storage.local import sha256_file, write_beside
from job.storage.object_cache import READ_BYTES, ObjectCache, is_plain, is_sealed, seal, unseal

Wait = Callable[[], None]
"""Waits a moment; raises what asks the work to stop."""


@dataclass(frozen=True)
class View:
    """The folder of one digest."""

    folder: Path

    @property
    def record(self) -> Path:
        """The file that says what belongs into the folder."""
        return self.folder.with_name(f"{self.folder.name}.json")

    def is_complete(self) -> bool:
        """Return whether every file is there as it was put there, and no other.

        They are read where all together have at most `READ_BYTES`; of larger folders sizes, times and inodes
        are compared, and those files are read whose time does not say that they were flushed.
        """
        found = self.files()
        try:
            promised = self._promised()
            is_complete = promised.keys() == found.keys() and all(
                is_plain(found[path], size) and found[path].st_ino == inode
                for path, (size, inode, _) in promised.items()
            )
            read_all = sum(size for size, _, _ in promised.values()) <= READ_BYTES
            to_read = {
                path: sha256
                for path, (size, _, sha256) in promised.items()
                if read_all or not is_sealed(found[path], size)
            }
            is_complete = is_complete and self._has(to_read)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if is_complete:
            os.utime(self.record)
        return is_complete

    def digests(self) -> dict[str, str]:
        """Return the sha256 of each file of a complete folder, by path."""
        return {path: sha256 for path, (_, _, sha256) in self._promised().items()}

    def _promised(self) -> dict[str, tuple[int, int, str]]:
        files: dict[str, tuple[int, int, str]] = json.loads(self.record.read_text())["files"]
        return files

    def _has(self, digests: Mapping[str, str]) -> bool:
        broken = [path for path, sha256 in digests.items() if sha256_file(self.folder / path) != sha256]
        for path in broken:
            unseal(self.folder / path)
        for path in () if broken else digests:
            seal(self.folder / path)
        return not broken

    def finish(self, uri: str, digests: Mapping[str, str]) -> None:
        """Remove what does not belong here and write the record of what does: the sha256 of each path."""
        found = self.files()
        for path in found.keys() - digests.keys():
            (self.folder / path).unlink()
        files = {
            path: [found[path].st_size, found[path].st_ino, sha256]
            for path, sha256 in sorted(digests.items())
        }
        # Not flushed: without it the folder is filled anew, from what is here.
        write_beside(self.record, json.dumps({"uri": uri, "files": files})).replace(self.record)

    def remove_links(self) -> None:
        """Remove links: nothing is to be written through them."""
        for path in self.files():
            if (self.folder / path).is_symlink():
                (self.folder / path).unlink()

    def files(self) -> dict[str, os.stat_result]:
        """Return everything in the folder that is no folder, by relative path."""
        found: dict[str, os.stat_result] = {}
        pending = [(self.folder, "")]
        while pending:
            folder, prefix = pending.pop()
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((folder / entry.name, f"{prefix}{entry.name}/"))
                    else:
                        found[f"{prefix}{entry.name}"] = entry.stat(follow_symlinks=False)
        return found

    @contextmanager
    def building(self, wait: Wait) -> Iterator[None]:
        """Be the only one who fills the folder."""
        with _lock(self.folder.with_name(f"{self.folder.name}.build"), fcntl.LOCK_EX, wait):
            yield


@dataclass(frozen=True)
class Views:
    """All views below one folder. Those in use by this process stay until `close`."""

    root: Path
    _in_use: "dict[str, _Lock]" = field(default_factory=dict)

    def open(self, digest: str, wait: Wait) -> View:
        """Return a view that nobody removes from now on; it may be incomplete."""
        if digest not in self._in_use:
            self._in_use[digest] = _lock(self.root / f"{digest}.use", fcntl.LOCK_SH, wait)
        return View(self.root / digest)

    def close(self) -> None:
        """Let go of every view."""
        while self._in_use:
            self._in_use.popitem()[1].close()

    def make_room(self, cache: ObjectCache, needed: int, max_bytes: int) -> None:
        """Remove content until `needed` bytes more are at most `max_bytes`, and on the disk at all.

        First goes what no view shows, then view by view what was not used for the longest time. What is in
        use stays, here and in other processes, so that it may not be enough.
        """
        unused = self._by_last_use()
        while True:
            total, loose = cache.unshown()
            for blob, size in loose:
                if _fits(self.root, total, needed, max_bytes):
                    return
                blob.unlink(missing_ok=True)
                total -= size
            if _fits(self.root, total, needed, max_bytes) or not unused:
                return
            self._remove(unused.pop(0))

    def _by_last_use(self) -> list[View]:
        views = [View(folder) for folder in self.root.glob("*") if folder.is_dir()]
        return sorted(views, key=_last_use)

    def _remove(self, view: View) -> None:
        lock = view.folder.with_name(f"{view.folder.name}.use")
        held = _try_lock(lock, fcntl.LOCK_EX)
        if held is None:
            return  # somebody works with it
        with held:
            view.record.unlink(missing_ok=True)
            shutil.rmtree(view.folder, ignore_errors=True)  # another process may have been faster
            view.folder.with_name(f"{view.folder.name}.build").unlink(missing_ok=True)
            lock.unlink()


def _last_use(view: View) -> float:
    for place in (view.record, view.folder):
        with suppress(FileNotFoundError):
            return place.stat().st_mtime
    return 0.0


def _fits(root: Path, total: int, needed: int, max_bytes: int) -> bool:
    return total + needed <= max_bytes and shutil.disk_usage(root).free >= needed


class _Lock:
    """A held lock, until it is closed or nobody refers to it any more."""

    def __init__(self, descriptor: int) -> None:
        self.close = weakref.finalize(self, os.close, descriptor)

    def __enter__(self) -> None:
        """Hold on."""

    def __exit__(self, *error: object) -> None:
        """Let go."""
        self.close()


def _lock(path: Path, kind: int, wait: Wait) -> _Lock:
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := _try_lock(path, kind)) is None:
        wait()
    return lock


def _try_lock(path: Path, kind: int) -> _Lock | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        # Another process may have removed the file between our opening and locking it.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return _Lock(descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
