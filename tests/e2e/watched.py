"""A job under way, watched from outside: its processes, their arguments, and the ports they listen on."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.child import PATIENCE_S, ROOT, Finished

LOOK_EVERY_S = 0.1
LISTENING = "0A"
"""Of /proc/net/tcp: the state of a socket that waits for connections."""


@dataclass
class Watched:
    """What was seen of a job and of the processes that it started."""

    finished: Finished
    arguments: set[bytes] = field(default_factory=set)
    """The command lines of the processes that the job started, not of itself."""
    ports: set[str] = field(default_factory=set)
    """Addresses that any of them listened on."""
    looks: int = 0


def watch(
    *arguments: str, cwd: Path, environment: Mapping[str, str], umask: int = -1, before: Sequence[str] = ()
) -> Watched:
    """Run `python -m job ARGUMENTS` (after the words `before`) to its end and look at it all the while."""
    command = [*before, sys.executable, "-m", "job", *arguments]
    full = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    seen = Watched(Finished(-1, "", ""))
    out, err = cwd / "stdout", cwd / "stderr"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=cwd, env=full, stdout=stdout, stderr=stderr, umask=umask)
        deadline = time.monotonic() + PATIENCE_S
        try:
            while process.poll() is None:
                _look(process.pid, seen)
                try:
                    process.wait(LOOK_EVERY_S)
                except subprocess.TimeoutExpired:
                    assert time.monotonic() < deadline, err.read_text()
        finally:
            process.kill()
            process.wait()
    seen.finished = Finished(process.returncode, out.read_text(), err.read_text())
    return seen


def _look(pid: int, seen: Watched) -> None:
    seen.looks += 1
    for one in _family(pid):
        try:
            if one != pid:
                seen.arguments.add(Path(f"/proc/{one}/cmdline").read_bytes())
            seen.ports |= set(_listening(one))
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue


def _family(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _listening(pid: int) -> Iterator[str]:
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTENING and f"socket:[{columns[9]}]" in sockets:
                yield columns[1]
