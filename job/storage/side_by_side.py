"""Many transfers side by side, and one thread that notes what comes of them and notices a stop."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from job.storage.store import Advance

J = TypeVar("J", bound=Callable[[], Any])
T = TypeVar("T")

POLL_S = 0.5
REST_S = 0.01
"""Between looks at what has arrived, while there is more to come: to wake for each small object would take a
sixth of the time that it takes to bring it."""


class Jobs(Generic[J, T]):
    """What is to be done, with a number each, and what came of it; for several threads."""

    def __init__(self, jobs: Iterable[tuple[int, J]]) -> None:
        self._left = iter(jobs)
        self._returned: deque[tuple[int, J]] = deque()
        self._ended: SimpleQueue[Callable[[Callable[[int, T], None]], None]] = SimpleQueue()
        self._changed = threading.Condition()
        self._n_helping = 0
        self._is_over = False

    @contextmanager
    def helping(self) -> Iterator[None]:
        """Within: no thread begins a job by calling it, but for those that were given back."""
        with self._changed:
            self._n_helping += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_helping -= 1
                self._changed.notify_all()

    def take(self, n: int) -> list[tuple[int, J]]:
        """Return up to n jobs that nobody has begun, to who is `helping`; none when there are no more."""
        with self._changed:
            return [] if self._is_over else list(islice(self._left, n))

    def give_back(self, jobs: Iterable[tuple[int, J]]) -> None:
        """Have jobs called that were taken, and not done."""
        with self._changed:
            self._returned.extend(jobs)
            self._changed.notify_all()

    def put(self, i: int, result: T) -> None:
        """Tell what came of a job."""
        self._ended.put(lambda note: note(i, result))

    def fail(self, error: BaseException) -> None:
        """Have the error raised where everything was begun."""

        def tell(note: Callable[[int, T], None]) -> None:
            raise error

        self._ended.put(tell)

    def call(self) -> None:
        """Call one job after the other, while there are some."""
        # No future for each, which takes as long as to bring a small object.
        while (one := self._next()) is not None:
            i, job = one
            self.put(i, job())

    def tell(self, note: Callable[[int, T], None]) -> None:
        """Tell `note` what came of one job; raises `Empty` when none has ended for a while."""
        self._ended.get(timeout=POLL_S)(note)

    def is_quiet(self) -> bool:
        """Return whether nothing waits to be told."""
        return self._ended.empty()

    def end(self) -> None:
        """Let no job begin any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _next(self) -> tuple[int, J] | None:
        with self._changed:
            while not self._is_over:
                if self._returned:
                    return self._returned.popleft()
                if not self._n_helping:
                    return next(self._left, None)
                self._changed.wait()
            return None


class Helper(Protocol[J, T]):
    """Does jobs in another way than by calling them, and as many side by side as it likes."""

    def work(self, jobs: Jobs[J, T]) -> None:
        """Do jobs until there are none, or give them back; raises as a job does."""

    def leave(self) -> None:
        """Have `work` return as soon as can be; called by another thread, perhaps before it has begun."""


def all_of(
    jobs: Sequence[tuple[int, J]],
    streams: int,
    advance: Advance,
    note: Callable[[int, T], None],
    helpers: Sequence[Helper[J, T]] = (),
) -> None:
    """Run jobs in so many threads; the first error, or a stop, cancels those that have not begun.

    This thread only waits, and notes what comes out: were it inside of obstore, no handler of a signal would
    run.
    """
    shared: Jobs[J, T] = Jobs(jobs)
    may_begin = threading.Event()

    def begin(way: Callable[[], None]) -> None:
        may_begin.wait()
        try:
            way()
        except BaseException as error:
            shared.fail(error)

    ways = [shared.call] * min(streams, len(jobs)) + [partial(one.work, shared) for one in helpers]
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
                shared.tell(note)
            except Empty:
                advance(0)  # a stop is noticed while a store is silent
                continue
            n_left -= 1
            if n_left > streams and shared.is_quiet():
                time.sleep(REST_S)
    finally:
        shared.end()
        may_begin.set()
        for one in helpers:
            one.leave()
        for thread in threads:
            if thread.ident is not None:  # one that could not be started ends the others
                thread.join()
