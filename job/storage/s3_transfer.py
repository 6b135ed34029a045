"""Bringing objects here, many at a time and large ones in parts, taken up after a cut; memory stays flat."""

import hashlib
import json
import os
import threading
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
from job.storage.background import Background
from job.storage.following_digest import FollowingDigest
from job.storage.local import UNFINISHED, boot_id, naming_a_full_disk, sha256_file
from job.storage.s3_bulk import BrokenBody, bucket_client, persistently
from job.storage.s3_client import explained
from job.storage.side_by_side import POLL_S, all_of
from job.storage.store import Advance, Arrived, Changed, Download, Landed

T = TypeVar("T")

PART = 8 << 20
"""Bytes: what is larger moves in parts, what is not in one request."""
MANY_PARTS = 32
"""What has that many is downloaded in parts of twice the size, of which each byte costs a quarter less; all
that are on their way are lost with a killed process."""
WHOLE = 2 << 20
"""Bytes: a body up to this size is taken as it is, of which the blocks would cost more than its bytes."""
BLOCK = 256 << 10
DIGESTED_IN_MEMORY = 256 << 10
"""Bytes: what is larger is digested after it has been written, so that nobody waits for it; of many
processors one is idle: what is taken as it is they digest as it comes."""
AT_ONCE = 16
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
    all_of(large, AT_ONCE, advance, note)
    all_of(small, AT_ONCE, advance, landed)


def _small_download(
    client: Client, store: Keys, item: Download, advance: Advance, digests: Background
) -> "Future[str]":
    key, target, size = store.full_key(item.source.key), item.target, item.source.size
    unfinished = target.with_name(f".{target.name}.{os.getpid()}{UNFINISHED}")
    digest = hashlib.sha256()
    is_digested = size <= (WHOLE if available_cpus() >= MANY_CPUS else DIGESTED_IN_MEMORY)
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
        self._part = PART if item.source.size <= MANY_PARTS * PART else 2 * PART
        self._n_parts = -(-item.source.size // self._part)
        self._done = self._recorded()
        self._digest = FollowingDigest(
            (self._partial, item.target), item.source.size, self._part, self._done, digests
        )
        self._changing = threading.Lock()

    def missing_parts(self) -> list[Callable[[], "Future[str] | None"]]:
        """Return what is left to do, in order; the step that puts the file in its place gives its digest."""
        with self._opened() as file:
            os.ftruncate(file, self._item.source.size)
        self._advance(sum(self._length(part) for part in self._done))
        missing = [part for part in range(self._n_parts) if part not in self._done]
        return [partial(self._fetch, part) for part in missing] or [self._finish]

    def _fetch(self, part: int) -> "Future[str] | None":
        start, end = part * self._part, part * self._part + self._length(part)

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
        return min(self._part, self._item.source.size - part * self._part)

    def _facts(self) -> dict[str, Any]:
        # A part is recorded before it is on the disk: that outlives a killed process, not a power cut.
        source = self._item.source
        return {"etag": source.etag, "size": source.size, "part": self._part, "boot": boot_id()}

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
