"""How much memory there is for a process: of the machine, of its container, and what it was allowed."""

import mmap
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BYTES_OF_A_THREAD = 32 * 2**20
"""Its stack, of 8 MB as a rule, and what its first steps may take."""


@dataclass(frozen=True)
class Memory:
    """Bytes in all and free, within the narrowest limit; `limit` says whose that is."""

    total: int
    free: int
    limit: str


def memory(root: Path = Path("/")) -> Memory:
    """Return what this process may use: the machine's memory, or less where a container or a ulimit says so.

    What the kernel could drop (files that were read) counts as free. `root` is where /proc and /sys are.
    """
    total, free = _of_the_machine(root)
    limit = "of the machine"
    for of_group, used in _of_groups(root):
        if of_group < total:
            total, limit = of_group, "of the container's limit"
        free = min(free, max(0, of_group - used))
    addresses = _address_space(root)
    if addresses is not None and addresses[1] < free:
        total, free, limit = *addresses, "of the limit on its address space (ulimit -v)"
    return Memory(total, free, limit)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return how many more bytes this process may use, None where nobody says."""
    try:
        return memory(root).free
    except (OSError, KeyError, ValueError):
        return None


def require_room_for_a_thread() -> None:
    """Raise MemoryError where a new thread may get its stack but not the memory to begin with.

    Python would wait for ever for its first sign.
    """
    try:
        mmap.mmap(-1, _BYTES_OF_A_THREAD).close()  # never touched
    except OSError as error:
        raise MemoryError("there is no memory for another thread") from error


def _of_the_machine(root: Path) -> tuple[int, int]:
    lines = (_text(root / "proc/meminfo") or "").splitlines()
    sizes = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    total, available = (int(sizes[name][0]) << 10 for name in ("MemTotal", "MemAvailable"))
    return total, available


def _of_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of every control group around this process that has a limit (version 2, then 1).

    Files that were read and could be dropped count as used by the kernel's figure, not by this one.
    """
    groups = (_text(root / "proc/self/cgroup") or "0::/").splitlines()
    for _, controllers, path in (line.split(":", 2) for line in groups):
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = mount / path.lstrip("/")
        for folder in (inner, *(parent for parent in inner.parents if parent.is_relative_to(mount))):
            limit, used = _text(folder / names[0]), _text(folder / names[1])
            if limit and used and limit.isdigit():
                yield int(limit), int(used) - _statistic(folder / "memory.stat", names[2])


def _address_space(root: Path) -> tuple[int, int] | None:
    """Return the limit on this process's addresses and what is left of it, None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    words = (_text(root / "proc/self/statm") or "").split()
    if limit == resource.RLIM_INFINITY or not words:
        return None
    return limit, max(0, limit - int(words[0]) * os.sysconf("SC_PAGE_SIZE"))


def _statistic(path: Path, name: str) -> int:
    lines = (line.split() for line in (_text(path) or "").splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [name]), 0)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
