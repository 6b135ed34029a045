"""A process that brings pieces of objects to files, for another one whose interpreter lock is in the way.

`porters` starts it. It reads JSON lines, first where and how, then pieces by the batch, with credentials
where they are new, and answers each batch with what became of its pieces. It tries once, for whoever asked is
to say what went wrong, and ends when nobody can ask any more.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO

from job.storage.s3_piece import Piece, Place, bring, open_bucket
from job.storage.store import no_advance

if TYPE_CHECKING:
    from obstore.store import S3Credential

RETRIES = 2
"""Of a request: who asked has a patience of its own."""
CREDENTIALS_LAST = timedelta(minutes=5)


class Porter:
    """Brings what it is asked for, in several threads."""

    def __init__(self, place: Place, answers: TextIO) -> None:
        self._credentials: dict[str, Any] = {}
        self._client = open_bucket(place, self._current_credentials, retries=RETRIES)
        self._asked: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._answers = answers
        self._answering = threading.Lock()

    def ask(self, asked: dict[str, Any]) -> None:
        """Take a batch on."""
        self._credentials = asked["credentials"] or self._credentials
        self._asked.put(asked)

    def say(self, answer: dict[str, Any]) -> None:
        """Answer."""
        with self._answering:
            self._answers.write(f"{json.dumps(answer)}\n")
            self._answers.flush()

    def work(self) -> None:
        """Do one batch after the other; never returns, for an end of the process is what others notice."""
        try:
            while True:
                asked = self._asked.get()
                self.say({"number": asked["number"], "brought": self._brought(asked["pieces"])})
        except BaseException:
            os._exit(1)

    def _brought(self, pieces: list[list[Any]]) -> list[dict[str, str | None] | None]:
        """Bring pieces; None for the first that fails and for all behind it, which would take as long."""
        found: list[dict[str, str | None] | None] = [None] * len(pieces)
        for i, fields in enumerate(pieces):
            try:
                found[i] = {"sha256": bring(self._client, Piece(*fields), no_advance, _once)}
            except BaseException:  # what Rust calls a panic is no Exception
                break
        return found

    def _current_credentials(self) -> "S3Credential":
        named: Any = {**self._credentials, "expires_at": datetime.now(UTC) + CREDENTIALS_LAST}
        credentials: S3Credential = named
        return credentials


def _once(move: Callable[[], str | None]) -> str | None:
    return move()


def main() -> None:
    """Say that it is there, and work until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked decides when it is over
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    told = json.loads(sys.stdin.readline())
    porter = Porter(Place(**told["place"]), answers)
    for _ in range(told["threads"]):
        threading.Thread(target=porter.work, daemon=True).start()
    porter.say({})
    for line in sys.stdin:
        porter.ask(json.loads(line))
    os._exit(0)  # at once: the threads may be waiting for a store


if __name__ == "__main__":
    main()
