"""What a store is: objects by key, on a disk or behind an S3 API, with the few operations that the job needs.

Every operation raises `Missing` for what is not there, `Denied` for what the credentials may not do,
`StoreFailure` for what every retry could not get done, and `IntegrityError` for bytes that are not what they
should be. A refusal is never taken for an absence. Conditional writes raise `Changed`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.storage.background import Background


class Changed(Exception):
    """A conditional write found another object, or none, where it expected the one that it names."""


@dataclass(frozen=True)
class Stat:
    """What a store says of an object without sending it."""

    key: str
    """Relative to the store that was asked, with `/` between its parts."""
    size: int
    """Bytes."""
    etag: str
    """Opaque, never a digest to compare with: another one whenever the content is another."""
    modified: float
    """Seconds since 1970 by the store's own clock, which may differ from this machine's."""


@dataclass(frozen=True)
class Download:
    """An object to bring to the disk."""

    source: Stat
    target: Path


@dataclass(frozen=True)
class Upload:
    """A file to bring to a store."""

    source: Path
    key: str


Advance = Callable[[int], None]
"""Is told of bytes that have been moved; raises `Interrupted` when a stop was requested."""


Arrived = Callable[[Download, str], None]
"""Is told of a file that is in its place and its sha256, by the thread that asked for it."""

Landed = Callable[[Download, "Future[str]"], None]
"""Is told of a file that is in its place and of its sha256, which may still be taken; by that thread too."""


def no_advance(n_bytes: int) -> None:
    """Report to nobody."""


def no_arrival(item: Download, sha256: str) -> None:
    """Tell nobody."""


class ObjectStore(Protocol):
    """Objects below one place. Keys are relative to it; every method may be called from several threads."""

    @property
    def uri(self) -> str:
        """The place as users write it, without a slash at its end."""

    def at(self, prefix: str) -> "ObjectStore":
        """Return the store below a prefix."""

    def stat(self, key: str) -> Stat | None:
        """Return what is known of an object, None when there is none."""

    def entries(self, prefix: str = "") -> Iterator[Stat]:
        """Yield every object whose key starts with `prefix` (by characters, as S3 does), sorted by key."""

    def children(self) -> list[str]:
        """Return up to a thousand names directly below the place, those of folders with a `/` at their end.

        One request, however much lies below.
        """

    def read(self, key: str) -> tuple[bytes, str]:
        """Return a small object's bytes and its etag, both of the same version."""

    def write(self, key: str, data: bytes) -> str:
        """Write a small object, replacing any; returns its etag."""

    def create(self, key: str, data: bytes) -> str:
        """Write a small object where there is none; returns its etag. Raises `Changed` when there is one."""

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Replace the version `etag` of a small object; returns the new etag. Raises `Changed` otherwise."""

    def download(
        self, items: Sequence[Download], advance: Advance = no_advance, arrived: Arrived = no_arrival
    ) -> list[str]:
        """Bring objects to the disk, many at a time; returns the sha256 of each, in order.

        A file appears whole or not at all, and is not flushed: after a power cut it may be torn, so whoever
        will trust it then flushes it, or reads it again. What a cut left behind is taken up again by the next
        call for the same target before the machine is started again, as long as the object is the same
        version: it raises `Changed` when it is another one.
        """

    def bring(self, items: Sequence[Download], advance: Advance, landed: Landed, digests: Background) -> None:
        """Bring objects to the disk as `download` does, without waiting for their digests.

        Those that take long are taken in the background, from files that must stay, or be renamed, until
        they are known.
        """

    def upload(self, items: Sequence[Upload], advance: Advance = no_advance) -> list[str]:
        """Bring files to the store, many at a time; returns the sha256 of each as it was read, in order.

        An object appears whole or not at all.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; keys that are not there are no error."""

    def now(self) -> float:
        """Return seconds since 1970 by the store's own clock."""

    def abort_stale_uploads(self, older_than_s: float) -> int:
        """Remove what unfinished uploads left behind, older than so many seconds; returns how many."""
