"""Many transfers side by side, and one thread that notes what comes of them and notices a stop."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from job.storage.store import Advance

J = TypeVar("J", bound=Callable[[], Any])
T = TypeVar("T")
R = TypeVar("R", covariant=True)

Take = Callable[[int], list[tuple[int, J]]]
"""Returns up to so many jobs that nobody has begun, with their numbers; none when there are no more."""
Put = Callable[[int, T], None]
"""Is given what came of a job."""

POLL_S = 0.5
REST_S = 0.01
"""Between looks at what has arrived, while there is more to come: to wake for each small object would take a
sixth of the time that it takes to bring it."""


class Helper(Protocol[J, R]):
    """Does jobs in another way than by calling them, and as many side by side as it likes.

    As soon as one has taken a job, the threads that call them take no more.
    """

    def work(self, take: Take[J], put: Put[R]) -> None:
        """Do jobs until there are none, or return before the first; raises as a job does."""

    def leave(self) -> None:
        """Have `work` return as soon as can be; called by another thread, perhaps before it has begun."""


def all_of(
    jobs: Sequence[tuple[int, J]],
    streams: int,
    advance: Advance,
    note: Put[T],
    helpers: Sequence[Helper[J, T]] = (),
) -> None:
    """Run jobs in so many threads; the first error, or a stop, cancels those that have not begun.

    This thread only waits, and notes what comes out: were it inside of obstore, no handler of a signal would
    run.
    """
    left = iter(jobs)
    ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
    may_begin, is_over, is_helped = threading.Event(), threading.Event(), threading.Event()

    def fail(error: BaseException) -> None:
        raise error

    def put(i: int, result: T) -> None:
        ended.put(partial(note, i, result))

    def take(n: int) -> list[tuple[int, J]]:
        return [] if is_over.is_set() else list(islice(left, n))

    def take_to_help(n: int) -> list[tuple[int, J]]:
        is_helped.set()
        return take(n)

    def work() -> None:
        # No future for each, which takes as long as to bring a small object.
        while not is_helped.is_set() and (some := take(1)):
            ((i, job),) = some
            put(i, job())

    def begin(how: Callable[[], None]) -> None:
        may_begin.wait()
        try:
            how()
        except BaseException as error:
            ended.put(partial(fail, error))

    ways = [work] * min(streams, len(jobs)) + [partial(one.work, take_to_help, put) for one in helpers]
    threads = [
        threading.Thread(target=begin, args=(way,), name=f"transfer-{number}")
        for number, way in enumerate(ways)
    ]
    try:
        for thread in threads:
            thread.start()
        may_begin.set()  # one that works would keep this one waiting at each start
        n_left = len(jobs)
        while n_left:
            try:
                tell = ended.get(timeout=POLL_S)
            except Empty:
                advance(0)  # a stop is noticed while a store is silent
                continue
            tell()
            n_left -= 1
            if n_left > streams and ended.empty():
                time.sleep(REST_S)
    finally:
        is_over.set()
        may_begin.set()
        for one in helpers:
            one.leave()
        for thread in threads:
            if thread.ident is not None:  # one that could not be started ends the others
                thread.join()
