"""What the process says and leaves, kept from others: its standard outputs, and the modes of its files."""

import io
import os
import sys
from typing import TextIO

from job.spec.secrets import redact

OTHERS_MUST_NOT_WRITE = 0o022


def guard() -> None:
    """Write no secret to standard output and error from now on, and no file that others may change.

    Libraries, warnings and tracebacks write to them too, in words that nobody here chose.
    """
    sys.stdout = _guarded(sys.stdout)
    sys.stderr = _guarded(sys.stderr)
    os.umask(os.umask(OTHERS_MUST_NOT_WRITE) | OTHERS_MUST_NOT_WRITE)


class _Redacting(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        super().write(redact(text))
        return len(text)


def _guarded(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):  # None where the process was started without it
        return stream
    stream.flush()
    return _Redacting(
        stream.buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
