"""A process that brings pieces of objects to files, for another one whose interpreter lock is in the way.

`porters` starts it. It reads JSON lines, first the place of the bucket, then pieces by the batch, with
credentials where they are new, and answers each batch with what became of its pieces. It tries each once, for
whoever asked is to say what went wrong, and ends when nobody can ask any more.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from job.storage.s3_piece import Piece, Place, bring, open_bucket
from job.storage.store import no_advance

if TYPE_CHECKING:
    from obstore.store import S3Credential

THREADS = 8
CREDENTIALS_LAST = timedelta(minutes=5)


class Porter:
    """Works for the process at the other end of its standard streams."""

    def __init__(self, place: Place) -> None:
        self._credentials: dict[str, Any] = {}
        self._client = open_bucket(place, self._current_credentials)
        self._asking, self._answering = threading.Lock(), threading.Lock()

    def work(self) -> None:
        """Take one batch after the other; never returns."""
        while True:
            with self._asking:
                line = sys.stdin.readline()
                if not line.endswith("\n"):
                    os._exit(0)  # the other threads may be waiting for a store
                asked = json.loads(line)
                self._credentials = asked["credentials"] or self._credentials
            answers = [self._brought(Piece(*fields)) for fields in asked["pieces"]]
            self.say({"number": asked["number"], "brought": answers})

    def say(self, answer: dict[str, Any]) -> None:
        """Answer."""
        with self._answering:
            sys.stdout.write(f"{json.dumps(answer)}\n")
            sys.stdout.flush()

    def _brought(self, piece: Piece) -> dict[str, str | None] | None:
        try:
            return {"sha256": bring(self._client, piece, no_advance, _once)}
        except Exception:
            return None

    def _current_credentials(self) -> "S3Credential":
        named: Any = {**self._credentials, "expires_at": datetime.now(UTC) + CREDENTIALS_LAST}
        credentials: S3Credential = named
        return credentials


def _once(move: Callable[[], str | None]) -> str | None:
    return move()


def main() -> None:
    """Say that it is there, and work until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked decides when it is over
    porter = Porter(Place(**json.loads(sys.stdin.readline())))
    porter.say({})
    for _ in range(THREADS - 1):
        threading.Thread(target=porter.work, daemon=True).start()
    porter.work()


if __name__ == "__main__":
    main()
