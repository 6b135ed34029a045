"""Work on several threads at once whose results come in order, with a bound on what is held in memory.

The numerical libraries let go of Python's lock while they compute, so that threads use all cores; unlike
processes they start at once, share arrays, see a stop request and end with the program, however it ends.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[R]):
    """Something to do, and what it holds in memory until its result is taken, in any unit."""

    do: Callable[[], R]
    weight: int


def in_order(
    jobs: Generator[Job[R], None, None],
    *,
    threads: int,
    most: int,
    stop: Callable[[BaseException], None] = lambda error: None,
    start: Callable[[], None] | None = None,
) -> Generator[R, None, None]:
    """Yield the results of `jobs` in their order; the next jobs are asked for in the caller's own thread.

    A job is asked for only when those before it, but for the results already taken, weigh no more than `most`
    with one like the last; so a job that weighs more than half of `most` goes alone. Each thread begins with
    `start`. Raises what a job raised when its turn comes. Whenever it ends early, `stop` is told why, which
    should make running jobs end soon: they are waited for, so that no thread is left behind. The caller
    closes it (`contextlib.closing`), and it closes `jobs`.
    """
    waiting: deque[tuple[int, Future[R]]] = deque()

    def taken() -> R:
        return waiting.popleft()[1].result()

    with closing(jobs), ThreadPoolExecutor(threads, "in order", start or (lambda: None)) as pool:
        try:
            last = 0
            while True:
                while waiting and (waiting[0][1].done() or _weight(waiting) + last > most):
                    yield taken()
                job = next(jobs, None)
                if job is None:
                    break
                last = job.weight
                # Context variables carry what the log is bound to; a new thread starts without them.
                waiting.append((last, pool.submit(copy_context().run, job.do)))
            while waiting:
                yield taken()
        except BaseException as error:
            stop(error)
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _weight(waiting: deque[tuple[int, Future[R]]]) -> int:
    return sum(weight for weight, _ in waiting)
