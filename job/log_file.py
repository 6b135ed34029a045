"""The run's log on the disk: whole lines alone, whatever happens to the disk or to the process."""

import threading
from pathlib import Path

_TAIL_BYTES = 1 << 20
"""Where the last line's beginning is looked for: no line of the log is longer."""


class LogFile:
    """Appends lines to a file of which one process at a time is the writer.

    A line that does not fit on a full disk is left out, and so are those after it until there is room: the
    job's own errors say that the disk is full, and its output has the lines.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        self._lock = threading.Lock()
        self._end = self._cut_torn_line()

    def write(self, line: str) -> None:
        """Append a line, or nothing of it."""
        data = line.encode() + b"\n"
        with self._lock:
            if self._file.closed:
                return  # a thread that outlived the run
            try:
                written = self._file.write(data)
                while written < len(data):  # a disk with room for a part of it takes that part
                    written += self._file.write(data[written:])
            except OSError:
                self._file.truncate(self._end)
            else:
                self._end += len(data)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _cut_torn_line(self) -> int:
        """Remove what a process that was killed in the middle of a line left of it; returns the size."""
        size = self._file.seek(0, 2)
        start = max(0, size - _TAIL_BYTES)
        self._file.seek(start)
        tail = self._file.read(size - start)
        end = start + tail.rfind(b"\n") + 1
        if end < size:
            self._file.truncate(end)
        return end
