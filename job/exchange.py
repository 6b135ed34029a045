"""What verbs read and write where places may be in a store: a folder on this machine stands for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from job.logs import Log
from job.places import default_cache
from job.progress import Progress
from job.spec.runtime import CacheSpec
from job.storage.fetch import Fetcher, listing, listing_of_file
from job.storage.local import local_path, write_atomic
from job.storage.store import ObjectStore, Upload
from job.storage.uris import is_remote, open_store, parent_and_name


class Inbox:
    """Brings what is in a store to this machine; touches no cache while everything is local."""

    def __init__(self, progress: Progress, log: Log) -> None:
        self._progress, self._log = progress, log
        self._fetcher: Fetcher | None = None

    def fetcher(self) -> Fetcher:
        """Return the fetcher, the same one at every call: what it brought stays while it lives."""
        if self._fetcher is None:
            max_bytes = int(CacheSpec().max_gb * 1e9)
            self._fetcher = Fetcher(default_cache(), max_bytes, self._progress, self._log)
        return self._fetcher

    def folder(self, uri: str) -> Path:
        """Return a dataset folder: the local one, or the copy of one in a store."""
        return self.fetcher().folder(listing(uri, unpack=True)) if is_remote(uri) else local_path(uri)

    def images(self, uri: str) -> Path:
        """Return an image or a folder of images."""
        if not is_remote(uri):
            return local_path(uri)
        parent, name = parent_and_name(uri)
        is_file = bool(name) and not uri.endswith("/") and open_store(parent).stat(name) is not None
        return self.fetcher().file(listing_of_file(uri)) if is_file else self.folder(uri)

    def close(self) -> None:
        """Let go of what was brought: it may make room for other downloads from now on."""
        if self._fetcher is not None:
            self._fetcher.close()


@dataclass(frozen=True)
class Outbox:
    """Where a verb writes: `folder`, from where `send` brings it to its store, if it has one."""

    uri: str
    folder: Path
    store: ObjectStore | None

    def send(self, last: str, data: str) -> None:
        """Bring everything written so far to its place and then, whole, the file that readers wait for."""
        if self.store is None:
            write_atomic(self.folder / last, data)
            return
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and path.name != last)
        self.store.upload([Upload(path, path.relative_to(self.folder).as_posix()) for path in files])
        self.store.write(last, data.encode())


@contextmanager
def outbox(uri: str) -> Iterator[Outbox]:
    """Open a place to write to; a store that cannot be reached is found out now, before any work."""
    if not is_remote(uri):
        yield Outbox(uri, local_path(uri), None)
        return
    store = open_store(uri)
    next(store.entries("."), None)  # a listing tells a missing bucket, a look at a key does not
    with TemporaryDirectory(prefix="outgoing-") as folder:
        yield Outbox(store.uri, Path(folder), store)
