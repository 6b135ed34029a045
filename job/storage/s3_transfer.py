"""Bringing objects here, many at a time and large ones in parts, taken up after a cut; memory stays flat."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import obstore
from obstore.store import S3Store as Client

from job.device import available_cpus
from job.errors import TryAgain
from job.storage.local import UNFINISHED, boot_id, naming_a_full_disk
from job.storage.s3_bulk import BrokenBody, bucket_client, persistently
from job.storage.s3_client import explained
from job.storage.store import Advance, Arrived, Changed, Download

T = TypeVar("T")

PART = 8 << 20
"""Bytes: what is larger moves in parts, what is not in one request.

Small, and few at a time, so that the digest of a file can follow its first parts early: that takes longest.
"""
BLOCK = 256 << 10
DIGESTED_AT_ONCE = 1 << 20
SMALL_AT_ONCE = 16
POLL_S = 0.5


class Keys(Protocol):
    """What a transfer must know of a store: where its keys are."""

    @property
    def uri(self) -> str:
        """The place as users write it."""

    @property
    def bucket(self) -> str:
        """The bucket that it is in."""

    def full_key(self, key: str) -> str:
        """Return the key within the bucket."""

    def name_of(self, key: str) -> str:
        """Return the URI of a key, for messages."""


def download(store: Keys, items: Sequence[Download], advance: Advance, arrived: Arrived) -> list[str]:
    """Bring objects to the disk; see `ObjectStore.download`."""
    with explained(store.uri):
        client = bucket_client(store.bucket)
    digests: dict[int, str] = {}

    def note(i: int, sha256: str) -> None:
        if sha256:  # the other parts of a file have none to tell
            digests[i] = sha256
            arrived(items[i], sha256)

    parts: list[tuple[int, Callable[[], str]]] = []
    small: list[tuple[int, Callable[[], str]]] = []
    for i, item in enumerate(items):
        if item.source.size > PART:
            parts += [(i, part) for part in _Large(client, store, item, advance).missing_parts()]
        else:
            small.append((i, partial(_small_download, client, store, item, advance)))
    all_of(parts, max(4, min(16, available_cpus() // 2)), advance, note)
    all_of(small, SMALL_AT_ONCE, advance, note)
    return [digests[i] for i in range(len(items))]


def all_of(
    jobs: Sequence[tuple[int, Callable[[], T]]],
    streams: int,
    advance: Advance,
    note: Callable[[int, T], None],
) -> None:
    """Run jobs in so many threads; the first error, or a stop, cancels those that have not begun.

    This thread only waits, and notes what comes out: were it inside of obstore, no handler of a signal would
    run.
    """
    if not jobs:
        return
    numbers: dict[Future[T], int] = {}
    ended: SimpleQueue[Future[T]] = SimpleQueue()
    pool = ThreadPoolExecutor(min(streams, len(jobs)), thread_name_prefix="transfer")
    try:
        for i, job in jobs:
            future = pool.submit(job)
            numbers[future] = i
            future.add_done_callback(ended.put)
        while numbers:
            try:
                future = ended.get(timeout=POLL_S)
            except Empty:
                advance(0)  # a stop is noticed while a store is silent
            else:
                note(numbers.pop(future), future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _small_download(client: Client, store: Keys, item: Download, advance: Advance) -> str:
    key, target, size = store.full_key(item.source.key), item.target, item.source.size
    unfinished = target.with_name(f".{target.name}.{os.getpid()}{UNFINISHED}")
    with _opened(unfinished, target) as file:
        os.ftruncate(file, size)

        def get() -> str:
            answer = obstore.get(client, key, options={"if_match": item.source.etag})
            _require_version(answer, item)
            digest = hashlib.sha256()
            _write_body(answer, file, 0, size, advance, digest.update)
            return digest.hexdigest()

        try:
            sha256 = persistently(store.name_of(item.source.key), get, advance)
        except BaseException:
            unfinished.unlink()
            raise
    unfinished.replace(target)
    advance(size)
    return sha256


class _Large:
    """One large object on its way to the disk, in parts that a later call need not fetch again.

    Its parts may be fetched by several threads, but by one process at a time.
    """

    def __init__(self, client: Client, store: Keys, item: Download, advance: Advance) -> None:
        self._item, self._client, self._store, self._advance = item, client, store, advance
        self._key = store.full_key(item.source.key)
        self._partial = item.target.with_name(f".{item.target.name}{UNFINISHED}")
        self._record = item.target.with_name(f".{item.target.name}.parts{UNFINISHED}")
        self._n_parts = -(-item.source.size // PART)
        self._done = self._recorded()
        self._digest, self._n_digested = hashlib.sha256(), 0
        self._recording, self._digesting = threading.Lock(), threading.Lock()

    def missing_parts(self) -> list[Callable[[], str]]:
        """Return what is left to do, in order; the step that puts the file in its place gives its sha256."""
        with self._opened() as file:
            os.ftruncate(file, self._item.source.size)
        self._advance(sum(self._length(part) for part in self._done))
        missing = [part for part in range(self._n_parts) if part not in self._done]
        return [partial(self._fetch, part) for part in missing] or [self._digest_and_finish]

    def _fetch(self, part: int) -> str:
        start, end = part * PART, part * PART + self._length(part)

        def get() -> None:
            options: Any = {"range": (start, end), "if_match": self._item.source.etag}
            answer = obstore.get(self._client, self._key, options=options)
            _require_version(answer, self._item)
            _write_body(answer, file, start, end, self._advance)

        with self._opened() as file:
            persistently(self._store.name_of(self._item.source.key), get, self._advance)
        with self._recording:
            self._done.add(part)
            new = self._record.with_name(f"{self._record.name}{UNFINISHED}")
            new.write_text(json.dumps(self._facts() | {"done": sorted(self._done)}))
            new.replace(self._record)
        self._advance(end - start)
        return self._digest_and_finish()

    def _digest_and_finish(self) -> str:
        """Digest the parts that follow those digested so far, while others are still on their way."""
        while self._n_digested in self._done and self._digesting.acquire(blocking=False):
            try:
                # The same memory for each block: to be given new one takes longer than to fill it.
                block = memoryview(bytearray(DIGESTED_AT_ONCE))
                with self._opened() as file:
                    while self._n_digested in self._done:
                        self._digest_part(file, self._n_digested, block)
                        self._n_digested += 1
                if self._n_digested == self._n_parts:
                    self._partial.replace(self._item.target)
                    self._record.unlink(missing_ok=True)
                    return self._digest.hexdigest()
            finally:
                self._digesting.release()
        return ""

    def _digest_part(self, file: int, part: int, block: memoryview) -> None:
        position, end = part * PART, part * PART + self._length(part)
        while position < end:
            n_read = os.preadv(file, [block[: end - position]], position)
            if not n_read:
                raise TryAgain(
                    f"{self._partial} became shorter while it was downloaded",
                    advice="leave hidden files in that folder alone, then run the same command again",
                )
            self._digest.update(block[:n_read])
            position += n_read

    def _opened(self) -> AbstractContextManager[int]:
        # For each part anew: there may be more large objects than a process may have open files.
        return _opened(self._partial, self._item.target)

    def _length(self, part: int) -> int:
        return min(PART, self._item.source.size - part * PART)

    def _facts(self) -> dict[str, Any]:
        # A part is recorded before it is on the disk: that outlives a killed process, not a power cut.
        source = self._item.source
        return {"etag": source.etag, "size": source.size, "part": PART, "boot": boot_id()}

    def _recorded(self) -> set[int]:
        """Return the parts that an earlier call brought, of the same version of the object."""
        try:
            record = json.loads(self._record.read_text())
            whole = self._partial.stat().st_size == self._item.source.size
            same = all(record[name] == value for name, value in self._facts().items())
            return {int(part) for part in record["done"]} if whole and same else set()
        except (OSError, ValueError, KeyError, TypeError):
            return set()


def _require_version(answer: "obstore.GetResult", item: Download) -> None:
    """Raise `Changed` for another version than the one asked for: not every store honours If-Match."""
    etag = answer.meta["e_tag"]
    if etag is not None and etag.strip('"') != item.source.etag.strip('"'):
        raise Changed(item.source.key)


@contextmanager
def _opened(unfinished: Path, target: Path) -> Iterator[int]:
    """Lend what is to become `target`, for reading and writing."""
    with naming_a_full_disk(target):
        try:
            file = os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # asked for as seldom as can be: there may be thousands of files
            target.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield file
        finally:
            os.close(file)


def _write_body(
    answer: "obstore.GetResult",
    file: int,
    start: int,
    end: int,
    advance: Advance,
    also: Callable[[memoryview], None] = lambda block: None,
) -> None:
    """Write a body to its place in a file, block by block; gives each block to `also`."""
    position = start
    # Of a small body the blocks would cost more than its bytes.
    for body in [answer.bytes()] if end - start <= BLOCK else answer.stream(min_chunk_size=BLOCK):
        block = memoryview(body)
        advance(0)
        if position + len(block) > end:
            raise BrokenBody
        also(block)
        _write_whole(file, block, position)
        position += len(block)
    if position != end:
        raise BrokenBody


def _write_whole(file: int, rest: memoryview, position: int) -> None:
    # A disk that becomes full takes a part of a block and says so by the count alone.
    while rest:
        written = os.pwrite(file, rest, position)
        rest, position = rest[written:], position + written
