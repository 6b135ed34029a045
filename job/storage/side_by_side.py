"""Many transfers side by side, and one thread that notes what comes of them and notices a stop."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from job.storage.store import Advance

T = TypeVar("T")

POLL_S = 0.5
REST_S = 0.01
"""Between looks at what has arrived, while there is more to come: to wake for each small object would take a
sixth of the time that it takes to bring it."""


def all_of(
    jobs: Sequence[tuple[int, Callable[[], T]]],
    streams: int,
    advance: Advance,
    note: Callable[[int, T], None],
) -> None:
    """Run jobs in so many threads; the first error, or a stop, cancels those that have not begun.

    This thread only waits, and notes what comes out: were it inside of obstore, no handler of a signal would
    run.
    """
    left = iter(jobs)
    ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
    is_over = threading.Event()

    def fail(error: BaseException) -> None:
        raise error

    def work() -> None:
        # No future for each, which takes as long as to bring a small object.
        for i, job in left:
            if is_over.is_set():
                return
            try:
                ended.put(partial(note, i, job()))
            except BaseException as error:
                ended.put(partial(fail, error))
                return

    threads = [
        threading.Thread(target=work, name=f"transfer-{number}") for number in range(min(streams, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    try:
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
        for thread in threads:
            thread.join()
