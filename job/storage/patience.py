"""Waiting for a store that fails in spite of a client's own retries, where giving up would cost more."""

import time
from collections.abc import Callable
from typing import TypeVar

from job.errors import StoreFailure
from job.logs import Log, raise_if_stopped

PATIENCE_S = 120.0
"""From the first failure. Who holds a lease is told to stop before: it cannot be renewed either."""
PAUSE_S = 5.0
_LOOK_S = 0.1

T = TypeVar("T")


def patiently(what: str, do: Callable[[], T], log: Log) -> T:
    """Return what `do` returns, doing it again while the store fails, each failure told as `what`.

    Raises the store's failure when patience is at its end, and what `raise_if_stopped` raises before that.
    """
    started: float | None = None
    while True:
        try:
            return do()
        except StoreFailure as error:
            started = started or time.monotonic()
            if time.monotonic() - started > PATIENCE_S:
                raise
            log.warning("store.retrying", what=what, message=str(error))
        ends_at = time.monotonic() + PAUSE_S
        while time.monotonic() < ends_at:
            raise_if_stopped()
            time.sleep(_LOOK_S)
