"""Files that are flushed to the disk while whoever brought them goes on with his work."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from job.storage.background import Background

AT_ONCE = 16
"""Many: what one of them waits for, the disk's journal, the others get with it."""


class Flushing:
    """Does `flush` to files in the background, each once.

    Nobody may trust a file that was not flushed, and nobody waits for a slow disk after a stop.
    """

    def __init__(self, flush: Callable[[Path], None]) -> None:
        self._flush = flush
        self._background = Background("flush", AT_ONCE)
        self._changed = threading.Condition()
        self._waiting = 0
        self._failure: BaseException | None = None

    def add(self, files: Iterable[Path]) -> None:
        """Have files flushed; those that are gone when it is their turn need not be."""
        for file in files:
            with self._changed:
                self._waiting += 1
            self._background.submit(lambda file=file: self._flushed(file)).add_done_callback(self._note)  # type: ignore[misc]

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is flushed; returns False when it takes longer. Raises what befell a file."""
        with self._changed:
            is_done = self._changed.wait_for(lambda: not self._waiting, timeout_s)
            if self._failure is not None:
                raise self._failure
        return is_done

    def _flushed(self, file: Path) -> None:
        with suppress(FileNotFoundError):  # another process made room
            self._flush(file)

    def _note(self, ended: "Future[None]") -> None:
        with self._changed:
            self._waiting -= 1
            self._failure = self._failure or ended.exception()
            self._changed.notify_all()
