"""The digest of a large file, taken while its later parts are still on their way."""

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from job.errors import TryAgain
from job.storage.background import Background

DIGESTED_AT_ONCE = 1 << 20


class FollowingDigest:
    """The sha256 of a large file, which follows its parts while others are still on their way."""

    def __init__(
        self, places: Sequence[Path], size: int, part: int, done: set[int], digests: Background
    ) -> None:
        """Begin with nothing; `places` are where the file may lie, `done` the parts of `part` bytes in it."""
        self.known: Future[str] = Future()
        self._places, self._size, self._part, self._done = places, size, part, done
        self._digests, self._n_parts = digests, -(-size // part)
        self._sha256, self._n_digested = hashlib.sha256(), 0
        self._changing = threading.Lock()
        self._is_following = False

    def go_on(self) -> None:
        """Digest the parts that follow those digested so far, in the background."""
        with self._changing:
            if not self._is_following and self._n_digested in self._done:
                self._is_following = True
                self._digests.submit(self._follow)

    def _follow(self) -> None:
        # The same memory for each block: to be given new one takes longer than to fill it.
        block = memoryview(bytearray(DIGESTED_AT_ONCE))
        try:
            file = self._opened()
            try:
                while self._is_more():
                    self._digest_part(file, self._n_digested, block)
                    self._n_digested += 1
            finally:
                os.close(file)
        except BaseException as error:
            self.known.set_exception(error)

    def _is_more(self) -> bool:
        with self._changing:
            self._is_following = self._n_digested in self._done
            if self._n_digested == self._n_parts:
                self.known.set_result(self._sha256.hexdigest())
            return self._is_following

    def _opened(self) -> int:
        # For each stretch anew, as for each part: there may be many large objects.
        *first, last = self._places
        for place in first:
            with suppress(FileNotFoundError):  # it is in its last place by now
                return os.open(place, os.O_RDONLY)
        return os.open(last, os.O_RDONLY)

    def _digest_part(self, file: int, part: int, block: memoryview) -> None:
        position, end = part * self._part, min((part + 1) * self._part, self._size)
        while position < end:
            n_read = os.preadv(file, [block[: end - position]], position)
            if not n_read:
                raise TryAgain(
                    f"{self._places[0]} became shorter while it was downloaded",
                    advice="leave hidden files in that folder alone, then run the same command again",
                )
            self._sha256.update(block[:n_read])
            position += n_read
