"""Runs that readers may trust: found by place, read by their manifest, brought to this machine whole."""

import fcntl
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from job.errors import InputError, IntegrityError, InvalidResult, Missing, TryAgain
from job.storage.local import sha256_file, write_atomic
from job.storage.local_store import LocalStore
from job.storage.manifest import MANIFEST, MARKER, FileFacts, Manifest
from job.storage.names import below
from job.storage.store import Advance, Changed, Download, ObjectStore, Stat, no_advance

READ_AT_ONCE = 64
READ_AT_ONCE_BYTES = 256_000_000
"""What verification keeps on the disk at a time, unless one object alone is larger."""

_DAMAGED = "`status --verify` shows what else is; run its spec again, which publishes it anew"


class MarkerState(Enum):
    """What a run's marker says of its manifest."""

    ABSENT = "absent"
    """There is none: the run is not finished, or it ended `invalid`."""
    VALID = "valid"
    BROKEN = "broken"
    """There is one, and the manifest that it names is gone or another one: somebody changed one of them."""


@dataclass(frozen=True)
class Seal:
    """Manifest and marker of a run as they lie there."""

    manifest: bytes | None
    etag: str
    """Of the manifest, empty where there is none."""
    marker: str | None
    """The digest that the marker names, None where there is no marker."""

    @property
    def digest(self) -> str:
        """The sha256 of the manifest's bytes, empty where there is none."""
        return "" if self.manifest is None else hashlib.sha256(self.manifest).hexdigest()

    @property
    def state(self) -> MarkerState:
        """Whether readers may trust the manifest."""
        if self.marker is None:
            return MarkerState.ABSENT
        is_named = self.manifest is not None and self.marker == self.digest
        return MarkerState.VALID if is_named else MarkerState.BROKEN

    @property
    def problem(self) -> str:
        """What is wrong with a broken one, empty for all others."""
        if self.state is not MarkerState.BROKEN:
            return ""
        gone = f"{MANIFEST} is missing, though {MARKER} names it"
        return gone if self.manifest is None else f"{MANIFEST} is not the one that {MARKER} names"


@dataclass(frozen=True)
class PublishedRun:
    """A run with a manifest and the marker that names it; one that ended `invalid` has no marker."""

    store: ObjectStore
    """The output root."""
    path: str
    """`runs/<name>/<run_id>`."""
    manifest: Manifest
    manifest_sha256: str

    @property
    def uri(self) -> str:
        """The run as users write it."""
        return f"{self.store.uri}/{self.path}"

    @property
    def is_invalid(self) -> bool:
        """Whether it ended `invalid`: its figures prove nothing, and it has no marker."""
        return self.manifest.exit_code == InvalidResult.exit_code

    def bring(self, cache: Path, only: Sequence[str] | None = None) -> Path:
        """Bring the run's files (those whose path is in `only`, or below a folder that is) to a folder below
        `cache` named by the manifest's digest; returns the folder. Digests are verified; what is there
        already is not fetched again. A run of a local store is returned as it lies.

        Raises `IntegrityError` for what is missing, damaged or no safe name, `TryAgain` for a run that is
        being replaced.
        """
        wanted = files_within(self.manifest.files, only)
        if isinstance(self.store, LocalStore):
            return self._as_it_lies(self.store)
        folder = cache / "runs" / self.manifest_sha256
        places = {name: below(folder, name) for name in wanted}
        with _alone(folder):
            lacking = {name: facts for name, facts in wanted.items() if not _is_there(places[name], facts)}
            if lacking:
                self._fetch(lacking, places)
            if not (self.is_invalid or (folder / MARKER).exists()):
                write_atomic(folder / MARKER, f"{self.manifest_sha256}\n")
        return folder

    def verify(self, scratch: Path | None = None) -> list[str]:
        """Read every object and compare its digest; returns a sentence for each that is missing or other.

        Objects pass through a temporary folder in `scratch` (the system's, where it is None).
        """
        return list(differences(self.store, self.path, self.manifest.files, scratch).values())

    def _as_it_lies(self, store: LocalStore) -> Path:
        run = below(store.folder, self.path)
        # A copy of a store's run has its files in the folder of the attempt that published.
        name, facts = next(iter(self.manifest.files.items()), ("", None))
        if facts is None or facts.key == name:
            return run
        return below(run, facts.key.removesuffix(f"/{name}"))

    def _fetch(self, lacking: Mapping[str, FileFacts], places: Mapping[str, Path]) -> None:
        found = _stats(self.store, self.path, lacking.values())
        if absent := [name for name, facts in lacking.items() if facts.key not in found]:
            raise IntegrityError(
                f"{self.uri}: {absent[0]} is missing, though the manifest names it",
                advice=_DAMAGED,
            )
        items = [Download(found[facts.key], places[name]) for name, facts in lacking.items()]
        try:
            digests = self.store.download(items)
        except Changed as error:
            raise TryAgain(f"{self.uri} is being replaced", advice="run the same command again") from error
        for (name, facts), digest in zip(lacking.items(), digests, strict=True):
            if digest != facts.sha256:
                places[name].unlink()
                raise IntegrityError(
                    f"{self.uri}: {name} is not what the manifest says",
                    advice=_DAMAGED,
                )


def open_run(store: ObjectStore, path: str, *, or_invalid: bool = False) -> PublishedRun | None:
    """Return the finished run at `runs/<name>/<run_id>`, None while there is none that readers may trust.

    With `or_invalid` also one that ended `invalid`, which has a manifest and no marker. Raises
    `IntegrityError` for a manifest that cannot be read, unless a broken marker says that it may be none.
    """
    seal = read_seal(store, path)
    if seal.manifest is None or seal.state is MarkerState.BROKEN:
        return None
    if seal.state is MarkerState.ABSENT and not or_invalid:
        return None
    manifest = Manifest.parse(seal.manifest, f"{store.uri}/{path}/{MANIFEST}")
    run = PublishedRun(store, path, manifest, seal.digest)
    return run if seal.state is MarkerState.VALID or run.is_invalid else None


def ended_run(store: ObjectStore, path: str) -> PublishedRun | None:
    """Return a run that has ended, also `invalid`; None as well for an attempt whose manifest is none.

    Raises `IntegrityError` for a manifest of another version of the program that its marker names.
    """
    try:
        return open_run(store, path, or_invalid=True)
    except IntegrityError:
        if read_seal(store, path).state is MarkerState.VALID:
            raise
        return None


def trusted_run(store: ObjectStore, path: str, *, or_invalid: bool = False) -> PublishedRun:
    """Return what `open_run` returns; raises `InputError` where no run is finished.

    Raises `IntegrityError` where marker and manifest disagree.
    """
    run = open_run(store, path, or_invalid=or_invalid)
    if run is None:
        require_unbroken(store, path)
        raise InputError(
            f"{store.uri}/{path}: there is no finished run ({MARKER} is missing)",
            advice=f"`status {store.uri}` lists the runs there are",
        )
    return run


def require_unbroken(store: ObjectStore, path: str) -> None:
    """Raise `IntegrityError` where a run has a marker that does not name its manifest."""
    problem = read_seal(store, path).problem
    if problem:
        raise IntegrityError(f"{store.uri}/{path}: the run is damaged: {problem}", advice=_DAMAGED)


def read_seal(store: ObjectStore, path: str) -> Seal:
    """Return manifest and marker of a run, as they belong together."""
    seal = _read_seal(store, path)
    # Both may have been replaced between the two reads: a run that is being repaired is not damaged.
    return _read_seal(store, path) if seal.state is MarkerState.BROKEN else seal


def _read_seal(store: ObjectStore, path: str) -> Seal:
    manifest, etag = _read(store, f"{path}/{MANIFEST}")
    marker, _ = _read(store, f"{path}/{MARKER}")
    return Seal(manifest, etag, None if marker is None else marker.decode("ascii", errors="replace").strip())


def _read(store: ObjectStore, key: str) -> tuple[bytes | None, str]:
    try:
        return store.read(key)
    except Missing:
        return None, ""


def newest_run(store: ObjectStore, path: str) -> PublishedRun:
    """Return the newest finished run below `runs/<name>`, damaged ones left out; `InputError` without any.

    A path of a finished run stands for that run. Raises `IntegrityError` where all are damaged.
    """
    markers = _markers(store, path)
    for key in markers:
        run = open_run(store, key.removesuffix(f"/{MARKER}"))
        if run is not None:
            return run
    for key in markers:
        require_unbroken(store, key.removesuffix(f"/{MARKER}"))
    raise InputError(
        f"{store.uri}/{path}: no finished run here ({MARKER} is missing)",
        advice="run the job whose result this spec names first, or name another run folder",
    )


def _markers(store: ObjectStore, path: str) -> list[str]:
    """Return the key of a run's own marker, else those of the runs directly below, newest first."""
    if isinstance(store, LocalStore):  # where a path may be any folder, with a whole disk below it
        folder = below(store.folder, path)
        places = [folder / MARKER] if (folder / MARKER).is_file() else list(folder.glob(f"*/{MARKER}"))
        found = [(p.stat().st_mtime, p.relative_to(store.folder).as_posix()) for p in places]
    else:
        here = f"{path}/{MARKER}"
        stats = [stat for stat in store.entries(f"{path}/") if stat.key.endswith(f"/{MARKER}")]
        own = [stat for stat in stats if stat.key == here]
        of_runs = own or [stat for stat in stats if stat.key.count("/") == here.count("/") + 1]
        found = [(stat.modified, stat.key) for stat in of_runs]
    return [key for _, key in sorted(found, reverse=True)]


def differences(
    store: ObjectStore,
    path: str,
    files: Mapping[str, FileFacts],
    scratch: Path | None = None,
    advance: Advance = no_advance,
) -> dict[str, str]:
    """Read the files of a run whole; returns a sentence for each path that is missing or something else."""
    if isinstance(store, LocalStore):
        run = below(store.folder, path)
        return {name: f"{name} {what}" for name, facts in files.items() if (what := _local(run, facts))}
    found = _stats(store, path, files.values())
    problems = {}
    for name, facts in files.items():
        if facts.key not in found:
            problems[name] = f"{name} is missing"
        elif found[facts.key].size != facts.size:
            problems[name] = f"{name} has {found[facts.key].size} bytes instead of {facts.size}"
    present = {name: facts for name, facts in files.items() if name not in problems}
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=scratch) as folder:
        for batch in _batches(present):
            targets = [Path(folder, str(i)) for i in range(len(batch))]
            items = [Download(found[present[n].key], t) for n, t in zip(batch, targets, strict=True)]
            try:
                digests = store.download(items, advance)
            except (Changed, Missing) as error:
                raise TryAgain(
                    f"{store.uri}/{path} changes while it is read", advice="run the same command again"
                ) from error
            for name, target, digest in zip(batch, targets, digests, strict=True):
                target.unlink()
                if digest != present[name].sha256:
                    problems[name] = f"{name} has other content than the manifest says"
    return problems


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for another process that brings the same run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def files_within(files: Mapping[str, FileFacts], only: Sequence[str] | None) -> dict[str, FileFacts]:
    """Return the files whose path is in `only`, or below a folder that is; all of them for None."""
    if only is None:
        return dict(files)
    parts = tuple(part.rstrip("/") for part in only)
    return {
        name: facts
        for name, facts in files.items()
        if any(name == part or name.startswith(f"{part}/") for part in parts)
    }


def _is_there(place: Path, facts: FileFacts) -> bool:
    # Read, not only measured: a file that somebody edited must not pass for the run's.
    return place.is_file() and place.stat().st_size == facts.size and sha256_file(place) == facts.sha256


def _stats(store: ObjectStore, path: str, files: Iterable[FileFacts]) -> dict[str, Stat]:
    """Return the stat of each key below a run, by one listing of the attempts that published them."""
    attempts = {facts.key.split("/")[0] for facts in files}
    skip = len(path) + 1
    return {
        stat.key[skip:]: stat for attempt in sorted(attempts) for stat in store.entries(f"{path}/{attempt}")
    }


def _local(run: Path, facts: FileFacts) -> str:
    place = below(run, facts.key)
    if not place.is_file():
        return "is missing"
    if place.stat().st_size != facts.size:
        return f"has {place.stat().st_size} bytes instead of {facts.size}"
    return "" if sha256_file(place) == facts.sha256 else "has other content than the manifest says"


def _batches(files: Mapping[str, FileFacts]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name, facts in files.items():
        if batch and (len(batch) == READ_AT_ONCE or size + facts.size > READ_AT_ONCE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += facts.size
    if batch:
        yield batch
