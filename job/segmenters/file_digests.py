"""sha256 of files, several at once, remembered for as long as a file's size and time of change stay."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from job.storage.local import sha256_file

_MEMORY = "file_digests.json"
_AT_ONCE = 4

Remembered = dict[str, tuple[int, list[int], str]]
"""By path: the size, the times of change at which it had this content (in ns), and the digest."""


def file_digests(files: Sequence[Path], memory: Path | None = None) -> list[str]:
    """Return the sha256 of each file (16 GB take about 4 s on four cores).

    The folder `memory`, where given, remembers them; what is damaged or cannot be written there is nothing.
    """
    known = _remembered(memory)
    facts = {path: path.stat() for path in files}
    new = [path for path in files if not _is_same(known.get(str(path.resolve())), facts[path])]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashlib lets other threads run
        for path, digest in zip(new, pool.map(sha256_file, new), strict=True):
            known[str(path.resolve())] = (facts[path].st_size, [facts[path].st_mtime_ns], digest)
    if memory is not None and new:
        _remember(known, memory)
    return [known[str(path.resolve())][2] for path in files]


def hand_over(digests: Mapping[Path, str], memory: Path, also_at_ns: int) -> None:
    """Remember what another has digested; `also_at_ns` is the time of change that files may be given yet."""
    known = _remembered(memory)
    new: Remembered = {}
    for path, digest in digests.items():
        found = path.stat()
        if not _is_same(known.get(str(path.resolve())), found):
            new[str(path.resolve())] = (found.st_size, [found.st_mtime_ns, also_at_ns], digest)
    if new:
        _remember(known | new, memory)


def _is_same(one: tuple[int, list[int], str] | None, found: os.stat_result) -> bool:
    return one is not None and one[0] == found.st_size and found.st_mtime_ns in one[1]


def _remember(known: Remembered, memory: Path) -> None:
    memory.mkdir(parents=True, exist_ok=True)
    partial = memory / f".{_MEMORY}.{os.getpid()}.tmp"
    partial.write_text(json.dumps(known))
    partial.replace(memory / _MEMORY)


def _remembered(memory: Path | None) -> Remembered:
    if memory is None:
        return {}
    try:
        known = json.loads((memory / _MEMORY).read_text())
        return {
            str(path): (int(size), [int(time) for time in times], str(digest))
            for path, (size, times, digest) in known.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # nothing remembered, or damaged: files are hashed again
