"""What code of others says while it works: kept out of the standard output, which is the job's log."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase
from threading import Lock
from typing import TextIO

CHATTER = logging.getLogger(__name__)


@contextmanager
def kept_out() -> Iterator[None]:
    """Within: what Python code prints goes to the debug log; what it does to the root logger is undone.

    May be entered from several threads at once: the last one to leave gives the standard output back.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    _diversion.enter()
    try:
        yield
    finally:
        _diversion.leave()
        # logging.basicConfig of a checkpoint would have all libraries speak, of files and their names too.
        root.setLevel(level)
        for handler in [one for one in root.handlers if one not in handlers]:
            root.removeHandler(handler)


class _ToLog(TextIOBase):
    def write(self, text: str) -> int:
        if text.strip():
            CHATTER.debug("%s", text.rstrip())
        return len(text)


class _Diversion:
    """The standard output while somebody wants it diverted."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._within = 0
        self._before: TextIO | None = None

    def enter(self) -> None:
        with self._lock:
            if not self._within:
                self._before, sys.stdout = sys.stdout, _ToLog()
            self._within += 1

    def leave(self) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                assert self._before is not None
                sys.stdout = self._before


_diversion = _Diversion()
