"""Bringing objects here, many at a time and large ones in parts, taken up after a cut; memory stays flat."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

import obstore
from obstore.store import S3Store as Client

from job.device import available_cpus
from job.errors import TryAgain
from job.storage.background import Background
from job.storage.local import UNFINISHED, boot_id, naming_a_full_disk, sha256_file
from job.storage.s3_bulk import BrokenBody, bucket_client, persistently
from job.storage.s3_client import explained
from job.storage.store import Advance, Arrived, Changed, Download, Landed

T = TypeVar("T")

PART = 8 << 20
"""Bytes: what is larger moves in parts, what is not in one request.

Small, and few at a time, so that the digest of a file can follow its first parts early: that takes longest.
"""
WHOLE = 2 << 20
"""Bytes: a body up to this size is taken as it is, of which the blocks would cost more than its bytes."""
BLOCK = 256 << 10
DIGESTED_IN_MEMORY = 256 << 10
"""Bytes: what is larger is digested after it has been written, so that nobody waits for it."""
DIGESTED_AT_ONCE = 1 << 20
SMALL_AT_ONCE = 16
POLL_S = 0.5
REST_S = 0.01
"""Between looks at what has arrived, while there is more to come: to wake for each small object would take a
sixth of the time that it takes to bring it."""
MANY_CPUS = 4
DIGEST = "digest"


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
    digests: dict[int, str] = {}
    known: SimpleQueue[tuple[int, Future[str]]] = SimpleQueue()

    def landed(i: int, digest: "Future[str]") -> None:
        digest.add_done_callback(lambda ended: known.put((i, ended)))
        while not known.empty():
            tell()

    def tell(timeout_s: float = 0.0) -> None:
        i, digest = known.get(timeout=timeout_s)
        digests[i] = digest.result()
        arrived(items[i], digests[i])

    _bring(store, items, advance, landed, Background(DIGEST, available_cpus()))
    while len(digests) < len(items):
        with suppress(Empty):
            tell(POLL_S)
        advance(0)
    return [digests[i] for i in range(len(items))]


def bring(
    store: Keys, items: Sequence[Download], advance: Advance, landed: Landed, digests: Background
) -> None:
    """Bring objects to the disk, and their digests later; see `ObjectStore.bring`."""
    # Where processors are few, those of the transfer would wait for those of the digests.
    with nullcontext() if available_cpus() >= MANY_CPUS else digests.held():
        _bring(store, items, advance, lambda i, digest: landed(items[i], digest), digests)


def _bring(
    store: Keys,
    items: Sequence[Download],
    advance: Advance,
    landed: Callable[[int, "Future[str]"], None],
    digests: Background,
) -> None:
    with explained(store.uri):
        client = bucket_client(store.bucket)
    large: list[tuple[int, Callable[[], Future[str] | None]]] = []
    small: list[tuple[int, Callable[[], Future[str]]]] = []

    def note(i: int, digest: "Future[str] | None") -> None:
        if digest is not None:  # the other parts of a file have none
            landed(i, digest)

    for i, item in enumerate(items):
        if item.source.size > PART:
            large += [(i, part) for part in _Large(client, store, item, advance, digests).missing_parts()]
        else:
            small.append((i, partial(_small_download, client, store, item, advance, digests)))
    all_of(large, max(4, min(16, available_cpus() // 2)), advance, note)
    all_of(small, SMALL_AT_ONCE, advance, landed)


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
    left = iter(jobs)
    ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
    is_over = threading.Event()

    def fail(error: BaseException) -> None:
        raise error

    def work() -> None:
        # No future for each, which takes as long as to bring a small object.
        for i, job in left:
            if is_over.is_set():
                return
            try:
                ended.put(partial(note, i, job()))
            except BaseException as error:
                ended.put(partial(fail, error))
                return

    threads = [
        threading.Thread(target=work, name=f"transfer-{number}") for number in range(min(streams, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    try:
        n_left = len(jobs)
        while n_left:
            try:
                tell = ended.get(timeout=POLL_S)
            except Empty:
                advance(0)  # a stop is noticed while a store is silent
                continue
            tell()
            n_left -= 1
            if n_left > streams and ended.empty():
                time.sleep(REST_S)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _small_download(
    client: Client, store: Keys, item: Download, advance: Advance, digests: Background
) -> "Future[str]":
    key, target, size = store.full_key(item.source.key), item.target, item.source.size
    unfinished = target.with_name(f".{target.name}.{os.getpid()}{UNFINISHED}")
    digest = hashlib.sha256()
    is_digested = size <= DIGESTED_IN_MEMORY
    with _opened(unfinished, target) as file:

        def get() -> None:
            nonlocal digest
            answer = obstore.get(client, key, options={"if_match": item.source.etag})
            _require_version(answer, item)
            digest = hashlib.sha256()
            _write_body(answer, file, 0, size, advance, digest.update if is_digested else None)

        try:
            persistently(store.name_of(item.source.key), get, advance)
        except BaseException:
            unfinished.unlink()
            raise
    unfinished.replace(target)
    advance(size)
    if not is_digested:
        return digests.submit(partial(sha256_file, target))
    known: Future[str] = Future()
    known.set_result(digest.hexdigest())
    return known


class _Large:
    """One large object on its way to the disk, in parts that a later call need not fetch again.

    Its parts may be fetched by several threads, but by one process at a time.
    """

    def __init__(
        self, client: Client, store: Keys, item: Download, advance: Advance, digests: Background
    ) -> None:
        self._item, self._client, self._store, self._advance = item, client, store, advance
        self._key = store.full_key(item.source.key)
        self._partial = item.target.with_name(f".{item.target.name}{UNFINISHED}")
        self._record = item.target.with_name(f".{item.target.name}.parts{UNFINISHED}")
        self._n_parts = -(-item.source.size // PART)
        self._done = self._recorded()
        self._digest = _Digest((self._partial, item.target), item.source.size, self._done, digests)
        self._changing = threading.Lock()

    def missing_parts(self) -> list[Callable[[], "Future[str] | None"]]:
        """Return what is left to do, in order; the step that puts the file in its place gives its digest."""
        with self._opened() as file:
            os.ftruncate(file, self._item.source.size)
        self._advance(sum(self._length(part) for part in self._done))
        missing = [part for part in range(self._n_parts) if part not in self._done]
        return [partial(self._fetch, part) for part in missing] or [self._finish]

    def _fetch(self, part: int) -> "Future[str] | None":
        start, end = part * PART, part * PART + self._length(part)

        def get() -> None:
            options: Any = {"range": (start, end), "if_match": self._item.source.etag}
            answer = obstore.get(self._client, self._key, options=options)
            _require_version(answer, self._item)
            _write_body(answer, file, start, end, self._advance)

        with self._opened() as file:
            persistently(self._store.name_of(self._item.source.key), get, self._advance)
        with self._changing:
            self._done.add(part)
            new = self._record.with_name(f"{self._record.name}{UNFINISHED}")
            new.write_text(json.dumps(self._facts() | {"done": sorted(self._done)}))
            new.replace(self._record)
            is_last = len(self._done) == self._n_parts
        self._advance(end - start)
        if is_last:
            return self._finish()
        self._digest.go_on()
        return None

    def _finish(self) -> "Future[str]":
        self._partial.replace(self._item.target)
        self._record.unlink(missing_ok=True)
        self._digest.go_on()
        return self._digest.known

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


class _Digest:
    """The sha256 of a large file, which follows its parts while others are still on their way."""

    def __init__(self, places: Sequence[Path], size: int, done: set[int], digests: Background) -> None:
        """Begin with nothing; `places` are where the file may lie, `done` the parts that are there."""
        self.known: Future[str] = Future()
        self._places, self._size, self._done, self._digests = places, size, done, digests
        self._n_parts = -(-size // PART)
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
        else:
            if self._n_digested == self._n_parts:
                self.known.set_result(self._sha256.hexdigest())

    def _is_more(self) -> bool:
        with self._changing:
            self._is_following = self._n_digested in self._done
            return self._is_following

    def _opened(self) -> int:
        # For each stretch anew, as for each part: there may be many large objects.
        *first, last = self._places
        for place in first:
            with suppress(FileNotFoundError):  # it is in its last place by now
                return os.open(place, os.O_RDONLY)
        return os.open(last, os.O_RDONLY)

    def _digest_part(self, file: int, part: int, block: memoryview) -> None:
        position, end = part * PART, min((part + 1) * PART, self._size)
        while position < end:
            n_read = os.preadv(file, [block[: end - position]], position)
            if not n_read:
                raise TryAgain(
                    f"{self._places[0]} became shorter while it was downloaded",
                    advice="leave hidden files in that folder alone, then run the same command again",
                )
            self._sha256.update(block[:n_read])
            position += n_read


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
    also: Callable[[memoryview], None] | None = None,
) -> None:
    """Write a body to its place in a file, block by block; gives each block to `also`."""
    position = start
    for body in [answer.bytes()] if end - start <= WHOLE else answer.stream(min_chunk_size=BLOCK):
        block = memoryview(body)
        advance(0)
        if position + len(block) > end:
            raise BrokenBody
        if also is not None:
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
