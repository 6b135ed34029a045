"""Results in the order in which work was begun, with a bound on what is held in memory."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

from job.workers import worker_lost

R = TypeVar("R")

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Begun(Generic[R]):
    """Work that was begun, and what it holds in memory until its result is taken, in any unit."""

    future: "Future[R]"
    weight: int


def nothing_to_do(result: R) -> Begun[R]:
    """Return a result that is there already and weighs nothing."""
    future: Future[R] = Future()
    future.set_result(result)
    return Begun(future, 0)


def in_order(
    work: Generator[Begun[R], None, None], *, most: int, look: Callable[[], None] = lambda: None
) -> Generator[R, None, None]:
    """Yield the results of `work` in its order, which is begun as it is asked for: in the caller's thread.

    More is asked for only when what was begun, but for the results already taken, weighs no more than `most`
    with one like the last; so what weighs more than half of `most` goes alone. Whoever waits for a result
    looks at `look`, which may raise. Raises what the work raised when its turn comes, and `TryAgain` when a
    process was ended from outside. The caller closes it (`contextlib.closing`), and it closes `work`.
    """
    waiting: deque[Begun[R]] = deque()

    def taken() -> R:
        future = waiting.popleft().future
        while not wait([future], _LOOK_EVERY_S).done:
            look()
        try:
            return future.result()
        except BrokenProcessPool as error:
            look()  # who asks for a stop may ask all processes
            raise worker_lost() from error

    with closing(work):
        last = 0
        while True:
            while waiting and (waiting[0].future.done() or sum(one.weight for one in waiting) + last > most):
                yield taken()
            begun = next(work, None)
            if begun is None:
                break
            last = begun.weight
            waiting.append(begun)
        while waiting:
            yield taken()
