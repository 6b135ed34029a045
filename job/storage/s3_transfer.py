"""Moving many objects, and large ones in parts: parallel, resumed after a cut, in memory that stays flat."""

import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.store import S3Store as Client

from job.device import available_cpus
from job.storage.flushing import Flushing
from job.storage.local import UNFINISHED, naming_a_full_disk, sha256_file
from job.storage.s3_bulk import BrokenBody, bucket_client, persistently
from job.storage.s3_client import explained
from job.storage.store import Advance, Changed, Download, Upload

if TYPE_CHECKING:
    from job.storage.s3 import S3Store

T = TypeVar("T")

PART = 8 << 20
"""Bytes: what is larger moves in parts, what is not is held in memory as a whole.

Small, and few at a time, so that the digest of a file can follow its first parts early: that takes longest.
"""
BLOCK = 256 << 10
MOST_PARTS = 9_000
"""S3 takes 10,000 parts an upload."""
PARTS_IN_FLIGHT = 16
FLUSHED_PARTS = 16
"""Downloaded parts between two waits for the disk."""
SMALL_AT_ONCE = 16
POLL_S = 0.5


def download(store: "S3Store", items: Sequence[Download], advance: Advance) -> list[str]:
    """Bring objects to the disk; see `ObjectStore.download`."""
    with explained(store.uri):
        client = bucket_client(store.bucket)
    large = {
        i: _Large(client, store, item, advance) for i, item in enumerate(items) if item.source.size > PART
    }
    parts = [part for one in large.values() for part in one.missing_parts()]
    _all(parts, streams=max(4, min(16, available_cpus() // 2)), advance=advance)
    with Flushing() as flushing:
        small = {
            i: partial(_small_download, client, store, item, flushing, advance)
            for i, item in enumerate(items)
            if i not in large
        }
        digests = dict(zip(small, _all(list(small.values()), SMALL_AT_ONCE, advance), strict=True))
    return [large[i].sha256 if i in large else digests[i] for i in range(len(items))]


def upload(store: "S3Store", items: Sequence[Upload], advance: Advance) -> list[str]:
    """Bring files to the store; see `ObjectStore.upload`."""
    with explained(store.uri):
        client = bucket_client(store.bucket)
    large: dict[int, Callable[[], str]] = {}
    small: dict[int, Callable[[], str]] = {}
    for i, item in enumerate(items):
        size = item.source.stat().st_size
        if size > PART:
            large[i] = partial(_large_upload, client, store, item, size, advance)
        else:
            small[i] = partial(_small_upload, client, store, item, advance)
    digests = dict(zip(large, _all(list(large.values()), 1, advance), strict=True))
    digests |= dict(zip(small, _all(list(small.values()), SMALL_AT_ONCE, advance), strict=True))
    return [digests[i] for i in range(len(items))]


def _all(jobs: Sequence[Callable[[], T]], streams: int, advance: Advance) -> list[T]:
    """Run jobs in so many threads; the first error, or a stop, cancels those that have not begun.

    This thread only waits: were it inside of obstore, no handler of a signal would run.
    """
    if not jobs:
        return []
    pool = ThreadPoolExecutor(min(streams, len(jobs)), thread_name_prefix="transfer")
    futures: list[Future[T]] = [pool.submit(job) for job in jobs]
    try:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            advance(0)  # a stop is noticed while a store is silent
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in futures]


def _small_download(
    client: Client, store: "S3Store", item: Download, flushing: Flushing, advance: Advance
) -> str:
    key = store.full_key(item.source.key)

    def get() -> bytes:
        answer = obstore.get(client, key, options={"if_match": item.source.etag})
        _require_version(answer, item)
        data = bytes(answer.bytes())
        if len(data) != item.source.size:
            raise BrokenBody
        return data

    data = persistently(store.name_of(item.source.key), get, advance)
    flushing.write(item.target, data)
    advance(len(data))
    return hashlib.sha256(data).hexdigest()


class _Large:
    """One large object on its way to the disk, in parts that a later call need not fetch again.

    Its parts may be fetched by several threads, but by one process at a time.
    """

    def __init__(self, client: Client, store: "S3Store", item: Download, advance: Advance) -> None:
        self.sha256 = ""
        """Known as soon as the file is in its place."""
        self._item, self._client, self._store, self._advance = item, client, store, advance
        self._key = store.full_key(item.source.key)
        self._partial = item.target.with_name(f".{item.target.name}{UNFINISHED}")
        self._record = item.target.with_name(f".{item.target.name}.parts{UNFINISHED}")
        self._n_parts = -(-item.source.size // PART)
        self._done = self._recorded()
        self._digest, self._n_digested = hashlib.sha256(), 0
        self._recording, self._digesting = threading.Lock(), threading.Lock()

    def missing_parts(self) -> list[Callable[[], None]]:
        """Return what is left to do, in order."""
        self._item.target.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as file:
            os.ftruncate(file, self._item.source.size)
        self._advance(sum(self._length(part) for part in self._done))
        missing = [part for part in range(self._n_parts) if part not in self._done]
        return [partial(self._fetch, part) for part in missing] or [self._digest_and_finish]

    def _fetch(self, part: int) -> None:
        start, end = part * PART, part * PART + self._length(part)

        def get() -> None:
            options: Any = {"range": (start, end), "if_match": self._item.source.etag}
            answer = obstore.get(self._client, self._key, options=options)
            _require_version(answer, self._item)
            position = start
            for block in answer.stream(min_chunk_size=BLOCK):
                self._advance(0)
                if position + len(block) > end:
                    raise BrokenBody
                _write_whole(file, block, position)
                position += len(block)
            if position != end:
                raise BrokenBody

        with self._opened() as file:
            persistently(self._store.name_of(self._item.source.key), get, self._advance)
            if part % FLUSHED_PARTS == FLUSHED_PARTS - 1:
                os.fdatasync(file)  # so that little is left to wait for when all has arrived
        with self._recording:
            self._done.add(part)
            new = self._record.with_name(f"{self._record.name}{UNFINISHED}")
            new.write_text(json.dumps(self._facts() | {"done": sorted(self._done)}))
            new.replace(self._record)
        self._advance(end - start)
        self._digest_and_finish()

    def _digest_and_finish(self) -> None:
        """Digest the parts that follow those digested so far, while others are still on their way."""
        while self._n_digested in self._done and self._digesting.acquire(blocking=False):
            try:
                with self._opened() as file:
                    while self._n_digested in self._done:
                        start = self._n_digested * PART
                        end = start + self._length(self._n_digested)
                        for position in range(start, end, BLOCK):
                            self._digest.update(os.pread(file, min(BLOCK, end - position), position))
                        self._n_digested += 1
                    if self._n_digested == self._n_parts:
                        os.fsync(file)
                        self._partial.replace(self._item.target)
                        self._record.unlink(missing_ok=True)
                        self.sha256 = self._digest.hexdigest()
            finally:
                self._digesting.release()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        # For each part anew: there may be more large objects than a process may have open files.
        with naming_a_full_disk(self._item.target):
            file = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                yield file
            finally:
                os.close(file)

    def _length(self, part: int) -> int:
        return min(PART, self._item.source.size - part * PART)

    def _facts(self) -> dict[str, Any]:
        return {"etag": self._item.source.etag, "size": self._item.source.size, "part": PART, "boot": _boot()}

    def _recorded(self) -> set[int]:
        """Return the parts that an earlier call brought, of the same version of the object."""
        try:
            record = json.loads(self._record.read_text())
            whole = self._partial.stat().st_size == self._item.source.size
            same = all(record[name] == value for name, value in self._facts().items())
            return {int(part) for part in record["done"]} if whole and same else set()
        except (OSError, ValueError, KeyError, TypeError):
            return set()


@lru_cache(maxsize=1)
def _boot() -> str:
    """Return what tells one run of this machine from the next.

    A part is recorded before it is on the disk: that outlives a process that is killed, not a power cut.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


def _require_version(answer: "obstore.GetResult", item: Download) -> None:
    """Raise `Changed` for another version than the one asked for: not every store honours If-Match."""
    etag = answer.meta["e_tag"]
    if etag is not None and etag.strip('"') != item.source.etag.strip('"'):
        raise Changed(item.source.key)


def _small_upload(client: Client, store: "S3Store", item: Upload, advance: Advance) -> str:
    data = item.source.read_bytes()
    key = store.full_key(item.key)
    persistently(
        store.name_of(item.key), lambda: obstore.put(client, key, data, use_multipart=False), advance
    )
    advance(len(data))
    return hashlib.sha256(data).hexdigest()


def _write_whole(file: int, block: bytes, position: int) -> None:
    # A disk that becomes full takes a part of a block and says so by the count alone.
    rest = memoryview(block)
    while rest:
        written = os.pwrite(file, rest, position)
        rest, position = rest[written:], position + written


def _large_upload(client: Client, store: "S3Store", item: Upload, size: int, advance: Advance) -> str:
    chunk = max(PART, -(-size // MOST_PARTS))
    key = store.full_key(item.key)
    # Digested beside the transfer, which would wait for the digest of each part otherwise.
    with item.source.open("rb", buffering=0) as source, ThreadPoolExecutor(1) as beside:
        digest = beside.submit(sha256_file, item.source)
        file = _Reading(source, advance)

        def put() -> None:
            file.rewind()
            try:
                obstore.put(
                    client, key, file, use_multipart=True, chunk_size=chunk, max_concurrency=PARTS_IN_FLIGHT
                )
            except OSError:
                if file.failure is not None:  # obstore knows no errors but its own
                    raise file.failure from None
                raise

        persistently(store.name_of(item.key), put, advance)
        return digest.result()


class _Reading(io.RawIOBase):
    """A file that is reported as it is read; what is read again is not reported again."""

    def __init__(self, file: io.RawIOBase, advance: Advance) -> None:
        self.failure: BaseException | None = None
        self._file, self._advance = file, advance
        self._position = self._reported = 0

    def rewind(self) -> None:
        """Begin anew."""
        self._file.seek(0)
        self._position = 0

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read and report; keeps the error that it raises."""
        try:
            data = self._file.read(size) or b""
            self._position += len(data)
            self._advance(max(0, self._position - self._reported))
            self._reported = max(self._reported, self._position)
        except BaseException as error:
            self.failure = error
            raise
        return data
