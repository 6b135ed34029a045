"""Bringing many files to a bucket, and large ones in parts: parallel, in memory that stays flat."""

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import obstore
from obstore.store import S3Store as Client

from job.storage.local import sha256_file
from job.storage.s3_bulk import bucket_client, persistently
from job.storage.s3_client import explained
from job.storage.s3_transfer import AT_ONCE, PART, Keys
from job.storage.side_by_side import all_of
from job.storage.store import Advance, Upload

MOST_PARTS = 9_000
"""S3 takes 10,000 parts an upload."""
PARTS_IN_FLIGHT = 16


def upload(store: Keys, items: Sequence[Upload], advance: Advance) -> list[str]:
    """Bring files to the store; see `ObjectStore.upload`."""
    with explained(store.uri):
        client = bucket_client(store.bucket)
    digests: dict[int, str] = {}
    large: list[tuple[int, Callable[[], str]]] = []
    small: list[tuple[int, Callable[[], str]]] = []
    for i, item in enumerate(items):
        size = item.source.stat().st_size
        if size > PART:
            large.append((i, partial(_large_upload, client, store, item, size, advance)))
        else:
            small.append((i, partial(_small_upload, client, store, item, advance)))
    all_of(large, 1, advance, digests.__setitem__)
    all_of(small, AT_ONCE, advance, digests.__setitem__)
    return [digests[i] for i in range(len(items))]


def _small_upload(client: Client, store: Keys, item: Upload, advance: Advance) -> str:
    data = item.source.read_bytes()
    key = store.full_key(item.key)
    persistently(
        store.name_of(item.key), lambda: obstore.put(client, key, data, use_multipart=False), advance
    )
    advance(len(data))
    return hashlib.sha256(data).hexdigest()


def _large_upload(client: Client, store: Keys, item: Upload, size: int, advance: Advance) -> str:
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
