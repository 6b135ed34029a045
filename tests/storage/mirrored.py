"""Stores that count, fail and tell another time, for tests of what is built on a store."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from job.logs import EVENTS, Log
from job.storage.store import Advance, Arrived, Download, ObjectStore, Stat, Upload, no_advance, no_arrival

Hook = Callable[[str, str], None]
"""Is told of an operation and its key before it happens; may raise."""


class Told:
    """A log of its own, whose events can be asked for."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []

    @property
    def log(self) -> Log:
        """What is given to the program."""
        return cast("Log", self)

    def info(self, event: str, **facts: Any) -> None:
        assert event in EVENTS
        self._lines.append({"event": event, **facts})

    warning = info

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name, in order."""
        return [line for line in self._lines if line["event"] == name]


@dataclass
class Watch:
    """What the store below was asked for, by all that share it."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    hook: Hook = lambda operation, key: None
    later_s: float = 0.0
    """How far the store's clock is ahead of its objects'."""

    def __call__(self, operation: str, key: str) -> None:
        self.asked.append((operation, key))
        self.hook(operation, key)

    def count(self, operation: str, part: str = "") -> int:
        """Return how often an operation was asked for on keys with `part` in them."""
        return sum(asked == operation and part in key for asked, key in self.asked)


@dataclass(frozen=True)
class Watched:
    """A store that tells `watch` what it is asked for."""

    store: ObjectStore
    watch: Watch
    prefix: str = ""

    @property
    def uri(self) -> str:
        return self.store.uri

    def at(self, prefix: str) -> "Watched":
        return replace(self, store=self.store.at(prefix), prefix=f"{self.prefix}{prefix}/" if prefix else "")

    def stat(self, key: str) -> Stat | None:
        self.watch("stat", self.prefix + key)
        return self.store.stat(key)

    def entries(self, prefix: str = "") -> Iterator[Stat]:
        self.watch("entries", self.prefix + prefix)
        return self.store.entries(prefix)

    def read(self, key: str) -> tuple[bytes, str]:
        self.watch("read", self.prefix + key)
        return self.store.read(key)

    def write(self, key: str, data: bytes) -> str:
        self.watch("write", self.prefix + key)
        return self.store.write(key, data)

    def create(self, key: str, data: bytes) -> str:
        self.watch("create", self.prefix + key)
        return self.store.create(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        self.watch("replace", self.prefix + key)
        return self.store.replace(key, data, etag)

    def download(
        self, items: Sequence[Download], advance: Advance = no_advance, arrived: Arrived = no_arrival
    ) -> list[str]:
        for item in items:
            self.watch("download", self.prefix + item.source.key)
        return self.store.download(items, advance, arrived)

    def upload(self, items: Sequence[Upload], advance: Advance = no_advance) -> list[str]:
        for item in items:
            self.watch("upload", self.prefix + item.key)
        return self.store.upload(items, advance)

    def delete(self, keys: Iterable[str]) -> None:
        gone = list(keys)
        for key in gone:
            self.watch("delete", self.prefix + key)
        self.store.delete(gone)

    def now(self) -> float:
        self.watch("now", self.prefix)
        return self.store.now() + self.watch.later_s

    def abort_stale_uploads(self, older_than_s: float) -> int:
        self.watch("abort_stale_uploads", self.prefix)
        return self.store.abort_stale_uploads(older_than_s)


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now
