"""Filling a view: what is known is linked, the rest downloaded, held against its digests, and unpacked."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from job.errors import IntegrityError
from job.storage import tar_files
from job.storage.checksums import Promises, promises_digests
from job.storage.local import sha256_file
from job.storage.object_cache import READ_BYTES, Content, Known, ObjectCache
from job.storage.store import Advance, Download, ObjectStore, Stat
from job.storage.views import View

SHARD = ".tar"


def is_shard(key: str) -> bool:
    """Return whether an object of a dataset, by its key, stands for the files in it."""
    return key.lower().endswith(SHARD)


class Build:
    """A view on its way. What arrives is kept at once: whoever goes on after a cut fetches the rest alone."""

    def __init__(
        self, store: ObjectStore, objects: Sequence[Stat], view: View, cache: ObjectCache, *, unpack: bool
    ) -> None:
        """Raises `IntegrityError` when an object's path is another one's folder."""
        self._store, self._objects, self._view, self._cache = store, objects, view, cache
        self._unpack = unpack
        self._read = sum(source.size for source in objects) <= READ_BYTES
        self._index = cache.index(store.uri)
        self._promises = Promises({})
        self._tree = _Tree()
        self._known: dict[str, Known] = {}
        """Objects whose content the view shows, by key."""
        self._arrived: dict[str, str] = {}
        """sha256 of whole downloads that wait to be shown, by key."""
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
                self._arrived[source.key] = sha256_file(self._target(source))
            else:
                missing.append(source)
        return missing

    def needed_bytes(self, missing: Sequence[Stat]) -> int:
        """Return what downloading and unpacking will take of the disk."""
        begun = self._cache.begun_bytes(self._target(source) for source in missing)
        shards = (source.size for source in self._shards if source.key not in self._known)
        return max(sum(source.size for source in missing) - begun, 0) + sum(shards)

    def download(self, missing: Sequence[Stat], advance: Advance) -> None:
        """Bring objects here and show them, those first that hold digests of the others.

        Raises what the store raises, and `IntegrityError` for content that differs from its promised digest.
        """
        self._bring([source for source in missing if promises_digests(source.key)], advance)
        lists = [source for source in self._objects if promises_digests(source.key)]
        for source in lists:
            self._show_arrived(source)
        self._promises = Promises.read(
            [one.key for one in lists], lambda key: self._view.folder / key, self._store.uri
        )
        if not self._shards:
            self._promises.require_all(self._store.uri, self._tree.files)
        self._bring([source for source in missing if not promises_digests(source.key)], advance)
        broken = [source for source in self._objects if not self._is_kept(source)]
        for source in self._objects:
            self._show_arrived(source)
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
            self._store.download(items, advance, self._take)

    def _take(self, item: Download, sha256: str) -> None:
        """Show what has arrived while the rest is on its way."""
        source = item.source
        self._arrived[source.key] = sha256
        if self._promises.kept(source.key, sha256):
            self._show_arrived(source)

    def _show_arrived(self, source: Stat) -> None:
        if source.key in self._arrived and not self._is_shard(source):
            content = Content(self._arrived.pop(source.key), source.size)
            self._remember(source, Known(content))  # first: a kill in between costs nothing
            self._admit(self._target(source), content, source.key)

    def _admit(self, file: Path, content: Content, path: str) -> None:
        self._cache.admit(file, content, self._view.folder / path)
        self.unsealed.append(self._view.folder / path)

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
        sha256 = known.content.sha256 if known else self._arrived[source.key]
        if self._promises.kept(source.key, sha256):
            return True
        self._arrived.pop(source.key, None)
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
        self._remember(source, Known(Content(self._arrived.pop(source.key), source.size), members))
        archive.unlink()

    def _require_kept_members(self, source: Stat) -> None:
        known = self._known[source.key]
        for path, content in (known.members or {}).items():
            if not self._promises.kept(_landing(source, path), content.sha256):
                self._discard(source, known)
                raise self._promises.broken(self._store.uri, _landing(source, path))

    @property
    def _shards(self) -> list[Stat]:
        return [source for source in self._objects if self._is_shard(source)]

    def _is_shard(self, source: Stat) -> bool:
        return self._unpack and is_shard(source.key)

    def _target(self, source: Stat) -> Path:
        return self._cache.target(self._store.uri, source)

    def _name(self, source: Stat) -> str:
        return f"{self._store.uri}/{source.key}"


class _Tree:
    """The paths of a view: each has one owner, and none is another one's folder."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self._folders: set[str] = set()

    def add(self, path: str, owner: str) -> None:
        """Add a file; raises `IntegrityError`, naming both owners, when its place is taken."""
        parents = [str(parent) for parent in PurePosixPath(path).parents]
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
