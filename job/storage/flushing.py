"""Files that are flushed to the disk while whoever brought them goes on with his work."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

AT_ONCE = 16
"""Many: what one of them waits for, the disk's journal, the others get with it."""


class Flushing:
    """Does `flush` to files in the background, each once.

    Its threads die with the process: nobody may trust a file that was not flushed, and nobody waits for a
    slow disk after a stop.
    """

    def __init__(self, flush: Callable[[Path], None]) -> None:
        self._flush = flush
        self._files: SimpleQueue[Path] = SimpleQueue()
        self._changed = threading.Condition()
        self._waiting = self._threads = 0
        self._failure: BaseException | None = None

    def add(self, files: Iterable[Path]) -> None:
        """Have files flushed; those that are gone when it is their turn need not be."""
        for file in files:
            with self._changed:
                self._waiting += 1
                is_more_work = self._threads < min(AT_ONCE, self._waiting)
                self._threads += is_more_work
            self._files.put(file)
            if is_more_work:
                threading.Thread(target=self._work, name="flush", daemon=True).start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is flushed; returns False when it takes longer. Raises what befell a file."""
        with self._changed:
            is_done = self._changed.wait_for(lambda: not self._waiting, timeout_s)
            if self._failure is not None:
                raise self._failure
        return is_done

    def _work(self) -> None:
        while True:
            file = self._files.get()
            failure: BaseException | None = None
            try:
                self._flush(file)
            except FileNotFoundError:
                pass  # another process made room
            except BaseException as error:  # whoever waits raises it
                failure = error
            with self._changed:
                self._waiting -= 1
                self._failure = self._failure or failure
                self._changed.notify_all()
