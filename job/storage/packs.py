"""Many small files as one object: a tar archive whose bytes depend on names and contents alone.

`job.storage.tar_files` reads them back, trusting nothing.
"""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from job.errors import IntegrityError
from job.storage import tar_files
from job.storage.local import UNFINISHED, naming_a_full_disk, settle
from job.storage.strict_json import loads

DIGESTS = ".digests.json"
"""The last member of a pack that vouches for itself: the sha256 of each of the others."""

_STAGING = ".packing-"
_LEFT_AFTER_S = 86_400.0


class Unsteady(Exception):
    """A file shrank while it was read."""


@dataclass(frozen=True)
class Version:
    """What tells a file's contents from earlier ones without reading it."""

    size: int
    """Bytes."""
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Version":
        """Take it from what the system says of a file."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True)
class Packed:
    """A file as it went into a pack."""

    version: Version
    sha256: str


def versions(folder: Path) -> dict[str, Version]:
    """Return the finished files below `folder` by their relative path; none where there is no folder."""
    found: dict[str, Version] = {}
    below = len(os.fspath(folder)) + 1
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(UNFINISHED):
                continue
            path = f"{place}{os.sep}{name}"  # a cache of 100,000 files is looked through every 20 seconds
            with suppress(FileNotFoundError):  # replaced or removed since it was listed
                found[path[below:]] = Version.of(os.stat(path))  # noqa: PTH116
    return found


def pack(
    folder: Path, names: Iterable[str], target: Path, *, with_digests: bool = False
) -> dict[str, Packed]:
    """Write files below `folder` into `target`, streaming; returns what of each is in it.

    Files that are gone meanwhile are left out. A file that is replaced or appended to while it is read counts
    as it was when it was opened. Raises `Unsteady` for one that shrinks.
    """
    packed: dict[str, Packed] = {}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(names):
            try:
                with (folder / name).open("rb") as file:
                    version, hashed = Version.of(os.fstat(file.fileno())), _Hashed(file)
                    try:
                        archive.addfile(_header(name, version.size), hashed)
                    except OSError as error:
                        if hashed.is_short:
                            raise Unsteady(name) from error
                        raise
            except FileNotFoundError:
                continue
            packed[name] = Packed(version, hashed.sha256)
        if with_digests:
            digests = json.dumps({name: one.sha256 for name, one in packed.items()}).encode()
            archive.addfile(_header(DIGESTS, len(digests)), BytesIO(digests))
    return packed


@contextmanager
def writing(target: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Lend a function that adds a file, by name and content, to `target`, which appears whole at the end."""
    partial = target.with_name(f".{target.name}{UNFINISHED}")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        yield lambda name, data: archive.addfile(_header(name, len(data)), BytesIO(data))
    settle(partial, target)


def snapshot(folder: Path, target: Path, *, attempts: int = 5) -> dict[str, Version] | None:
    """Pack all finished files below `folder` as they were at one moment; None when they never hold still.

    Files that belong together (a state, and the rows of curves that it counts) must be of one moment.
    """
    for _ in range(attempts):
        before = versions(folder)
        try:
            packed = pack(folder, before, target, with_digests=True)
        except Unsteady:
            continue
        if before == versions(folder) == {name: one.version for name, one in packed.items()}:
            return before
    return None


def unpack_snapshot(archive: Path, folder: Path, name: str) -> None:
    """Write what `snapshot` packed below the new folder `folder`.

    Raises `IntegrityError` for what is not what it packed.
    """
    found = tar_files.unpack(archive, folder, name)
    found.pop(DIGESTS, None)
    try:
        promised = loads((folder / DIGESTS).read_bytes())
    except (OSError, ValueError):
        promised = None
    if promised != found:
        raise IntegrityError(
            f"{name}: its files are not those that were packed", advice="remove the object: it is made again"
        )
    (folder / DIGESTS).unlink()


@contextmanager
def staging(beside: Path) -> Iterator[Path]:
    """Lend a folder beside `beside`, on the same disk, for what is packed or unpacked; it goes at the end."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    for left in beside.parent.glob(f"{_STAGING}*"):  # by processes that were killed
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - _LEFT_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
    with (
        naming_a_full_disk(beside),
        tempfile.TemporaryDirectory(prefix=_STAGING, dir=beside.parent) as place,
    ):
        yield Path(place)


def _header(name: str, size: int) -> tarfile.TarInfo:
    """Say nothing of a file but its name and size: no time, no owner."""
    header = tarfile.TarInfo(name)
    header.size = size
    return header


class _Hashed:
    """A file that hashes what is read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.is_short = False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1, /) -> bytes:
        block = self._file.read(size)
        self.is_short = len(block) < size
        self._digest.update(block)
        return block
