"""Bringing objects here, many at a time and large ones in parts, taken up after a cut; memory stays flat."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from obstore.store import S3Store as Client

from job.device import available_cpus
from job.storage import s3_piece
from job.storage.background import Background
from job.storage.following_digest import FollowingDigest
from job.storage.local import UNFINISHED, boot_id, naming_a_full_disk, sha256_file
from job.storage.porters import MANY_CPUS, Job, porters
from job.storage.s3_bulk import bulk_of, persistently
from job.storage.s3_client import explained
from job.storage.s3_piece import Piece
from job.storage.side_by_side import POLL_S, all_of
from job.storage.store import Advance, Arrived, Changed, Download, Landed

PART = 8 << 20
"""Bytes: what is larger moves in parts, what is not in one request."""
MANY_PARTS = 32
"""What has that many is downloaded in parts of twice the size, of which each byte costs a quarter less; all
that are on their way are lost with a killed process."""
DIGESTED_IN_MEMORY = 256 << 10
"""Bytes: what is larger is digested after it has been written, so that nobody waits for it; of many
processors one is idle: what is taken as it is they digest as it comes."""
AT_ONCE = 16
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
        bulk = bulk_of(store.bucket)
    large: list[tuple[int, Job]] = []
    small: list[tuple[int, Job]] = []

    def note(i: int, digest: "Future[str] | None") -> None:
        if digest is not None:  # the other parts of a file have none
            landed(i, digest)

    most_digested = s3_piece.WHOLE if available_cpus() >= MANY_CPUS else DIGESTED_IN_MEMORY
    for i, item in enumerate(items):
        here = partial(_here, bulk.client, store, item, advance)
        if item.source.size > PART:
            file = _Large(store, item, advance, digests)
            parts = file.missing_parts()
            large += [(i, Job(piece, here, finish)) for piece, finish in parts]
            if not parts:
                advance(0)  # a stop is not waited out
                note(i, file.finish())
        else:
            piece = _whole(store, item, is_digested=item.source.size <= most_digested)
            small.append((i, Job(piece, here, partial(_landed, item, advance, digests))))
    jobs = large + small
    all_of(jobs, AT_ONCE, advance, note, porters(bulk.place, bulk.credentials, len(jobs)))


def _here(client: Client, store: Keys, item: Download, advance: Advance, piece: Piece) -> str | None:
    def many_times(move: Callable[[], str | None]) -> str | None:
        return persistently(store.name_of(item.source.key), move, advance)

    with naming_a_full_disk(item.target):
        try:
            return s3_piece.bring(client, piece, advance, many_times)
        except Changed as error:  # of whatever it was told
            raise Changed(item.source.key) from error


def _whole(store: Keys, item: Download, *, is_digested: bool) -> Piece:
    size, target = item.source.size, item.target
    unfinished = f"{target.parent}/.{target.name}.{os.getpid()}{UNFINISHED}"
    return Piece(
        store.full_key(item.source.key), item.source.etag, start=0, end=size, size=size,
        file=unfinished, becomes=str(target), is_digested=is_digested,
    )  # fmt: skip


def _landed(item: Download, advance: Advance, digests: Background, sha256: str | None) -> "Future[str]":
    advance(item.source.size)
    if sha256 is None:
        return digests.submit(partial(sha256_file, item.target))
    known: Future[str] = Future()
    known.set_result(sha256)
    return known


class _Large:
    """One large object on its way to the disk, in parts that a later call need not fetch again.

    Its parts may be fetched by several threads, but by one process at a time.
    """

    def __init__(self, store: Keys, item: Download, advance: Advance, digests: Background) -> None:
        self._item, self._advance = item, advance
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

    def missing_parts(self) -> list[tuple[Piece, "Callable[[str | None], Future[str] | None]"]]:
        """Return what is left to bring, in order, each with what is done then: the last gives a digest."""
        with naming_a_full_disk(self._item.target), s3_piece.opened(self._partial) as file:
            os.ftruncate(file, self._item.source.size)
        self._advance(sum(self._length(part) for part in self._done))
        missing = [part for part in range(self._n_parts) if part not in self._done]
        return [(self._piece(part), partial(self._came, part)) for part in missing]

    def finish(self) -> "Future[str]":
        """Put the file in its place."""
        with naming_a_full_disk(self._item.target):
            self._partial.replace(self._item.target)
            self._record.unlink(missing_ok=True)
        self._digest.go_on()
        return self._digest.known

    def _piece(self, part: int) -> Piece:
        start, source = part * self._part, self._item.source
        return Piece(
            self._key, source.etag, start=start, end=start + self._length(part), size=source.size,
            file=str(self._partial), becomes=None, is_digested=False,
        )  # fmt: skip

    def _came(self, part: int, _: str | None) -> "Future[str] | None":
        with self._changing, naming_a_full_disk(self._item.target):
            self._done.add(part)
            new = self._record.with_name(f"{self._record.name}{UNFINISHED}")
            new.write_text(json.dumps(self._facts() | {"done": sorted(self._done)}))
            new.replace(self._record)
            is_last = len(self._done) == self._n_parts
        self._advance(self._length(part))
        if is_last:
            return self.finish()
        self._digest.go_on()
        return None

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
