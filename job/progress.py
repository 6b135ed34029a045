"""Progress of long loops: how far, how fast, and the place where a stop request is noticed."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Protocol, TypeVar

T = TypeVar("T")


class Task(Protocol):
    """One running loop."""

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count `steps` done and show `figures`; raises `Interrupted` when a stop was requested."""


class Progress(Protocol):
    """Where loops report: a bar on a terminal, an event every so often in a log."""

    def task(self, what: str, total: int, unit: str) -> AbstractContextManager[Task]:
        """Open a task of `total` `unit`s named `what` (lower case, as it reads in a log)."""


def track(progress: Progress, what: str, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Yield `items`, advancing a task by one after each."""
    with progress.task(what, total, unit) as task:
        for item in items:
            yield item
            task.advance()


class SharedTask:
    """A task that threads advance in turn; once it has raised for one, it raises for all."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = Lock()
        self._raised: BaseException | None = None

    def advance(self, steps: int = 1, **figures: float) -> None:
        """See `Task`."""
        with self._lock:
            if self._raised is not None:
                raise self._raised
            try:
                self._task.advance(steps, **figures)
            except BaseException as error:
                self._raised = error
                raise

    def fail(self, error: BaseException) -> None:
        """Raise `error` whenever a thread looks from now on, unless there is one to raise already."""
        with self._lock:
            self._raised = self._raised or error


class _SilentTask:
    def advance(self, steps: int = 1, **figures: float) -> None:
        pass


SILENT_TASK: Task = _SilentTask()


class _SilentProgress:
    def task(self, what: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return nullcontext(SILENT_TASK)


SILENT: Progress = _SilentProgress()
