"""Results in the order in which work was begun, with a bound on what is held in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from job import workers
from job.memory import available_memory
from job.progress import SharedTask, Task

R = TypeVar("R")
T = TypeVar("T")

_LOOK_EVERY_S = 0.2
_MOST_BYTES, _SHARE_OF_FREE_MEMORY = 2**32, 3
_AHEAD = 4
"""Of small work so much a worker is begun, and no more: what is done waits for what came before it."""


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


def then(first: "Future[T]", following: "Callable[[T], Future[R]]") -> "Future[R]":
    """Return the future of the work that `following` begins with what `first` gives, once it is there.

    It is begun by whoever makes `first` be done: here and now, where it is. Errors of both are the future's.
    """
    result: Future[R] = Future()

    def pass_on(done: "Future[R]") -> None:
        try:
            result.set_result(done.result())
        except BaseException as error:  # a cancelled future's, too
            result.set_exception(error)

    def begin(done: "Future[T]") -> None:
        try:
            following(done.result()).add_done_callback(pass_on)
        except BaseException as error:
            result.set_exception(error)

    first.add_done_callback(begin)
    return result


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
            raise workers.worker_lost() from error

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


def bytes_at_once() -> int:
    """Return how much of the memory that is free work may hold that is done side by side."""
    free = available_memory()
    return _MOST_BYTES if free is None else max(1, min(_MOST_BYTES, free // _SHARE_OF_FREE_MEMORY))


def each(
    function: Callable[..., R],
    items: Iterable[tuple[Any, ...]],
    *,
    n_bytes: Callable[..., int],
    threads: int,
    is_large: bool,
    task: Task,
) -> Generator[R, None, None]:
    """Yield `function(*item, task)` of each item in order, worked on by `threads` cores.

    In processes where the work `is_large`, see `workers.many`. An item takes `n_bytes(*item)` meanwhile: no
    more are begun than a third of the free memory holds, one in any case. `task` is advanced by one after
    each. The caller closes it.
    """
    shared = SharedTask(task)
    most = bytes_at_once()
    with workers.many(threads, shared, is_large=is_large) as some:
        least = most // (_AHEAD * some.n)
        begun = (Begun(some.submit(function, *item), max(least, n_bytes(*item))) for item in items)
        with closing(in_order(begun, most=most, look=lambda: shared.advance(0))) as found:
            for one in found:
                yield one
                shared.advance()
