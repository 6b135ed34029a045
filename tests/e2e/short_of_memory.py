"""The program as it is, which gets hardly more address space than it has from an event, or an import, on.

python tests/e2e/short_of_memory.py '{"event": ...}' ARGUMENT ...
python tests/e2e/short_of_memory.py '{"import": "numpy", "megabytes": 10}' ARGUMENT ...

From within, at the event itself: another process would come to it whenever it gets its turn.
"""

import importlib.abc
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
                take_memory_away()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class Importing(importlib.abc.MetaPathFinder):
    """Finds nothing, and takes the memory away when a module is looked for."""

    def __init__(self, name: str, megabytes: int) -> None:
        self._name, self._megabytes = name, megabytes

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Leave the module to other finders."""
        if fullname == self._name:
            take_memory_away(self._megabytes)


def take_memory_away(but_megabytes: int = 0) -> None:
    """Leave this process what it has, and so much more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + but_megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    stopping.install()  # as `job.__main__` does, before anything slow is imported
    from job.__main__ import main

    since = json.loads(sys.argv.pop(1))
    if "import" in since:
        sys.meta_path.insert(0, Importing(since["import"], since["megabytes"]))
    else:
        sys.stdout = Watched(sys.stdout, since)  # type: ignore[assignment]
    sys.exit(main())
