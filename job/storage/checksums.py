"""Digests that a folder's author wrote down beside its files: what they promise, and whether it is kept."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.errors import IntegrityError
from job.storage import strict_json

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
SUFFIX = ".sha256"
MOST_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_LINE = re.compile(r"([0-9a-fA-F]{64})(?:[ \t]+\*?(\S.*))?", re.ASCII)


def promises_digests(path: str) -> bool:
    """Return whether a file, by its path in the folder, may hold digests of others."""
    name = path.rpartition("/")[2]
    return path == MANIFEST or name == SUMS or name.endswith(SUFFIX)


@dataclass(frozen=True)
class Promises:
    """What every file of a folder must contain, by its path, and which file says so."""

    of: Mapping[str, tuple[str, str]]

    @classmethod
    def read(cls, files: Iterable[str], open_file: Callable[[str], Path], uri: str) -> "Promises":
        """Read those of `files` that hold digests; raises `IntegrityError` for what cannot be understood.

        `uri` is the folder's place, for messages. A `manifest.json` that names no sha256 at all is another
        program's, and promises nothing.
        """
        found: dict[str, tuple[str, str]] = {}
        try:
            for file in sorted(filter(promises_digests, files)):
                _add(found, file, open_file(file))
        except _Unusable as error:
            raise IntegrityError(
                f"{uri}/{error}",
                advice="write it anew (docs/data.md says how), or remove it: then nothing is compared",
            ) from error
        return cls(found)

    def kept(self, path: str, sha256: str) -> bool:
        """Return whether a file's content is what was promised, if anything was."""
        return self.of.get(path, (sha256, ""))[0] == sha256

    def broken(self, uri: str, path: str) -> IntegrityError:
        """Return the error of a file with another content."""
        return IntegrityError(
            f"{uri}/{path}: its content is not what {self.of[path][1]} promises",
            advice=f"upload the file again, or write {self.of[path][1]} anew if the file is right",
        )

    def require_all(self, uri: str, paths: Iterable[str]) -> None:
        """Raise `IntegrityError` if a file that was promised is not among `paths`."""
        for path in sorted(self.of.keys() - set(paths)):
            raise IntegrityError(
                f"{uri}: {path} is missing, which {self.of[path][1]} names",
                advice=f"upload it, or take it out of {self.of[path][1]}",
            )


class _Unusable(Exception):
    """Names a file that holds digests, and what is wrong with it."""


def _add(found: dict[str, tuple[str, str]], file: str, place: Path) -> None:
    if place.stat().st_size > MOST_BYTES:
        raise _Unusable(f"{file} has more than {MOST_BYTES:,} bytes")
    text = place.read_text(encoding="utf-8-sig", errors="surrogateescape")
    named = _of_manifest(file, text) if file == MANIFEST else _of_sums(file, text)
    for path, sha256 in named.items():
        if found.get(path, (sha256, ""))[0] != sha256:
            raise _Unusable(f"{file} and {found[path][1]} promise different digests of {path}")
        found[path] = (sha256, file)


def _of_manifest(file: str, text: str) -> dict[str, str]:
    try:
        document = strict_json.parse(text, most_bytes=MOST_BYTES)
    except ValueError as error:
        raise _Unusable(f"{file} is not JSON ({error})") from error
    entries = document.get("files", document) if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        return {}
    return {path: _digest(file, path, entry) for path, entry in entries.items() if _speaks(entry)}


def _speaks(entry: Any) -> bool:
    return "sha256" in entry if isinstance(entry, dict) else bool(_SHA256.fullmatch(str(entry)))


def _digest(file: str, path: str, entry: Any) -> str:
    digest = entry["sha256"] if isinstance(entry, dict) else entry
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _Unusable(f"{file} promises of {path} what is no sha256")
    return digest.lower()


def _of_sums(file: str, text: str) -> dict[str, str]:
    folder = file.rpartition("/")[0]
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        named = match and (match[2] or (file.rpartition("/")[2].removesuffix(SUFFIX)))
        if not match or (match[2] is None and not file.endswith(SUFFIX)):
            raise _Unusable(f"{file}: line {number} is not `SHA256  NAME`, as sha256sum writes it")
        path = str(named).removeprefix("./")
        found[f"{folder}/{path}" if folder else path] = match[1].lower()
    return found
