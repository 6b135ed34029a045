"""Dataset and checkpoint folders of a store on this machine: listed, downloaded once, shown as a folder."""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from job.device import available_cpus
from job.errors import InputError, IntegrityError, JobError, TryAgain
from job.logs import Log, raise_if_stopped
from job.progress import Progress
from job.storage.background import Background
from job.storage.beside import nothing_at
from job.storage.flushing import Flushing
from job.storage.local import naming_a_full_disk, sha256_json
from job.storage.names import inner_name
from job.storage.object_cache import ObjectCache, seal
from job.storage.store import Changed, ObjectStore, Stat
from job.storage.uris import open_store, parent_and_name
from job.storage.view_building import Build, is_shard
from job.storage.views import View, Views

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
SLACK = 1.05
"""Of the disk space that a download takes: folders, and blocks that are not full."""
_LONGEST_NAME = 255
_WAIT_S = 0.1


@dataclass(frozen=True)
class Listing:
    """What a folder of a store holds, without having read any of it."""

    uri: str
    """The folder, or the one object."""
    store: ObjectStore = field(repr=False, compare=False)
    objects: tuple[Stat, ...]
    """By key; markers of empty folders are left out."""
    unpack: bool = False
    """Whether archives (`.tar`) stand for the files in them."""

    @property
    def total_bytes(self) -> int:
        """Size of all objects."""
        return _size(self.objects)

    @cached_property
    def digest(self) -> str:
        """A sha256 over key, size and etag of every object: another one whenever the content is another."""
        is_unpacked = self.unpack and any(is_shard(found.key) for found in self.objects)
        return sha256_json([is_unpacked, [(found.key, found.size, found.etag) for found in self.objects]])

    def again(self) -> "Listing":
        """Return the listing as it is now."""
        if self.uri == self.store.uri:
            return listing(self.uri, unpack=self.unpack)
        return listing_of_file(self.uri)


def listing(uri: str, *, unpack: bool = False) -> Listing:
    """List the folder that a URI names; with `unpack`, archives in it are datasets' shards.

    Raises `Missing`, which says what there is instead, `Denied`, `InputError` for shards that are compressed,
    and `IntegrityError` for keys that cannot be files of one folder.
    """
    store = open_store(uri)
    found = [one for one in store.entries() if one.size or not (one.key.endswith("/") or one.key == "")]
    if not found:
        raise nothing_at(uri)
    for one in found:
        _require_safe(store.uri, one.key)
        if unpack and one.key.lower().endswith(COMPRESSED):
            raise InputError(
                f"{store.uri}/{one.key}: compressed archives are not unpacked",
                advice="write it with `tar -cf`: pictures are compressed already",
            )
    return Listing(store.uri, store, tuple(sorted(found, key=lambda one: one.key)), unpack)


def listing_of_file(uri: str) -> Listing:
    """List the single object that a URI names; raises `Missing` and `Denied`."""
    parent, name = parent_and_name(uri)
    store = open_store(parent)
    found = store.stat(name)
    if found is None:
        raise nothing_at(uri)
    _require_safe(store.uri, name)
    return Listing(uri, store, (found,))


class Fetcher:
    """Brings listings to this machine; what it returned stays until it is closed or the process ends."""

    def __init__(self, cache: Path, max_bytes: int, progress: Progress, log: Log) -> None:
        self._cache = ObjectCache(cache)
        self._views = Views(cache / "inputs")
        self._digests = Background("digest", available_cpus())
        self._flushing = Flushing(seal)
        self._max_bytes = max_bytes
        self._progress = progress
        self._log = log
        self._here: dict[str, Path] = {}
        self._unverified: dict[str, _Unverified] = {}
        self._uri_of: dict[str, str] = {}

    def folder(self, listing: Listing) -> Path:
        """Return a read-only folder with the files of a listing, downloading what is not here yet.

        Raises what the store raises, `IntegrityError` for content that is not what a digest beside it
        promises and for hostile archives, and `TryAgain` when the disk has no room or when objects change.
        """
        folder = self.bring(listing)
        self.verify()
        return folder

    def bring(self, listing: Listing) -> Path:
        """Download what is not here yet; returns the folder, which is nobody's to use before `verify`.

        The digests of its large files are taken meanwhile, while the next listing is brought. Raises what
        `folder` raises.
        """
        if listing.digest in self._here:
            return self._here[listing.digest]
        # Of two listings with an object in common the second one finds it in the cache.
        self.verify(of=listing.store.uri)
        view = self._views.open(listing.digest, _wait)
        arrived: list[Stat] = []
        if not view.is_complete():
            with ExitStack() as held:
                held.enter_context(view.building(_wait))
                if not view.is_complete():
                    with naming_a_full_disk(view.folder):
                        arrived, build = self._build(listing, view)
                    self._unverified[listing.digest] = _Unverified(listing, view, build, held.pop_all())
        self._log.info(
            "pull.fetched", uri=listing.uri, files=len(view.files()), bytes=listing.total_bytes,
            downloaded_files=len(arrived), downloaded_bytes=_size(arrived),
        )  # fmt: skip
        self._here[listing.digest] = view.folder
        for folder in (view.folder, view.folder.resolve()):
            self._uri_of[str(folder)] = listing.store.uri
        return view.folder

    def verify(self, of: str | None = None) -> None:
        """Wait until all that was brought is digested and what it should be; of one store's place, if named.

        Raises what `folder` raises of content.
        """
        for digest, one in list(self._unverified.items()):
            if of in (None, one.listing.store.uri):
                del self._unverified[digest]
                with one.held, naming_a_full_disk(one.view.folder):
                    try:
                        self._verify(one)
                    except BaseException:
                        self._here.pop(digest, None)
                        raise

    def digests(self, listing: Listing) -> dict[Path, str]:
        """Return the sha256 of each file of a listing that was brought and verified."""
        view = self._views.open(listing.digest, _wait)
        return {view.folder / path: sha256 for path, sha256 in view.digests().items()}

    def file(self, listing: Listing) -> Path:
        """Return the file of a listing of one object."""
        (found,) = listing.objects
        return self.folder(listing) / found.key

    @contextmanager
    def named(self) -> Iterator[None]:
        """Within: errors about what was fetched name its place in the store, where a user can mend it."""
        try:
            yield
        except JobError as error:
            error.args = (self.as_users_know(str(error)),)
            error.advice = self.as_users_know(error.advice)
            raise

    def as_users_know(self, text: str) -> str:
        """Return a text that names places in the store where it named their copies on this machine."""
        for folder, uri in self._uri_of.items():
            text = text.replace(folder, uri)
        return text

    def settle(self) -> None:
        """Wait until all that was brought is on the disk, which goes on while the job works with it.

        Raises `TryAgain` when the disk fails: what was made of its content is not to be kept.
        """
        try:
            while not self._flushing.wait(_WAIT_S):
                raise_if_stopped()
        except OSError as error:
            raise TryAgain(
                f"{self._views.root}: the disk could not keep what was downloaded ({error.strerror})",
                advice="check the disk, or set cache.uri to a folder on another; then run the same command",
            ) from error

    def close(self) -> None:
        """Let other processes remove what was returned."""
        self._here.clear()
        while self._unverified:
            self._unverified.popitem()[1].held.close()
        self._views.close()

    def _build(self, listing: Listing, view: View) -> tuple[list[Stat], Build]:
        try:
            return self._fill(listing, view)
        except Changed as change:
            # The run is named for what was listed: other content would be passed off as that.
            if listing.again().digest != listing.digest:
                raise _changed(listing, change) from change
        try:
            return self._fill(listing, view)
        except Changed as change:
            raise _changed(listing, change) from change

    def _fill(self, listing: Listing, view: View) -> tuple[list[Stat], Build]:
        build = Build(listing.store, listing.objects, view, self._cache, self._digests, unpack=listing.unpack)
        self._cache.remove_stale_downloads(time.time())
        missing = build.take_over()
        self._make_room(listing, build, missing)
        with self._progress.task("downloading", _size(missing), "bytes") as task:
            lock = threading.Lock()

            def advance(n_bytes: int) -> None:
                with lock:
                    task.advance(n_bytes)

            build.bring(missing, advance)
            if build.has_shards:  # nothing is unpacked that was not verified
                build.verify(_wait_for)
                build.unpack(lambda: task.advance(0))
        return missing, build

    def _verify(self, one: "_Unverified") -> None:
        build = one.build
        try:
            build.verify(_wait_for)
        except FileNotFoundError:  # another process has it, too, and was faster to take it into the cache
            _, build = self._build(one.listing, one.view)
            build.verify(_wait_for)
        build.finish()
        self._flushing.add(build.unsealed)

    def _make_room(self, listing: Listing, build: Build, missing: Sequence[Stat]) -> None:
        needed = build.needed_bytes(missing)
        if not needed:
            return
        if listing.total_bytes > self._max_bytes:
            self._log.warning(
                "job.warning",
                message=f"{listing.uri} has {_gb(listing.total_bytes)}, more than the cache is to keep"
                f" (cache.max_gb, {_gb(self._max_bytes)}): it is fetched, and everything unused removed",
            )
        unverified = sum(one.listing.total_bytes for one in self._unverified.values())
        self._views.make_room(self._cache, int((needed + unverified) * SLACK), self._max_bytes)
        free = shutil.disk_usage(self._views.root).free
        if free < needed * SLACK:
            raise TryAgain(
                f"{listing.uri}: {_gb(needed * SLACK)} are to be downloaded,"
                f" and the disk of {self._views.root} has {_gb(free)} free",
                advice="free space, or set cache.uri to a folder on a larger disk; then run the same command",
            )


@dataclass(frozen=True)
class _Unverified:
    """What was brought and is not verified yet; its view is locked until then."""

    listing: Listing
    view: View
    build: Build
    held: ExitStack


def _size(objects: Iterable[Stat]) -> int:
    return sum(found.size for found in objects)


def _wait() -> None:
    raise_if_stopped()
    time.sleep(_WAIT_S)


def _wait_for(digest: "Future[str]") -> None:
    while not digest.done():
        raise_if_stopped()
        with suppress(TimeoutError):
            digest.exception(_WAIT_S)


def _changed(listing: Listing, change: Changed) -> TryAgain:
    return TryAgain(
        f"{listing.uri}: {change} changed while it was being downloaded",
        advice="run the same command when nobody writes there any more: what is here already is kept",
    )


def _require_safe(uri: str, key: str) -> None:
    try:
        is_short = all(len(part.encode()) <= _LONGEST_NAME for part in inner_name(key).split("/"))
    except ValueError:  # a name that leads elsewhere, or one that is no text
        is_short = False
    if not is_short:
        raise IntegrityError(
            f"{uri}: the key {key!r} cannot be the path of a file",
            advice="rename or remove the object: keys are names of at most 255 bytes with one / between them",
        )


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
