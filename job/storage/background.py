"""Threads for work that nobody waits for yet; they die with the process, so that a stop waits for none."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Does jobs in up to `at_once` daemon threads, in the order in which they were given."""

    def __init__(self, name: str, at_once: int) -> None:
        self._name, self._at_once = name, at_once
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = self._busy = self._holds = 0

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Have a job done; the future has what it returns or raises."""
        future: Future[T] = Future()
        with self._lock:
            self._jobs.append((future, job))
            self._start()
        return future

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within: no job begins."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
                self._start()

    def _start(self) -> None:
        while (
            not self._holds and self._threads < self._at_once and self._threads - self._busy < len(self._jobs)
        ):
            self._threads += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._holds or not self._jobs:
                    self._threads -= 1
                    return
                self._busy += 1
                future, job = self._jobs.popleft()
            try:
                result = job()
            except BaseException as error:  # whoever asks for the result raises it
                future.set_exception(error)
            else:
                future.set_result(result)
            finally:
                with self._lock:
                    self._busy -= 1
