"""Tar archives from elsewhere: read as streams of regular files, with nothing in them taken on trust."""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn, cast

from job.errors import IntegrityError
from job.storage.names import below

MOST_MEMBERS = 500_000
_BLOCK = 1 << 20
_END = bytes(tarfile.BLOCKSIZE)
_ANYWHERE = Path("/archive")
"""Stands for the folder where members will lie: names are judged before anything is written."""


@dataclass(frozen=True)
class Member:
    """A regular file of an archive; `file` is to be read before the next member is asked for."""

    path: str
    size: int
    """Bytes."""
    file: IO[bytes]


def members(archive: Path, name: str, *, most: int = MOST_MEMBERS) -> Iterator[Member]:
    """Yield the regular files of an uncompressed archive that is called `name` in messages.

    Raises `IntegrityError`, naming archive and member, for what could leave the folder, is no plain file,
    comes twice (in other case too), claims more bytes than the archive has, or is cut short; for compressed
    archives too. Folders are skipped. What was yielded before an error is to be thrown away.
    """
    claimed, at, size = 0, -1, archive.stat().st_size
    tree = _Tree(name)
    try:
        with (
            archive.open("rb") as raw,
            tarfile.open(fileobj=cast(IO[bytes], _ShortReads(raw)), mode="r:") as tar,
        ):
            count = 0
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                # A size below zero, which base-256 can spell, would lead back to members before.
                if info.size < 0 or tar.offset <= at:
                    _refuse(name, info.name, "has a size that is none")
                count, at = count + 1, tar.offset
                if count > most:
                    _refuse(name, info.name, f"comes after {most:,} others, the most there may be")
                path = tree.add(info)
                if path is None:
                    continue
                claimed += info.size
                if claimed > size:
                    _refuse(name, info.name, "and those before it claim more bytes than the archive has")
                if info.offset_data + info.size > size:
                    _refuse(name, info.name, "is cut short")
                file = tar.extractfile(info)
                assert file is not None
                yield Member(path, info.size, file)
            _require_end(archive, tar.offset, name)
    # `tarfile` reads what is said of a member's size, time and holes with more trust than it deserves.
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError, LookupError) as error:
        raise IntegrityError(
            f"{name}: no uncompressed tar archive, or a damaged one ({error})",
            advice="write it with `tar -cf`, without compression, and upload it again",
        ) from error


def unpack(archive: Path, folder: Path, name: str) -> dict[str, str]:
    """Write the files of an archive below `folder`, which has none of them; returns the sha256 of each.

    Raises what `members` raises; what was written by then stays.
    """
    digests = {}
    for member in members(archive, name):
        target = below(folder, member.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        digests[member.path] = copy_member(member, target)
    return digests


def copy_member(member: Member, target: Path) -> str:
    """Write a member to a file that is not there yet; returns its sha256."""
    digest = hashlib.sha256()
    with target.open("xb") as file:
        while block := member.file.read(_BLOCK):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


class _ShortReads:
    """A file that gives no more than a few MiB at once: a header that claims to be longer is no header."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        """Read; raises `tarfile.ReadError` for more than is ever asked for honestly."""
        if not 0 <= size <= 4 * _BLOCK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


class _Tree:
    """The names of an archive so far: no name twice, none a folder of another."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, info: tarfile.TarInfo) -> str | None:
        """Return where a member belongs, None for a folder."""
        path = info.name.removeprefix("./")  # as `tar -c .` writes every name
        if info.isdir() and path in ("", "."):
            return None
        self._judge(info, path)
        known = path.casefold()
        parents = {str(parent) for parent in PurePosixPath(known).parents} - {"."}
        if info.isdir():
            parents.add(known)
        elif known in self._files:
            _refuse(self._archive, info.name, "is there twice, or differs from another in case alone")
        else:
            self._files.add(known)
        self._folders |= parents
        if (known in self._folders and known in self._files) or parents & self._files:
            _refuse(self._archive, info.name, "is a file and a folder at once")
        return None if info.isdir() else path

    def _judge(self, info: tarfile.TarInfo, path: str) -> None:
        if not (info.isdir() or info.isreg()) or info.issparse():
            _refuse(self._archive, info.name, "is a link, a device or sparse; only plain files are unpacked")
        try:
            below(_ANYWHERE, path)
            path.encode()
            if hasattr(tarfile, "data_filter"):  # a second opinion, which Python has from 3.11.4 on
                tarfile.data_filter(info, str(_ANYWHERE))
        except (IntegrityError, tarfile.TarError, UnicodeError) as error:
            raise IntegrityError(
                f"{self._archive}: the member {info.name!r} cannot be a file below the archive's folder",
                advice="members are relative names in UTF-8, with one / between their parts",
            ) from error
        if max(len(part.encode()) for part in path.split("/")) > 255:
            _refuse(self._archive, info.name, "has a name longer than 255 bytes")


def _require_end(archive: Path, offset: int, name: str) -> None:
    # `tarfile` takes a damaged or missing header for the end, silently.
    with archive.open("rb") as file:
        file.seek(offset)
        if file.read(len(_END)) != _END:
            raise IntegrityError(
                f"{name}: the archive is cut short, or damaged at byte {offset}",
                advice="upload it again; `tar -tvf` shows where it breaks",
            )


def _refuse(archive: str, member: str, why: str) -> NoReturn:
    raise IntegrityError(
        f"{archive}: the member {member!r} {why}", advice="write the archive anew without it, with `tar -cf`"
    )
