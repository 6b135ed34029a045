"""A Progress that asks to stop at the n-th time that a loop looks, whether it counts a step then or not."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from job.errors import Interrupted
from job.progress import Task


class Questions:
    """Counts how often loops look for a stop."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.asked = 0
        self._stop_at = stop_at

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator[Task]:
        """Follow every task."""
        yield self

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count the question."""
        self.asked += 1
        if self.asked >= self._stop_at:
            raise Interrupted("stop requested")
