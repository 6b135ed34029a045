"""Many small files on their way to the disk, while others are still on their way to this machine."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from job.storage.local import settle, write_beside

AT_ONCE = 16
"""Many: what one of them waits for, the disk's journal, the others get with it."""
MOST_WAITING = 256
"""Files that wait for a slow disk: a stop waits for no more of them."""


class Flushing:
    """Writes files as `write_atomic` does, but returns before they are flushed and in their places.

    Whoever reads from a network need not wait for the disk. At the end of the block all files are in their
    places, those too that came before an error.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="flush")
        self._room = threading.Semaphore(MOST_WAITING)
        self._failures: list[BaseException] = []

    def __enter__(self) -> "Flushing":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self._require_none_failed()

    def write(self, path: Path, data: bytes) -> None:
        """Write a file; raises what befell it, or one before it. May be called from several threads."""
        self._require_none_failed()
        written = write_beside(path, data)
        self._room.acquire()
        self._pool.submit(settle, written, path).add_done_callback(self._note)

    def _note(self, done: Future[None]) -> None:
        failure = done.exception()
        if failure is not None:
            self._failures.append(failure)
        self._room.release()

    def _require_none_failed(self) -> None:
        if self._failures:
            raise self._failures[0]
