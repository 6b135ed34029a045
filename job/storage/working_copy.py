"""This machine's copy of an output in a store: what of it may go, so that a disk that stays is not filled.

<copy>/.use            locked (shared) by every process that works here
<copy>/runs, stages    as in the store; what a store that was away does not have is here alone
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from job.stopping import raise_if_stopped
from job.storage.manifest import MANIFEST
from job.storage.store import ObjectStore

USE = ".use"
KEPT_S = 7 * 86_400.0
"""How long what the store does not have waits to be gone on with."""
_LOOK_EVERY_S = 0.05
_PARTIAL = ".partial"


@contextmanager
def in_use(copy: Path) -> Iterator["WorkingCopy"]:
    """Work in the copy; waits the moment that another process takes to make room in it."""
    copy.mkdir(parents=True, exist_ok=True)
    with (copy / USE).open("a") as file:
        while not _locked(file, fcntl.LOCK_SH):
            raise_if_stopped()
            time.sleep(_LOOK_EVERY_S)
        yield WorkingCopy(copy, file)


@dataclass(frozen=True)
class WorkingCopy:
    """A copy that this process works in."""

    folder: Path
    lock: IO[str]

    def make_room(self, store: ObjectStore, max_bytes: int, keep: Path) -> list[Path]:
        """Remove what was not used for the longest time, until at most `max_bytes` are left; returns it.

        `keep` stays, and what the store does not have, unless nobody went on with it for a week. While others
        work here, who may need anything, nothing is removed. Ends the use of the copy.
        """
        if not _locked(self.lock, fcntl.LOCK_EX):
            return []
        found = sorted((_Part.of(path, self.folder) for path in self._parts()), key=lambda part: part.used)
        total, removed = sum(part.size for part in found), []
        for part in found:
            if total <= max_bytes:
                break
            if part.path == keep or not part.may_go(store):
                continue
            shutil.rmtree(part.path, ignore_errors=True)
            part.path.with_name(f"{part.path.name}.lock").unlink(missing_ok=True)
            total -= part.size
            removed.append(part.path)
        return removed

    def _parts(self) -> Iterator[Path]:
        for kind in ("runs", "stages"):
            yield from (path for path in self.folder.glob(f"{kind}/*/*") if path.is_dir())


@dataclass(frozen=True)
class _Part:
    """A run folder, a stage's result, or what there is of one."""

    path: Path
    key: str
    """Of the object without which the store does not have it."""
    size: int
    """Bytes."""
    used: float

    @classmethod
    def of(cls, path: Path, copy: Path) -> "_Part":
        kind, name, inner = path.relative_to(copy).parts
        key = f"runs/{name}/{inner}/{MANIFEST}"
        if kind == "stages":
            key = f"stages/{name}/{inner.removesuffix(_PARTIAL)}.tar"
        size, used = 0, path.stat().st_mtime
        for place, _, files in os.walk(path):
            for file in files:
                with suppress(FileNotFoundError):
                    found = Path(place, file).stat()
                    size, used = size + found.st_size, max(used, found.st_mtime)
        return cls(path, key, size, used)

    def may_go(self, store: ObjectStore) -> bool:
        return self.used < time.time() - KEPT_S or store.stat(self.key) is not None


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
