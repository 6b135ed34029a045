"""The program as it is, which gets no more address space than it has from an event on.

python tests/e2e/short_of_memory.py '{"event": ...}' ARGUMENT ...

From within, at the event itself: another process would come to it whenever it gets its turn.
"""

import json
import resource
import sys
from pathlib import Path
from typing import TextIO

from job import stopping


class Watched:
    """A standard output that takes the memory away when an event is told."""

    def __init__(self, stream: TextIO, since: dict[str, str]) -> None:
        self._stream, self._since = stream, since

    def write(self, text: str) -> int:
        """Pass lines on."""
        for line in text.splitlines():
            if self._since.items() <= json.loads(line).items():
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                now = pages * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (now, now))
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


if __name__ == "__main__":
    stopping.install()  # as `job.__main__` does, before anything slow is imported
    from job.__main__ import main

    since = json.loads(sys.argv.pop(1))
    sys.stdout = Watched(sys.stdout, since)  # type: ignore[assignment]
    sys.exit(main())
