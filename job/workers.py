"""Who does work on all cores: a few threads or, where the work is worth their start, processes.

numpy lets go of Python's lock while it computes, but takes it again after each of its short steps: four
threads that score masks do 2.7 to 3.7 times the work of one, sixteen no more than that (and as little as 1.9
times it). So large work on more cores than that goes to processes, which take a second to start.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from ctypes import c_byte
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from typing import Any, Protocol, TypeVar

from job.errors import TryAgain
from job.memory import require_room_for_a_thread
from job.progress import SharedTask, Task

R = TypeVar("R")

MOST_THREADS = 4
COPIES = 3
"""Of what a process is given: here until it is done, on its way, and there."""
PRELOADED = (
    "job.table_making",
    "job.data.synthetic",
    "job.data.inspection",
    "job.reward.gathering",
    "job.evaluation.image_measures",
)
"""What a process of workers has imported before it is asked."""


_END_WITHIN_S = 0.5


class Workers(Protocol):
    """Takes on functions, whose last argument is a task to look at for a stop request."""

    @property
    def n(self) -> int:
        """How many work at once."""

    @property
    def copies(self) -> int:
        """How often what they are given lies in memory."""

    def submit(self, function: Callable[..., R], *arguments: Any) -> "Future[R]":
        """Have `function(*arguments, task)` called; processes take what can be pickled alone."""


def many(n: int, task: SharedTask, *, is_large: bool) -> AbstractContextManager[Workers]:
    """Return n processes where there are cores for them and the work `is_large`, else up to n threads."""
    return processes(n) if is_large and n > MOST_THREADS else threads(n, task)


@contextmanager
def threads(n: int, task: SharedTask, start: Callable[[], None] | None = None) -> Iterator[Workers]:
    """Within: up to `MOST_THREADS` threads, each beginning with `start`.

    Left early, `task` makes those that look at it end, which are waited for: no thread is left behind.
    """
    n = min(n, MOST_THREADS)
    pool = ThreadPoolExecutor(n, "worker", start or (lambda: None))
    try:
        yield _Threads(pool, n, task)
    except BaseException as error:
        task.fail(error)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def processes(n: int) -> Iterator[Workers]:
    """Within: n processes, which end with this one however that ends, and before it when left early.

    Who has not ended by itself half a second after the work is over is ended: the pool may wait for one that
    it lost sight of while it started others.
    """
    get_ready()
    require_room_for_a_thread()
    context = multiprocessing.get_context("forkserver")
    # An Event has a lock, which a process that is killed would keep for ever.
    is_over, are_started = context.RawValue("b", 0), context.RawValue("b", 0)
    pool = ProcessPoolExecutor(n, context, _begin, (is_over, are_started))
    starting = threading.Thread(target=_start_all, args=(pool, n, are_started), daemon=True)
    starting.start()  # beside what the caller does first
    try:
        yield _Processes(pool, n)
    finally:
        is_over.value = 1
        starting.join()
        pool.shutdown(cancel_futures=True)


def get_ready() -> None:
    """Have what processes start from import what they need, beside other work: it takes seconds."""
    context = multiprocessing.get_context("forkserver")  # a fork of this one would share locks of its threads
    context.set_forkserver_preload([*PRELOADED, __name__])
    # A Ctrl-C goes to all processes of a terminal, also to those that are not yet ready to ignore it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_all(pool: ProcessPoolExecutor, n: int, are_started: c_byte) -> None:
    with suppress(Exception):  # whoever has work for them is told
        for _ in range(n):
            # The pool starts no process while one is idle: so none is until all are there.
            pool.submit(_in_process, _wait_until_all_are_started)
    are_started.value = 1


@dataclass(frozen=True)
class _Threads:
    pool: ThreadPoolExecutor
    n: int
    task: Task
    copies: int = 1

    def submit(self, function: Callable[..., R], *arguments: Any) -> "Future[R]":
        require_room_for_a_thread()
        # Context variables carry what the log is bound to; a new thread starts without them.
        return self.pool.submit(partial(copy_context().run, function, *arguments, self.task))


@dataclass(frozen=True)
class _Processes:
    pool: ProcessPoolExecutor
    n: int
    copies: int = COPIES

    def submit(self, function: Callable[..., R], *arguments: Any) -> "Future[R]":
        require_room_for_a_thread()
        try:
            future = self.pool.submit(_in_process, function, *arguments)
            # The pool looks whom to watch before it starts a process for a task, not after: another task
            # makes it look again. Who is killed unwatched would be waited for without end.
            self.pool.submit(int)
        except BrokenProcessPool as error:
            raise worker_lost() from error
        return future


def worker_lost() -> TryAgain:
    """Return the error of a process that was ended by somebody else: by the kernel, for want of memory."""
    return TryAgain(
        "a process that worked for the job was ended from outside, perhaps because memory was short",
        advice="give the job more memory (of a Pod: resources.limits.memory) or lower runtime.threads; the"
        " same command goes on from here",
    )


class _OverTask:
    """A task in a process: it counts nothing, and raises when the work is over."""

    def __init__(self, is_over: c_byte) -> None:
        self._is_over = is_over

    def advance(self, steps: int = 1, **figures: float) -> None:
        if self._is_over.value:
            raise InterruptedError("the work is over")


_tasks: list[_OverTask] = []
_are_started: list[c_byte] = []
"""In a process of workers: its one task, and whether the others are there too."""


def _wait_until_all_are_started(task: Task) -> None:
    while not _are_started[0].value:
        task.advance(0)
        time.sleep(0.01)


def _begin(is_over: c_byte, are_started: c_byte) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all processes; this one is told by its parent
    _tasks.append(_OverTask(is_over))
    _are_started.append(are_started)
    threading.Thread(target=_end_with_parent, args=(is_over,), daemon=True).start()


def _end_with_parent(is_over: c_byte) -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        was_over = is_over.value
        parent.join(_END_WITHIN_S)
        if was_over:
            break
    os._exit(1)


def _in_process(function: Callable[..., R], *arguments: Any) -> R:
    return function(*arguments, _tasks[0])
