"""Content by its sha256 on this machine, and an index that knows what objects hold without asking for them.

objects/<sha256[:2]>/<sha256>   the content: read-only, hard-linked into the folders that show it; sealed
                                (given a certain time of modification) once it has been flushed to the disk
partial/<object>                a download on its way, named by the object so that any job goes on with it
index/<store>.jsonl             (key, etag, size) of a store's objects -> sha256, a line each
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.storage.local import boot_id, flush, sha256_file, sha256_json, sha256_text, write_atomic
from job.storage.store import Stat

SEALED_NS = 946_684_800 * 10**9
"""Modification time of content that is on the disk, 2000-01-01. Any other betrays that somebody wrote to the
file, or that the machine may have lost its power before all of it was there: it is read before it is used."""
READ_BYTES = 2 * 10**9
"""Folders up to this size are read whole before they are used again, which takes a second or two: a disk that
fails, or `cp -p`, changes content without a trace beside it."""
STALE_S = 7 * 86_400.0
_READ_ONLY = 0o444
_OBJECT = re.compile(r"[0-9a-f]{40}")
_NO_LINKS = (errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Content:
    """What an object holds, or a file that an archive holds."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Known:
    """What is known of an object that was here: its content and, of an archive, what it holds by path."""

    content: Content
    members: dict[str, Content] | None = None


@dataclass(frozen=True)
class ObjectCache:
    """All content below one folder; several processes may use it at once."""

    root: Path

    def target(self, uri: str, source: Stat) -> Path:
        """Return where an object is downloaded to: the same place for every attempt until the next boot."""
        name = sha256_json([boot_id(), uri, source.key, source.etag, source.size])[:40]
        return Path(f"{self.root}/partial/{name}")  # of one piece: there may be thousands

    def begun_bytes(self, targets: Iterable[Path]) -> int:
        """Return how much of the disk the beginnings of downloads have taken already."""
        names = {target.name for target in targets}
        begun = 0
        for path in self.root.glob("partial/*"):
            if names & set(_OBJECT.findall(path.name)):
                with suppress(FileNotFoundError):
                    begun += path.stat().st_blocks * 512
        return begun

    def lend(self, file: Path, target: Path) -> None:
        """Show a file at `target` before it is known whether its content is to be kept."""
        file.chmod(_READ_ONLY)
        _link(file, target)

    def admit(self, file: Path, content: Content, target: Path) -> None:
        """Move a file to its content's place, and show it at `target`; what moved it may `seal` it later."""
        blob = self._blob(content.sha256)
        if blob.exists() and self.show(content, target, read=True):
            file.unlink()
            return
        if not _is_one(file, target):
            self.lend(file, target)  # first: another process may remove content that no folder shows
        try:
            file.replace(blob)
        except FileNotFoundError:
            blob.parent.mkdir(parents=True, exist_ok=True)
            file.replace(blob)

    def show(self, content: Content, target: Path, *, read: bool = False) -> bool:
        """Link content to `target`, replacing what is there; False when there is none that is whole.

        Without `read`, content that looks untouched is taken to be whole.
        """
        blob = self._blob(content.sha256)
        try:
            if not _is_whole(blob, content, read=read):
                blob.unlink()
                return False
            if not _is_one(blob, target):
                _link(blob, target)
        except FileNotFoundError:
            return False
        return True

    def forget(self, content: Content) -> None:
        """Remove content, wherever it is still shown."""
        self._blob(content.sha256).unlink(missing_ok=True)

    def unshown(self) -> tuple[int, list[tuple[Path, int]]]:
        """Return the bytes of all content, and the files, with their sizes, that no folder shows."""
        total, loose = 0, []
        for blob in self.root.glob("objects/*/*"):
            try:
                found = blob.stat()
            except FileNotFoundError:
                continue
            total += found.st_size
            if found.st_nlink == 1:
                loose.append((blob, found.st_size))
        return total, loose

    def remove_stale_downloads(self, now: float) -> None:
        """Remove downloads that nobody went on with for a week."""
        for path in self.root.glob("partial/*"):
            with suppress(FileNotFoundError):  # another process takes it up, or away
                # Not the time of modification: a process may have been killed between sealing and moving it.
                if path.stat().st_ctime < now - STALE_S:
                    path.unlink()

    def index(self, uri: str) -> "Index":
        """Return what is known of a store's objects."""
        return Index.load(self.root / "index" / f"{sha256_text(uri)[:40]}.jsonl")

    def _blob(self, sha256: str) -> Path:
        return Path(f"{self.root}/objects/{sha256[:2]}/{sha256}")  # as above


@dataclass(frozen=True)
class Index:
    """What was learned of a store's objects, by key, etag and size; what is lost of it is fetched again."""

    path: Path
    known: dict["Version", Known]

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Read an index; lines that a killed process left unfinished are skipped."""
        lines = list(filter(None, path.read_text().splitlines())) if path.exists() else []
        newest: dict[str, tuple[Version, Known] | None] = {}
        for line in lines:
            newest.update(_parsed(line))
        found = dict(item for item in newest.values() if item is not None)
        if len(lines) > 2 * len(found) + 100:
            write_atomic(path, "".join(_line(*item) for item in found.items()))
        return cls(path, found)

    def get(self, source: Stat) -> Known | None:
        """Return what an object holds if it was here in this version."""
        return self.known.get(_version(source))

    def put(self, source: Stat, known: Known) -> None:
        """Remember an object."""
        self.put_all({source: known})

    def put_all(self, known: Mapping[Stat, Known]) -> None:
        """Remember objects."""
        found = {_version(source): one for source, one in known.items()}
        self.known.update(found)
        if found:
            self._append("".join(_line(*item) for item in found.items()))

    def drop(self, source: Stat) -> None:
        """Forget an object: it is to be fetched again."""
        if self.known.pop(_version(source), None) is not None:
            self._append("\n" + json.dumps({"key": source.key}))

    def _append(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(line)


def seal(file: Path) -> None:
    """Flush content, then give it the time that says so, by which a later write is noticed too."""
    if file.stat().st_mtime_ns != SEALED_NS:
        flush(file)
        os.utime(file, ns=(SEALED_NS, SEALED_NS))


def unseal(file: Path) -> None:
    """Mark content as suspect: wherever it is shown, it is read before it is used again."""
    os.utime(file)


def is_sealed(found: os.stat_result, size: int) -> bool:
    """Return whether a file looks as `seal` left it."""
    return is_plain(found, size) and found.st_mtime_ns == SEALED_NS


def is_plain(found: os.stat_result, size: int) -> bool:
    """Return whether something is a regular file of a size."""
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _is_whole(blob: Path, content: Content, *, read: bool) -> bool:
    looks_whole = is_sealed(blob.stat(), content.size)
    if looks_whole and not read:
        return True
    if sha256_file(blob) != content.sha256:
        return False
    if not looks_whole:
        seal(blob)  # somebody touched it and changed nothing, or it had not been flushed yet
    return True


def _is_one(file: Path, other: Path) -> bool:
    try:
        return os.path.samestat(other.stat(), file.stat())
    except FileNotFoundError:
        return False


def _link(source: Path, target: Path) -> None:
    try:
        try:
            target.hardlink_to(source)
        except (FileExistsError, FileNotFoundError):  # few of thousands of files need more than that
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)  # a disk without links, or one with too many to this file
        target.chmod(_READ_ONLY)


Version = tuple[str, str, int]
"""Key, etag and size of an object."""


def _version(source: Stat) -> Version:
    return source.key, source.etag, source.size


def _line(version: Version, known: Known) -> str:
    key, etag, size = version
    members = known.members
    inner = None if members is None else {path: [one.sha256, one.size] for path, one in members.items()}
    row = {"key": key, "etag": etag, "size": size, "sha256": known.content.sha256, "members": inner}
    return "\n" + json.dumps(row)  # a new line first: the last one may be broken off


def _parsed(line: str) -> dict[str, tuple[Version, Known] | None]:
    try:
        row = json.loads(line)
        if "etag" not in row:
            return {row["key"]: None}
        inner: dict[str, list[Any]] | None = row["members"]
        members = None if inner is None else {path: Content(*one) for path, one in inner.items()}
        version = (row["key"], row["etag"], row["size"])
        return {row["key"]: (version, Known(Content(row["sha256"], row["size"]), members))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
