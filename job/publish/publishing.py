"""Make a finished run visible in a store: its files, verified, then the manifest, then the marker."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from job.errors import EXIT_OK, IntegrityError, TryAgain
from job.logs import Log
from job.progress import SILENT, Progress
from job.publish.published import MarkerState, PublishedRun, Seal, differences, ended_run, read_seal
from job.storage.manifest import MANIFEST, MARKER, FileFacts, Manifest
from job.storage.run_folder import UNPUBLISHED, Finished, RunFolder
from job.storage.store import Changed, ObjectStore, Upload

_OF_ATTEMPT = re.compile(r"attempt-(\d+)/(.+)")


def publish(
    folder: RunFolder,
    store: ObjectStore,
    attempt: int,
    check: Callable[[], None],
    log: Log,
    *,
    progress: Progress = SILENT,
) -> PublishedRun:
    """Bring a sealed run folder to a store, and let readers see it when every byte has been read back.

    `check` raises when this attempt has lost the run. What an earlier attempt was about to show is completed
    where it is the same result and whole. A kill at any point leaves nothing that a reader would trust.

    A manifest or a marker that somebody damaged is written anew (`store.damaged`).

    Raises `IntegrityError` for a file that the store does not keep as it was sent, `TryAgain` when another
    attempt has published something else.
    """
    sealed = folder.manifest()
    if sealed is None or folder.finished() is None:
        raise ValueError(f"{folder.path} is not sealed")
    path = f"runs/{folder.name}/{folder.run_id}"
    publishing = _Publishing(folder, store, attempt, check, log, progress, path)
    run = publishing.run(sealed[0])
    log.info(
        "run.published", run_uri=run.uri, attempt=run.manifest.attempt, files=len(run.manifest.files),
        bytes=run.manifest.size,
    )  # fmt: skip
    return run


def finished_in(store: ObjectStore, path: str) -> Finished | None:
    """Return how the run at `runs/<name>/<run_id>` ended, None while it is not published or is damaged.

    Raises `IntegrityError` for a whole manifest of another version of the program.
    """
    run = ended_run(store, path)
    return None if run is None else Finished.of(run.manifest)


@dataclass(frozen=True)
class _Found:
    """The manifest that lies in the store."""

    run: PublishedRun
    state: MarkerState
    """Of its marker."""

    @property
    def is_finished(self) -> bool:
        """Whether readers see it."""
        is_invalid = self.run.is_invalid and self.state is MarkerState.ABSENT
        return is_invalid or self.state is MarkerState.VALID


@dataclass(frozen=True)
class _Publishing:
    folder: RunFolder
    store: ObjectStore
    attempt: int
    check: Callable[[], None]
    log: Log
    progress: Progress
    path: str

    def run(self, sealed: Manifest) -> PublishedRun:
        seal = read_seal(self.store, self.path)
        found = self._parsed(seal)
        if seal.problem or (found is None and seal.manifest is not None):
            message = seal.problem or f"{MANIFEST} is none"
            self.log.warning("store.damaged", key=f"{self.store.uri}/{self._key(MANIFEST)}", message=message)
        # Nothing is taken over from a manifest that its marker disowns: somebody may have edited it.
        if found is not None and not seal.problem and self._is_whole(found):
            if _is_same(found, sealed):
                return self._complete(found.run)
            if found.is_finished:  # nothing may take its place
                raise self._beaten(found)
        ours = self._upload(sealed)
        data = ours.to_bytes()
        run = PublishedRun(self.store, self.path, ours, sha256(data).hexdigest())
        self.check()
        try:
            if seal.manifest is None:
                self.store.create(self._key(MANIFEST), data)
            else:
                self.store.replace(self._key(MANIFEST), data, seal.etag)
        except Changed:
            found = self._found()
            if found is None or not (_is_same(found, sealed) and self._is_whole(found)):
                raise self._beaten(found) from None
            run = found.run
        return self._complete(run)

    def _complete(self, run: PublishedRun) -> PublishedRun:
        """Write the marker of the manifest that lies in the store, then remove what other attempts left."""
        self.check()
        found = self._found()
        if found is None or found.run.manifest_sha256 != run.manifest_sha256:
            raise self._beaten(found)
        if run.is_invalid and found.state is MarkerState.BROKEN:
            self.store.delete([self._key(MARKER)])  # of a manifest that is there no more
        if run.manifest.exit_code == EXIT_OK and found.state is not MarkerState.VALID:
            self._mark(run)
        self.check()  # who took the run over may have completed it meanwhile: one of us alone has published
        self.store.delete(self._rubbish(run.manifest.attempt))
        return run

    def _mark(self, run: PublishedRun) -> None:
        marker = f"{run.manifest_sha256}\n".encode()
        try:
            self.store.create(self._key(MARKER), marker)
        except Changed:
            # Of a manifest that is there no more, or written this moment by whoever robbed us of the run.
            there, etag = self.store.read(self._key(MARKER))
            found = self._found()
            if found is None or found.run.manifest_sha256 != run.manifest_sha256:
                raise self._beaten(found) from None
            if there.split() != marker.split():
                try:
                    self.store.replace(self._key(MARKER), marker, etag)
                except Changed:
                    raise self._beaten(self._found()) from None

    def _found(self) -> _Found | None:
        return self._parsed(read_seal(self.store, self.path))

    def _parsed(self, seal: Seal) -> _Found | None:
        """Return None as well for a manifest that is damaged; raises for a whole one of another version."""
        if seal.manifest is None:
            return None
        try:
            manifest = Manifest.parse(seal.manifest, f"{self.store.uri}/{self._key(MANIFEST)}")
        except IntegrityError:
            if seal.state is MarkerState.VALID:
                raise
            return None
        return _Found(PublishedRun(self.store, self.path, manifest, seal.digest), seal.state)

    def _is_whole(self, found: _Found) -> bool:
        return not found.run.verify(self._scratch)

    def _upload(self, sealed: Manifest) -> Manifest:
        """Send every file below this attempt and read all of it back; one that differs is sent once more."""
        ours = sealed.model_copy(
            update={
                "attempt": self.attempt,
                "files": {
                    name: facts.model_copy(update={"key": f"attempt-{self.attempt}/{name}"})
                    for name, facts in sealed.files.items()
                },
            }
        )
        self._send(ours, list(ours.files))
        wrong = self._differences(ours, list(ours.files))
        if wrong:
            self._send(ours, list(wrong))
            wrong = self._differences(ours, list(wrong))
        if wrong:
            raise IntegrityError(
                f"{self.store.uri}/{self.path}/attempt-{self.attempt}: {next(iter(wrong.values()))},"
                " though it was sent twice",
                advice="check the store's health (`doctor`), then run the same command",
            )
        return ours

    def _send(self, ours: Manifest, names: list[str]) -> None:
        files = self._of(ours, names)
        items = [Upload(self.folder.path / name, self._key(facts.key)) for name, facts in files.items()]
        with self.progress.task("publishing", _bytes(files), "bytes") as task:
            digests = self.store.upload(items, task.advance)
        for (name, facts), digest in zip(files.items(), digests, strict=True):
            if digest != facts.sha256:
                raise IntegrityError(
                    f"{self.folder.path / name} was changed after the run was finished",
                    advice=f"delete {self.folder.path} and run the same command: finished stages are taken"
                    " over",
                )

    def _differences(self, ours: Manifest, names: list[str]) -> dict[str, str]:
        files = self._of(ours, names)
        with self.progress.task("verifying", _bytes(files), "bytes") as task:
            return differences(self.store, self.path, files, self._scratch, task.advance)

    def _of(self, ours: Manifest, names: list[str]) -> dict[str, FileFacts]:
        return {name: ours.files[name] for name in names}

    def _rubbish(self, published: int) -> list[str]:
        """Return what this attempt and earlier ones sent for nothing, but for their logs."""
        skip = len(self._key(""))
        keys = []
        for stat in self.store.entries(self._key("attempt-")):
            attempt = _OF_ATTEMPT.fullmatch(stat.key[skip:])
            # A later attempt may be at work: it took the run over when this one was thought dead.
            if attempt is None or int(attempt[1]) > self.attempt or int(attempt[1]) == published:
                continue
            if attempt[2] not in UNPUBLISHED:
                keys.append(stat.key)
        return keys

    @property
    def _scratch(self) -> Path:
        return self.folder.root / "verifying"

    def _key(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _beaten(self, found: _Found | None) -> TryAgain:
        if found is None:
            return TryAgain(
                f"{self.store.uri}/{self._key(MANIFEST)}: the store says it is written, and does not show it",
                advice="run the same command again; `python -m job doctor` examines the store",
            )
        who = f"attempt {found.run.manifest.attempt}"
        return TryAgain(
            f"{self.store.uri}/{self.path}: {who} has published this run meanwhile",
            advice="run the same command again: it finds what was published",
        )


def _is_same(found: _Found, sealed: Manifest) -> bool:
    theirs = found.run.manifest
    return (theirs.results_digest, theirs.identity, theirs.exit_code) == (
        sealed.results_digest, sealed.identity, sealed.exit_code,
    )  # fmt: skip


def _bytes(files: dict[str, FileFacts]) -> int:
    return sum(facts.size for facts in files.values())
