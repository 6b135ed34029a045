"""Processes that bring pieces of objects where one interpreter lock would keep the processors idle."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from job.device import available_cpus
from job.storage import porter
from job.storage.s3_piece import Piece, Place
from job.storage.side_by_side import Jobs

if TYPE_CHECKING:
    from concurrent.futures import Future

    from obstore.store import S3Credential

MANY_CPUS = 4
CPUS_EACH, MOST = 4, 4
THREADS, MOST_THREADS = 32, 16
"""Of all together, and of one: as many as this process has threads of its own that carry, at least."""
WORTH_PIECES = 1_000
"""Fewer are here before a process is: it is their number that keeps an interpreter busy, not their bytes."""
BATCH_BYTES, BATCH_PIECES = 512 << 10, 16
"""Of what goes in one message: each costs as much as a small piece."""
BATCHES_AHEAD = 2
ANSWER_S = 300
"""One that has not answered for so long is given up: twice what a store's silence takes."""
_PIPE_BYTES = 1 << 16


@dataclass(frozen=True)
class Job:
    """A piece to bring, and what is to be done when it is there."""

    piece: Piece
    here: Callable[[Piece], str | None]
    """Brings it by this process; raises our errors."""
    finish: "Callable[[str | None], Future[str] | None]"
    """Is given its sha256, if that was asked for."""

    def __call__(self) -> "Future[str] | None":
        """Do it all."""
        return self.finish(self.here(self.piece))


def porters(place: Place, credentials: "Callable[[], S3Credential]", n_pieces: int) -> "list[Porter]":
    """Return as many as the work and the processors are worth; they start when they are asked to work."""
    cpus = available_cpus()
    if cpus < MANY_CPUS or n_pieces < WORTH_PIECES:
        return []
    n = min(MOST, cpus // CPUS_EACH)
    return [Porter(place, credentials, min(MOST_THREADS, THREADS // n)) for _ in range(n)]


class Porter:
    """One process. What it cannot do, this one does: it only makes things faster."""

    def __init__(
        self, place: Place, credentials: "Callable[[], S3Credential]", threads: int = MOST_THREADS
    ) -> None:
        self._place, self._credentials, self._threads = place, credentials, threads
        self._sent: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._has_answered, self._is_ready_to_hear = select.poll(), select.poll()
        self._is_over = False
        self._changing = Lock()

    def work(self, jobs: "Jobs[Job, Future[str] | None]") -> None:
        """Have jobs done until there are none; see `side_by_side.Helper`."""
        try:
            if self._has_started():
                with jobs.helping():
                    self._help(jobs)
        finally:
            self._end()

    def leave(self) -> None:
        """End the process at once; to be called by any thread, at any time."""
        with self._changing:
            self._is_over = True
            if self._process is not None:
                self._process.kill()

    def _help(self, jobs: "Jobs[Job, Future[str] | None]") -> None:
        waiting: dict[int, list[tuple[int, Job]]] = {}
        try:
            self._have_done(jobs, waiting)
        except _Lost:
            pass
        finally:
            self._end()  # before anybody else brings what it had begun
            left = [one for batch in waiting.values() for one in batch]
            for _, job in left:
                if job.piece.becomes is not None:
                    Path(job.piece.file).unlink(missing_ok=True)
            jobs.give_back(left)

    def _have_done(
        self, jobs: "Jobs[Job, Future[str] | None]", waiting: dict[int, list[tuple[int, Job]]]
    ) -> None:
        number = 0
        while True:
            while len(waiting) < self._threads + BATCHES_AHEAD and (batch := _batch(jobs)):
                waiting[number] = batch
                pieces = [list(vars(job.piece).values()) for _, job in batch]
                self._write({"number": number, "credentials": self._new_credentials(), "pieces": pieces})
                number += 1
            if not waiting:
                return
            answer = self._read()
            for (i, job), brought in zip(waiting.pop(answer["number"]), answer["brought"], strict=True):
                if brought is None:
                    jobs.give_back([(i, job)])
                else:
                    jobs.put(i, job.finish(brought["sha256"]))

    def _has_started(self) -> bool:
        with self._changing:
            if self._is_over or not sys.executable:
                return False
            # It is to find what this process found, and nothing else.
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))}
            try:
                self._process = subprocess.Popen(  # noqa: S603 (this program)
                    [sys.executable, "-P", "-m", porter.__name__],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                    bufsize=0, env=environment, process_group=0,
                )  # fmt: skip
            except OSError:  # no memory, no room for another process
                return False
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._is_ready_to_hear.register(self._process.stdin, select.POLLOUT)
        self._has_answered.register(self._process.stdout, select.POLLIN)
        try:
            self._write({"place": asdict(self._place), "threads": self._threads})
            self._read()
        except _Lost:
            return False
        return True

    def _end(self) -> None:
        self.leave()
        if self._process is not None:
            with suppress(OSError):  # what it could not be told any more
                self._process.__exit__(None, None, None)

    def _new_credentials(self) -> dict[str, Any]:
        """Return what is to be used from now on, nothing if that is known already."""
        try:
            found: dict[str, Any] = {**self._credentials()}
        except Exception as error:  # it is told by the client of this process
            raise _Lost from error
        del found["expires_at"]
        if found == self._sent:
            return {}
        self._sent = found
        return found

    # Both by hand, and waiting for so long at most: a process may be stopped, or stuck, and say nothing more.

    def _write(self, line: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        left = f"{json.dumps(line)}\n".encode()
        while left:
            if not self._is_ready_to_hear.poll(1000 * ANSWER_S):
                raise _Lost
            try:
                left = left[os.write(self._process.stdin.fileno(), left) :]
            except BlockingIOError:
                continue  # there is room, but not for as much
            except OSError as error:
                raise _Lost from error

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        while b"\n" not in self._heard:
            if not self._has_answered.poll(1000 * ANSWER_S):
                raise _Lost
            some = os.read(self._process.stdout.fileno(), _PIPE_BYTES)
            if not some:
                raise _Lost
            self._heard += some
        line, _, self._heard = self._heard.partition(b"\n")
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError as error:  # what is no answer
            raise _Lost from error
        return found


class _Lost(Exception):
    """The process is not there, or not any more."""


def _batch(jobs: "Jobs[Job, Future[str] | None]") -> list[tuple[int, Job]]:
    batch: list[tuple[int, Job]] = []
    n_bytes = 0
    while len(batch) < BATCH_PIECES and n_bytes < BATCH_BYTES and (some := jobs.take(1)):
        batch += some
        n_bytes += some[0][1].piece.end - some[0][1].piece.start
    return batch
