"""The mirror of an output in a store: work is uploaded as it is made, and comes back onto an empty disk.

    stages/<stage>/<fingerprint>.tar   a finished stage
    work/<stage>-<fingerprint>.tar     what an unfinished stage left in its scratch folder
    cache/<group>/                     packs of cached files (job.storage.cache_group)

A thread looks every `every_s` seconds for what is new. It reads and never changes what the work writes.
"""

import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from job import stopping
from job.errors import IntegrityError, Missing, StoreFailure, storage_error
from job.logs import Log, raise_if_stopped
from job.storage.cache_group import CacheGroup, Moved
from job.storage.local import exclusive
from job.storage.packs import Version, pack, snapshot, staging, unpack_snapshot, versions
from job.storage.patience import patiently
from job.storage.sealed_folder import RECORD, read_sealed
from job.storage.store import Changed, Download, ObjectStore, Stat, Upload
from job.storage.tar_files import unpack

Key = tuple[str, str]
"""A stage's name and fingerprint."""
ENDING_S = 3.0
"""How long `close` waits for the thread: it is in a request to the store at most."""


class StoreMirror:
    """Keeps a store's copy of `root/stages/` and of caches below `cache/`; see `job.storage.mirror.Mirror`.

    A store that fails is tried again at the next look, and told of: the work goes on. What no further try can
    mend (a refusal, a full disk) stops the work through `job.stopping` and is raised by `flush`.
    With an infinite `every_s` nothing is done but what `tick` and `flush` are called for.
    """

    def __init__(
        self,
        root: Path,
        cache: Path,
        store: ObjectStore,
        log: Log,
        *,
        every_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._cache, self._store, self._log = root, cache, store, log
        self._every_s, self._clock = every_s, clock
        self.due = clock() + every_s
        """When the thread looks next, by `clock`."""
        self._scratch: dict[Key, dict[str, Version]] = {}
        """What the store has of the scratch folders of stages that are not finished."""
        self._finished: list[Key] = []
        """Results that the store lacks."""
        self._brought: set[Key] = set()
        """Results that the store was seen to have."""
        self._groups: dict[str, CacheGroup] = {}
        self._also: dict[Path, tuple[str, Version | None]] = {}
        self._fatal: Exception | None = None
        self._changing = threading.Lock()
        """Guards the five above."""
        self._bringing = threading.Lock()
        """Held by who uploads: the thread, or `flush`."""
        self._is_flushing = False
        self._restoring = threading.Lock()
        self._closing = threading.Event()
        self._give_up_at = math.inf
        self._thread: threading.Thread | None = None
        if math.isfinite(every_s):
            self._thread = threading.Thread(target=self._look_again_and_again, name="mirror", daemon=True)
            self._thread.start()

    def restore_stage(self, stage: str, fingerprint: str) -> None:
        """Bring a stage's result, or what an interrupted attempt left of it, where this disk has neither."""
        patiently(stage, lambda: self._restore_stage(stage, fingerprint), self._log)

    def _restore_stage(self, stage: str, fingerprint: str) -> None:
        key, home = (stage, fingerprint), self._root / "stages" / stage
        if (home / fingerprint / RECORD).exists():
            os.utime(home / fingerprint)  # it is used: see `WorkingCopy.make_room`
            if key not in self._brought and self._store.stat(_stage_key(key)) is None:
                self.keep_stage(stage, fingerprint)  # who finished it was killed before it was uploaded
            return
        found = self._store.stat(_stage_key(key))
        if found is not None and self._restore_result(key, found, home):
            self._brought.add(key)
            return
        partial = home / f"{fingerprint}.partial"
        kept: dict[str, Version] = {}
        left = None if partial.exists() else self._store.stat(_work_key(key))
        if left is not None and self._restore_scratch(key, left, home, partial):
            kept = versions(partial / "scratch")
        with self._changing:
            self._scratch[key] = kept

    def keep_stage(self, stage: str, fingerprint: str) -> None:
        """Have a finished stage's result uploaded by the next look, in place of its scratch."""
        with self._changing:
            self._scratch.pop((stage, fingerprint), None)
            if (stage, fingerprint) not in self._finished:
                self._finished.append((stage, fingerprint))

    def restore_cache(self, group: str) -> None:
        """Bring the files of `cache/<group>/` that this disk lacks; new ones are uploaded from now on."""
        if group not in self._groups:
            patiently(f"cache/{group}", lambda: self._restore_cache(group), self._log)

    def _restore_cache(self, group: str) -> None:
        with self._restoring:
            if group in self._groups:
                return
            started = self._clock()
            files = CacheGroup(self._cache / group, self._store.at(f"cache/{group}"), self._log)
            moved = files.restore()
            self._tell(self._restored, f"cache/{group}", moved, started)
            with self._changing:
                self._groups[group] = files

    def also(self, path: Path, key: str) -> None:
        """Have a small file uploaded to `key` whenever it has changed."""
        with self._changing:
            self._also[path] = (key, None)

    def tick(self) -> None:
        """Look once, and upload what is new; failures are told, or stop the work, but never raised."""
        self.due = self._clock() + self._every_s
        if self._fatal is not None:
            return
        with self._bringing:
            try:
                self._bring()
            except StoreFailure as error:
                if not self._closing.is_set():
                    self._log.warning("store.retrying", what="upload", message=str(error))
            except Exception as error:  # whatever it is, nobody else would hear of it
                self._fatal = storage_error(error) or error
                stopping.fail(self._fatal)

    def flush(self) -> None:
        """Return when everything made so far is in the store; raises what stands in the way."""
        with self._bringing:
            if self._fatal is not None:
                raise self._fatal
            self._is_flushing = True
            try:
                self._bring()
                for name, group in list(self._groups.items()):
                    started = self._clock()
                    merged = group.merge(self._advance)
                    self._tell(self._uploaded, f"cache/{name}, merged", merged, started)
            finally:
                self._is_flushing = False

    def save(self, deadline_s: float) -> None:
        """Bring what can be brought in so many seconds, because the process is about to end; never raises."""
        self._give_up_at = self._clock() + deadline_s
        # The store's own patience may be longer than ours, so somebody else does the waiting.
        last = threading.Thread(target=self.tick, name="mirror, last look", daemon=True)
        last.start()
        last.join(deadline_s)

    def close(self) -> None:
        """End the thread."""
        self._give_up_at = -math.inf
        self._closing.set()
        if self._thread is not None:
            self._thread.join(ENDING_S)

    def _look_again_and_again(self) -> None:
        while not self._closing.wait(max(1.0, self.due - self._clock())):
            self.tick()

    def _bring(self) -> None:
        self._bring_stages()
        looked = self._clock()
        for name, group in list(self._groups.items()):
            started = self._clock()
            for moved in group.bring(self._advance):
                self._tell(self._uploaded, f"cache/{name}", moved, started)
                if self._clock() > looked + self._every_s:
                    self._bring_stages()  # a large cache must not keep them waiting
                    looked = self._clock()
                started = self._clock()
        self._bring_also()

    def _bring_stages(self) -> None:
        for key in list(self._finished):
            self._upload_result(key)
            with self._changing:
                self._finished.remove(key)
                self._brought.add(key)
        for key, kept in list(self._scratch.items()):
            self._upload_scratch(key, kept)

    def _upload_result(self, key: Key) -> None:
        started, folder = self._clock(), self._folder(key)
        with staging(folder) as place:
            packed = pack(folder, versions(folder), place / "stage.tar")
            if RECORD not in packed:  # somebody deleted it
                return
            self._store.upload([Upload(place / "stage.tar", _stage_key(key))], self._advance)
        self._store.delete([_work_key(key)])
        moved = Moved(len(packed), sum(one.version.size for one in packed.values()))
        self._tell(self._uploaded, _stage_key(key), moved, started)

    def _upload_scratch(self, key: Key, kept: dict[str, Version]) -> None:
        scratch = self._folder(key, ".partial") / "scratch"
        found = versions(scratch)
        if found == kept:
            return
        started = self._clock()
        with staging(self._folder(key)) as place:
            taken = snapshot(scratch, place / "work.tar")
            if taken is None:
                message = "the files changed while they were read, again and again"
                self._log.warning("store.retrying", what=_work_key(key), message=message)
                return
            if not taken:  # finished in this moment
                return
            self._store.upload([Upload(place / "work.tar", _work_key(key))], self._advance)
        with self._changing:
            if key in self._scratch:
                self._scratch[key] = taken
        moved = Moved(len(taken), sum(version.size for version in taken.values()))
        self._tell(self._uploaded, _work_key(key), moved, started)

    def _bring_also(self) -> None:
        for path, (key, kept) in list(self._also.items()):
            with suppress(FileNotFoundError):
                version = Version.of(path.stat())
                if version != kept:
                    self._store.write(key, path.read_bytes())
                    with self._changing:
                        self._also[path] = (key, version)

    def _restore_result(self, key: Key, found: Stat, home: Path) -> bool:
        """Return whether the result is here now."""
        stage, fingerprint = key
        facts = {"stage": stage, "fingerprint": fingerprint}

        def take(archive: Path, place: Path) -> Moved:
            files = unpack(archive, place / "out", found.key)
            if read_sealed(place / "out", facts, needs=("outputs", "seconds"), advice="") is None:
                raise IntegrityError(f"{RECORD} is missing")
            with exclusive(home / f"{fingerprint}.lock", f"stage {stage}"):
                shutil.rmtree(home / fingerprint, ignore_errors=True)
                (place / "out").replace(home / fingerprint)
            return Moved(len(files), found.size)

        return self._fetch(found, home / fingerprint, take)

    def _restore_scratch(self, key: Key, found: Stat, home: Path, partial: Path) -> bool:
        stage, fingerprint = key

        def take(archive: Path, place: Path) -> Moved:
            unpack_snapshot(archive, place / "partial" / "scratch", found.key)
            with exclusive(home / f"{fingerprint}.lock", f"stage {stage}"):
                (place / "partial").replace(partial)
            return Moved(len(versions(partial)), found.size)

        return self._fetch(found, partial, take)

    def _fetch(self, found: Stat, beside: Path, take: Callable[[Path, Path], Moved]) -> bool:
        """Download a pack and have it taken; returns False for one that is damaged, or gone by now."""
        started = self._clock()
        with staging(beside) as place:
            archive = place / "fetched.tar"
            try:
                self._store.download([Download(found, archive)], lambda _: raise_if_stopped())
                moved = take(archive, place)
            except (Missing, Changed):  # removed or replaced by who goes on with the same work elsewhere
                return False
            except IntegrityError as error:
                self._log.warning("store.damaged", key=f"{self._store.uri}/{found.key}", message=str(error))
                return False
        self._tell(self._restored, found.key, moved, started)
        return True

    def _folder(self, key: Key, suffix: str = "") -> Path:
        return self._root / "stages" / key[0] / f"{key[1]}{suffix}"

    def _advance(self, _: int) -> None:
        if self._is_flushing:  # the work waits; after a stop it is `save` that brings what it can
            raise_if_stopped()
        if self._clock() > self._give_up_at:
            raise StoreFailure("no time is left for uploads", advice="run the same command again")

    def _restored(self, **facts: Any) -> None:
        self._log.info("store.restored", **facts)

    def _uploaded(self, **facts: Any) -> None:
        self._log.info("store.uploaded", **facts)

    def _tell(self, tell: Callable[..., None], what: str, moved: Moved, started: float) -> None:
        if moved.files:
            seconds = round(self._clock() - started, 3)
            tell(what=what, files=moved.files, bytes=moved.size_bytes, seconds=seconds)


def _stage_key(key: Key) -> str:
    return f"stages/{key[0]}/{key[1]}.tar"


def _work_key(key: Key) -> str:
    return f"work/{key[0]}-{key[1]}.tar"
