"""What verbs read and write where places may be in a store: a folder on this machine stands for each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from job.errors import InputError
from job.logs import Log
from job.places import default_cache
from job.progress import Progress
from job.spec.runtime import CacheSpec
from job.storage import preflight
from job.storage.fetch import Fetcher, Listing, listing, listing_of_file
from job.storage.local import local_path, private_folder, write_atomic
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
        return self.bring(find_folder(uri))

    def bring(self, found: "Path | Listing") -> Path:
        """Return the file or folder on this machine, downloading what is not here yet."""
        if isinstance(found, Path):
            return found
        private_folder(default_cache())
        is_folder = found.uri == found.store.uri
        return self.fetcher().folder(found) if is_folder else self.fetcher().file(found)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Within: errors name places in the store, not their copies on this machine."""
        with self.fetcher().named():
            yield

    def as_users_know(self, text: str) -> str:
        """Return a text that names places in the store where it named their copies on this machine."""
        return self.fetcher().as_users_know(text)

    def close(self) -> None:
        """Let go of what was brought: it may make room for other downloads from now on."""
        if self._fetcher is not None:
            self._fetcher.close()


def find_folder(uri: str) -> Path | Listing:
    """Find a dataset folder, fetching nothing; raises what `listing` raises, and nothing for local places."""
    return listing(uri, unpack=True) if is_remote(uri) else local_path(uri)


def find_images(uri: str) -> Path | Listing:
    """Find an image or a folder of images, likewise."""
    if not is_remote(uri):
        return local_path(uri)
    parent, name = parent_and_name(uri)
    is_file = bool(name) and not uri.endswith("/") and open_store(parent).stat(name) is not None
    return listing_of_file(uri) if is_file else find_folder(uri)


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
def outbox(uri: str, *, new: bool = False) -> Iterator[Outbox]:
    """Open a place to write to; one that cannot be written is found out now, before any work.

    Raises `InputError` for it, and what `preflight.check` raises; with `new` also for a place where something
    is already: what is written would lie among it.
    """
    if not is_remote(uri):
        folder = local_path(uri)
        _require_writable(folder)
        if new and folder.is_dir() and any(folder.iterdir()):
            raise _not_empty(uri)
        yield Outbox(uri, folder, None)
        return
    store = open_store(uri)
    preflight.check(store)
    if new and any(name != f"{preflight.PROBE}/" for name in store.children()):
        raise _not_empty(uri)
    with TemporaryDirectory(prefix="outgoing-") as outgoing:
        yield Outbox(store.uri, Path(outgoing), store)


def _require_writable(folder: Path) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is not a folder", advice="name another place to write to")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{existing} must not be written to", advice="name another place to write to")


def _not_empty(uri: str) -> InputError:
    return InputError(
        f"{uri} is not empty: what is there would be mixed with what is made",
        advice="name another place, or remove what is there first",
    )
