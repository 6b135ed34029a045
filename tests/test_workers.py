"""Threads and processes that work: what they are told, how they end, what ends with them."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from job import workers
from job.errors import TryAgain
from job.in_order import Begun, in_order
from job.progress import SILENT_TASK, SharedTask, Task

PATIENCE_S = 120
STUMBLES = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""The pool's own thread may: while it gives up it goes through processes to which others are added. By then
it has told everybody."""
PARENT = """
import sys, time
from job import workers
from tests.test_workers import name, wait

if __name__ == "__main__":
    with workers.processes(2) as some:
        first = some.submit(wait, sys.argv[1] + "/0")
        second = some.submit(wait, sys.argv[1] + "/1")
        first.result()
"""


class Enough(Exception):
    """Why a test leaves."""


def square(x: int, task: Task) -> int:
    """Work a little."""
    task.advance(0)
    return x * x


def name(task: Task) -> int:
    """Tell who works."""
    return os.getpid()


def fails(task: Task) -> None:
    """Fail."""
    raise ValueError("no such mask")


def wait(path: str, task: Task) -> None:
    """Leave a file that names the process, then look until told to end."""
    unfinished = Path(path + ".tmp")
    unfinished.write_text(str(os.getpid()))
    unfinished.replace(path)
    while True:
        task.advance(0)


def until(is_so: Callable[[], bool]) -> None:
    """Poll with a deadline."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not fetched does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_threads_see_the_caller_s_context_begin_as_told_and_are_few() -> None:
    """What the log is bound to is there in every thread."""
    bound: ContextVar[str] = ContextVar("bound", default="nothing")
    bound.set("run 7")
    started: set[threading.Thread] = set()

    def start() -> None:
        started.add(threading.current_thread())

    with workers.threads(99, SharedTask(SILENT_TASK), start) as some:
        assert some.n == workers.MOST_THREADS
        found = [some.submit(lambda task: (bound.get(), threading.current_thread())) for _ in range(50)]
        assert {one.result()[0] for one in found} == {"run 7"}
        assert {one.result()[1] for one in found} <= started
    assert 0 < len(started) <= workers.MOST_THREADS
    assert not any(thread.is_alive() for thread in started)


def test_no_thread_is_begun_where_it_may_lack_the_memory_to_begin() -> None:
    """Python waits for ever for one that gets its stack and nothing more."""
    with workers.threads(1, SharedTask(SILENT_TASK)) as some:
        assert some.submit(square, 3).result(PATIENCE_S) == 9
        limits = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 8 * 2**20, limits[1]))
        try:
            with pytest.raises(MemoryError, match="no memory for another thread"):
                some.submit(square, 4)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        assert some.submit(square, 5).result(PATIENCE_S) == 25


def test_threads_that_are_left_early_end_at_their_next_look(tmp_path: Path) -> None:
    """Those that wait for their turn never begin."""
    task = SharedTask(SILENT_TASK)
    with suppress(Enough), workers.threads(1, task) as some:
        running = some.submit(wait, str(tmp_path / "running"))
        never = some.submit(wait, str(tmp_path / "never"))
        until((tmp_path / "running").exists)
        raise Enough
    assert isinstance(running.exception(), Enough)
    assert never.cancelled()
    assert not (tmp_path / "never").exists()


def test_processes_work_for_their_parent_and_end_with_the_work() -> None:
    """Their results come in order, their errors are raised; none is left, and they ignore a Ctrl-C."""
    with workers.processes(2) as some:
        pid = some.submit(name).result(PATIENCE_S)
        assert pid != os.getpid()
        os.kill(pid, signal.SIGINT)
        begun = (Begun(some.submit(square, i), 1) for i in range(20))
        assert list(in_order(begun, most=5)) == [i * i for i in range(20)]
        with pytest.raises(ValueError, match="no such mask"):
            some.submit(fails).result(PATIENCE_S)
    until(lambda: not is_alive(pid))


def test_processes_start_beside_what_the_caller_does_first() -> None:
    """They are there before work comes, and gone when none does."""
    with workers.processes(3):
        until(lambda: len(multiprocessing.active_children()) == 3)
    assert not multiprocessing.active_children()


def test_processes_that_are_left_early_end_at_their_next_look(tmp_path: Path) -> None:
    """They are waited for."""
    with suppress(Enough), workers.processes(1) as some:
        some.submit(wait, str(tmp_path / "running"))
        until((tmp_path / "running").exists)
        raise Enough
    assert not is_alive(int((tmp_path / "running").read_text()))


@STUMBLES
@pytest.mark.parametrize("killed", ["0", "1"])
def test_a_process_that_is_killed_is_an_error_and_no_hang(
    tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does when memory is short: the job can be tried again.

    On a busy machine a process takes a while to start; the pool watched none that was still to come.
    """
    start = BaseProcess.start

    def start_late(process: BaseProcess) -> None:
        time.sleep(0.05)
        start(process)

    monkeypatch.setattr(BaseProcess, "start", start_late)

    def look() -> None:
        if all((tmp_path / name).exists() for name in ("0", "1")):
            os.kill(int((tmp_path / killed).read_text()), signal.SIGKILL)
            (tmp_path / killed).unlink()

    def work() -> None:
        with workers.processes(2) as some:
            begun = (Begun(some.submit(wait, str(tmp_path / str(i))), 1) for i in range(2))
            list(in_order(begun, most=9, look=look))

    with pytest.raises(TryAgain, match="ended from outside"):
        work()


@STUMBLES
@pytest.mark.parametrize("killed_at", [2, 3, 6, 9])
def test_a_process_that_is_killed_while_others_start_is_an_error_and_no_hang(
    monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """The pool lost sight of those that it started while it gave up."""
    start, started = BaseProcess.start, []

    def start_and_kill(process: BaseProcess) -> None:
        start(process)
        started.append(process.pid)
        if len(started) == killed_at:
            os.kill(started[0], signal.SIGKILL)

    monkeypatch.setattr(BaseProcess, "start", start_and_kill)

    def work() -> None:
        with workers.processes(12) as some:
            until(lambda: len(started) >= killed_at)
            begun = (Begun(some.submit(square, i), 1) for i in range(10_000))
            list(in_order(begun, most=99))

    with pytest.raises(TryAgain, match="ended from outside"):
        work()
    until(lambda: not any(map(is_alive, started)))


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_its_parent(tmp_path: Path, blow: signal.Signals) -> None:
    """Not even one that was killed and could tell nobody."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    finally:
        parent.send_signal(blow)
        parent.wait(PATIENCE_S)
    pids = [int((tmp_path / str(i)).read_text()) for i in range(2)]
    until(lambda: not any(map(is_alive, pids)))
