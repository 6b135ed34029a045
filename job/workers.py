"""Who does work on all cores: a few threads or, where the work is worth their start, processes.

numpy lets go of Python's lock while it computes, but takes it again after each of its short steps: four
threads that score masks do 2.7 to 3.7 times the work of one, sixteen no more than that (and as little as 1.9
times it). So large work on more cores than that goes to processes, which take a second to start.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from ctypes import c_byte
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from typing import Any, Protocol, TypeVar

from job.errors import TryAgain
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
    with _ending(ThreadPoolExecutor(n, "worker", start or (lambda: None)), task.fail) as pool:
        yield _Threads(pool, n, task)


@contextmanager
def processes(n: int) -> Iterator[Workers]:
    """Within: n processes, which end with this one however that ends, and before it when left early."""
    get_ready()
    context = multiprocessing.get_context("forkserver")
    # An Event has a lock, which a process that is killed would keep for ever.
    is_over = context.RawValue("b", 0)
    pool = ProcessPoolExecutor(n, context, _begin, (is_over,))
    # They start beside what the caller does first; each takes one of these tasks.
    starting = threading.Thread(target=_start_all, args=(pool, n), daemon=True)
    starting.start()

    def stop(error: BaseException) -> None:
        is_over.value = 1

    try:
        with _ending(pool, stop):
            yield _Processes(pool, n)
    finally:
        starting.join()


def get_ready() -> None:
    """Have what processes start from import what they need, beside other work: it takes seconds."""
    context = multiprocessing.get_context("forkserver")  # a fork of this one would share locks of its threads
    context.set_forkserver_preload([*PRELOADED, __name__])
    forkserver.ensure_running()


def _start_all(pool: ProcessPoolExecutor, n: int) -> None:
    with suppress(Exception):  # whoever has work for them is told
        for _ in range(n):
            pool.submit(int)


@contextmanager
def _ending(pool: Executor, stop: Callable[[BaseException], None]) -> Iterator[Any]:
    try:
        yield pool
    except BaseException as error:
        stop(error)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Threads:
    pool: ThreadPoolExecutor
    n: int
    task: Task
    copies: int = 1

    def submit(self, function: Callable[..., R], *arguments: Any) -> "Future[R]":
        # Context variables carry what the log is bound to; a new thread starts without them.
        return self.pool.submit(partial(copy_context().run, function, *arguments, self.task))


@dataclass(frozen=True)
class _Processes:
    pool: ProcessPoolExecutor
    n: int
    copies: int = COPIES

    def submit(self, function: Callable[..., R], *arguments: Any) -> "Future[R]":
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
"""In a process of workers: its one task."""


def _begin(is_over: c_byte) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all processes; this one is told by its parent
    _tasks.append(_OverTask(is_over))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _in_process(function: Callable[..., R], *arguments: Any) -> R:
    return function(*arguments, _tasks[0])
