"""Progress of long loops: how far, how fast, and the place where a stop request is noticed."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
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


class _SilentTask:
    def advance(self, steps: int = 1, **figures: float) -> None:
        pass


class _SilentProgress:
    def task(self, what: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())


SILENT: Progress = _SilentProgress()
