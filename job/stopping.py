"""The stop request: SIGTERM or SIGINT sets a flag that long loops poll through `job.progress`.

Imports nothing slow, so that `__main__` can install the handler before the imports that are: process 1 of a
container ignores a signal that it has no handler for.
"""

import os
import signal
import threading
from types import FrameType

_EXIT_INTERRUPTED = 75
_GRACE_S = 24.0
"""A Pod is given 30 s between SIGTERM and SIGKILL."""
_received: list[int] = []
_failures: list[Exception] = []


def install() -> None:
    """Handle SIGTERM and SIGINT from now on."""
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)


def requested() -> bool:
    """Return whether a stop was asked for."""
    return bool(_received)


def fail(error: Exception) -> None:
    """Ask the work to stop with `error`: something that it rests on is lost, such as its lease."""
    _failures.append(error)


def failure() -> Exception | None:
    """Return the first error that was given to `fail`, None where there was none."""
    return _failures[0] if _failures else None


def _on_signal(signum: int, frame: FrameType | None) -> None:
    # A second Ctrl-C means now. Every artifact is written beside its place and renamed, so nothing breaks.
    if signum == signal.SIGINT and _received:
        os._exit(_EXIT_INTERRUPTED)
    if signum == signal.SIGTERM and not _received:
        # A store that is silent must not hold the process until it is killed, which says nothing of why.
        last = threading.Timer(_GRACE_S, os._exit, (_EXIT_INTERRUPTED,))
        last.daemon = True
        last.start()
    _received.append(signum)
