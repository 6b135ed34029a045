"""Filling a view: what is known is linked, the rest downloaded, held against its digests, and unpacked."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import accumulate
from pathlib import Path

from job.errors import IntegrityError
from job.storage import tar_files
from job.storage.background import Background
from job.storage.checksums import Promises, promises_digests
from job.storage.local import sha256_file
from job.storage.object_cache import READ_BYTES, Content, Known, ObjectCache
from job.storage.store import Advance, Download, ObjectStore, Stat
from job.storage.views import View

SHARD = ".tar"
NOTED_AT_ONCE = 64
"""Small files that are entered into the index together: that costs as much as for one."""


def is_shard(key: str) -> bool:
    """Return whether an object of a dataset, by its key, stands for the files in it."""
    return key.lower().endswith(SHARD)


class Build:
    """A view on its way. What arrives is kept at once: whoever goes on after a cut fetches the rest alone.

    First everything is brought, and files appear in the view; it is complete when all was verified, and what
    is an archive unpacked.
    """

    def __init__(
        self,
        store: ObjectStore,
        objects: Sequence[Stat],
        view: View,
        cache: ObjectCache,
        digests: Background,
        *,
        unpack: bool,
    ) -> None:
        """`digests` are taken of large files. Raises `IntegrityError` for a path that is another's folder."""
        self._store, self._objects, self._view, self._cache = store, objects, view, cache
        self._digests = digests
        self._read = sum(source.size for source in objects) <= READ_BYTES
        self._index = cache.index(store.uri)
        self._promises = Promises({})
        self._tree = _Tree()
        self._shards = [source for source in objects if unpack and is_shard(source.key)]
        self._keys_of_shards = {source.key for source in self._shards}
        self._targets: dict[str, Path] = {}
        self._known: dict[str, Known] = {}
        """Objects whose content the view shows, by key."""
        self._arrived: dict[str, Future[str]] = {}
        """sha256 of whole downloads that wait to be verified, by key."""
        self._verified: dict[str, Stat] = {}
        """Those of them that wait for some more, to be noted together."""
        self.unsealed: list[Path] = []
        """What the view shows and was not flushed to the disk."""
        for source in objects:
            if not self._is_shard(source):
                self._tree.add(source.key, self._name(source))

    def take_over(self) -> list[Stat]:
        """Show what this machine has already; returns the objects that it has not."""
        self._view.remove_links()
        missing = []
        for source in self._objects:
            known = self._index.get(source)
            if known is not None and self._shown(source, known):
                self._known[source.key] = known
            elif _has_size(self._target(source), source.size):
                digest = self._digests.submit(partial(sha256_file, self._target(source)))
                self._land(Download(source, self._target(source)), digest)
            else:
                missing.append(source)
        return missing

    def needed_bytes(self, missing: Sequence[Stat]) -> int:
        """Return what downloading and unpacking will take of the disk."""
        begun = self._cache.begun_bytes(self._target(source) for source in missing)
        shards = (source.size for source in self._shards if source.key not in self._known)
        return max(sum(source.size for source in missing) - begun, 0) + sum(shards)

    @property
    def has_shards(self) -> bool:
        """Whether there is something to unpack."""
        return bool(self._shards)

    def bring(self, missing: Sequence[Stat], advance: Advance) -> None:
        """Bring objects here and show them, those first that hold digests of the others.

        Raises what the store raises, and `IntegrityError` for a file that is promised and not there.
        """
        lists = [source for source in self._objects if promises_digests(source.key)]
        self._bring([source for source in missing if promises_digests(source.key)], advance)
        for source in lists:
            self._verify(source)
        self._note_verified()
        self._promises = Promises.read(
            [one.key for one in lists], lambda key: self._view.folder / key, self._store.uri
        )
        if not self._shards:
            self._promises.require_all(self._store.uri, self._tree.files)
        self._bring([source for source in missing if not promises_digests(source.key)], advance)

    def verify(self, wait: Callable[["Future[str]"], object]) -> None:
        """Take into the cache what is what it should be; `wait` waits for a digest, and may raise.

        Raises `IntegrityError` for content that differs from its promised digest, which is kept nowhere.
        """
        for digest in self._arrived.values():
            wait(digest)
        broken = [source for source in self._objects if not self._is_kept(source)]
        for source in self._objects:
            self._verify(source)
        self._note_verified()
        if broken:
            raise self._promises.broken(self._store.uri, broken[0].key)

    def unpack(self, pause: Callable[[], None]) -> None:
        """Show the files of archives; `pause` is called after each, and may raise.

        Raises `IntegrityError` for archives that are hostile or damaged, or that hold a file of another.
        """
        for source in self._shards:
            for path in self._members(source):
                owner = f"{self._name(source)}: the member {path!r}"
                self._tree.add(_landing(source, path), owner)
        named = (*self._tree.files, *(source.key for source in self._shards))
        self._promises.require_all(self._store.uri, named)
        for source in self._shards:
            if source.key in self._arrived:
                self._unpack_arrived(source, pause)
            self._require_kept_members(source)

    def finish(self) -> None:
        """Make the view complete."""
        digests = {}
        for source in self._objects:
            known = self._known[source.key]
            if known.members is None:
                digests[source.key] = known.content.sha256
            else:
                digests |= {_landing(source, path): one.sha256 for path, one in known.members.items()}
        self._view.finish(self._store.uri, digests)

    def _bring(self, sources: Sequence[Stat], advance: Advance) -> None:
        if sources:
            items = [Download(source, self._target(source)) for source in sources]
            try:
                self._store.bring(items, advance, self._land, self._digests)
            finally:
                self._note_verified()

    def _land(self, item: Download, digest: "Future[str]") -> None:
        """Show what has arrived while the rest is on its way; what is verified already for good."""
        source = item.source
        self._arrived[source.key] = digest
        if self._is_shard(source):
            return
        if not digest.done():
            self._cache.lend(item.target, self._view.folder / source.key)
        elif digest.exception() is None and self._promises.kept(source.key, digest.result()):
            self._verify(source)

    def _verify(self, source: Stat) -> None:
        if source.key in self._arrived and not self._is_shard(source):
            self._verified[source.key] = source
            if len(self._verified) == NOTED_AT_ONCE:
                self._note_verified()

    def _note_verified(self) -> None:
        known = {
            source: Known(Content(self._arrived.pop(key).result(), source.size))
            for key, source in self._verified.items()
        }
        self._verified = {}
        self._index.put_all(known)  # first: a kill in between costs nothing
        for source, one in known.items():
            self._known[source.key] = one
            self._admit(self._target(source), one.content, source.key)

    def _admit(self, file: Path, content: Content, path: str) -> None:
        shown = self._view.folder / path
        self._cache.admit(file, content, shown)
        self.unsealed.append(shown)

    def _remember(self, source: Stat, known: Known) -> None:
        self._index.put(source, known)
        self._known[source.key] = known

    def _shown(self, source: Stat, known: Known) -> bool:
        if self._is_shard(source) != (known.members is not None):
            return False  # it was fetched for another purpose
        if known.members is None:
            return self._cache.show(known.content, self._view.folder / source.key, read=self._read)
        return all(
            self._cache.show(content, self._view.folder / _landing(source, path), read=self._read)
            for path, content in known.members.items()
        )

    def _is_kept(self, source: Stat) -> bool:
        """Return whether content is what was promised; what is not is kept nowhere."""
        known = self._known.get(source.key)
        sha256 = known.content.sha256 if known else self._arrived[source.key].result()
        if self._promises.kept(source.key, sha256):
            return True
        if self._arrived.pop(source.key, None) is not None and not self._is_shard(source):
            (self._view.folder / source.key).unlink(missing_ok=True)
        self._target(source).unlink(missing_ok=True)
        if known is not None:
            self._discard(source, known)
        return False

    def _discard(self, source: Stat, known: Known) -> None:
        self._index.drop(source)
        del self._known[source.key]
        for path, content in (known.members or {"": known.content}).items():
            self._cache.forget(content)
            shown_at = _landing(source, path) if path else source.key
            (self._view.folder / shown_at).unlink(missing_ok=True)

    def _members(self, source: Stat) -> list[str]:
        known = self._known.get(source.key)
        if known is not None and known.members is not None:
            return list(known.members)
        try:
            return [member.path for member in tar_files.members(self._target(source), self._name(source))]
        except IntegrityError:
            self._target(source).unlink()
            raise

    def _unpack_arrived(self, source: Stat, pause: Callable[[], None]) -> None:
        archive = self._target(source)
        loose = archive.with_name(f"{archive.name}.member")
        members = {}
        for member in tar_files.members(archive, self._name(source)):
            loose.unlink(missing_ok=True)
            members[member.path] = Content(tar_files.copy_member(member, loose), member.size)
            self._admit(loose, members[member.path], _landing(source, member.path))
            pause()
        self._remember(source, Known(Content(self._arrived.pop(source.key).result(), source.size), members))
        archive.unlink()

    def _require_kept_members(self, source: Stat) -> None:
        known = self._known[source.key]
        for path, content in (known.members or {}).items():
            if not self._promises.kept(_landing(source, path), content.sha256):
                self._discard(source, known)
                raise self._promises.broken(self._store.uri, _landing(source, path))

    def _is_shard(self, source: Stat) -> bool:
        return source.key in self._keys_of_shards

    def _target(self, source: Stat) -> Path:
        found = self._targets.get(source.key)
        if found is None:
            found = self._targets[source.key] = self._cache.target(self._store.uri, source)
        return found

    def _name(self, source: Stat) -> str:
        return f"{self._store.uri}/{source.key}"


class _Tree:
    """The paths of a view: each has one owner, and none is another one's folder."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self._folders: set[str] = set()

    def add(self, path: str, owner: str) -> None:
        """Add a file; raises `IntegrityError`, naming both owners, when its place is taken."""
        parents = list(accumulate(path.split("/")[:-1], "{}/{}".format))  # no Path: there may be thousands
        taken = next((one for one in (path, *parents) if one in self.files), None)
        if taken is not None or path in self._folders:
            other = self.files[taken] if taken is not None else "the folder of other files"
            raise IntegrityError(
                f"{owner} would lie at {path}, which is taken by {other}",
                advice="remove or rename one of the two",
            )
        self.files[path] = owner
        self._folders.update(parents)


def _landing(shard: Stat, path: str) -> str:
    """Return where a member belongs: as if it had been an object beside its shard."""
    folder = shard.key.rpartition("/")[0]
    return f"{folder}/{path}" if folder else path


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
