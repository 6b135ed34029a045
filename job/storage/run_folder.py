"""The run folder: a run's log and, at the end, its named deliverables, its manifest and its marker."""

import fcntl
import json
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from job.errors import EXIT_OK, IntegrityError, InvalidResult, SpecError
from job.stopping import raise_if_stopped
from job.storage import strict_json
from job.storage.documents import read_bytes
from job.storage.local import UNFINISHED, place, sha256_file, write_atomic
from job.storage.manifest import MANIFEST, MARKER, FileFacts, Manifest
from job.storage.names import below

STATUS = "status.json"
LOCK = ".lock"
UNPUBLISHED = frozenset({"job.log.jsonl", STATUS, MANIFEST, MARKER, LOCK})
"""Files that go on changing, or that speak of the others: no part of the manifest."""


@dataclass(frozen=True)
class Finished:
    """How a finished run ended."""

    exit_code: int
    verdict: str
    identity: str
    finished_at: str

    @classmethod
    def of(cls, manifest: Manifest) -> "Finished":
        """Return what a manifest says of it."""
        return cls(manifest.exit_code, manifest.verdict, manifest.identity, manifest.finished_at)


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>/<run_id>/` below the output root."""

    root: Path
    name: str
    run_id: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / "runs" / self.name / self.run_id

    def finished(self) -> Finished | None:
        """Return how the run ended, or None while it is not published whole.

        A run whose files are missing or of another size than its manifest says, or whose marker and manifest
        disagree, is not finished: the same command publishes it again. Raises `IntegrityError` for a whole
        manifest of another version of the program.
        """
        try:
            found = self.manifest()
        except IntegrityError:
            if self._marker() == sha256_file(self.path / MANIFEST):
                raise
            return None
        if found is None:
            return None
        manifest, digest = found
        is_whole = all(self._has(facts) for facts in manifest.files.values())
        # The marker comes last: a manifest without it is a run that died between the two.
        is_sealed = self._marker() == ("" if manifest.exit_code == InvalidResult.exit_code else digest)
        return Finished.of(manifest) if is_whole and is_sealed else None

    def manifest(self) -> tuple[Manifest, str] | None:
        """Return the manifest and the sha256 of its bytes, None before there is one.

        Raises `IntegrityError` for a file that is none.
        """
        path = self.path / MANIFEST
        try:
            data = read_bytes(path)
        except FileNotFoundError:
            return None
        return Manifest.parse(data, str(path)), sha256(data).hexdigest()

    def damage(self) -> str:
        """Return what is wrong with a run that was sealed here once; nothing for every other."""
        marker = self._marker()
        try:
            found = self.manifest()
        except IntegrityError:
            return f"{MANIFEST} is none"
        if found is None:
            return f"{MANIFEST} is missing, though {MARKER} names it" if marker else ""
        if marker and marker != found[1]:
            return f"{MANIFEST} is not the one that {MARKER} names"
        lost = [name for name, facts in found[0].files.items() if not self._has(facts)]
        return f"{lost[0]} is missing, or has another size than {MANIFEST} says" if lost else ""

    def _has(self, facts: FileFacts) -> bool:
        path = below(self.path, facts.key)
        return path.is_file() and path.stat().st_size == facts.size

    def _marker(self) -> str:
        marker = self.path / MARKER
        return marker.read_text(errors="replace").strip() if marker.is_file() else ""

    def require_identity(self, identity: str) -> None:
        """Refuse to go on under a run_id that stands for other inputs: `SpecError` or `IntegrityError`."""
        # A run folder that was fetched from a store has a manifest and no status.
        finished = self.finished()
        before = finished.identity if finished else self.status().get("identity", identity)
        self.require_same(before, identity)

    def require_same(self, before: str, identity: str) -> None:
        """Raise `SpecError` when what the run was started with, or made of, is not what is asked for now."""
        if before != identity:
            raise SpecError(
                f"run {self.run_id!r} was started with another spec or other inputs ({self.path})",
                advice="leave out --run-id to get a run of its own, or choose another id",
            )

    def status(self) -> dict[str, Any]:
        """Return the last written state, empty when there is none or the file holds something else."""
        try:
            status = strict_json.parse(read_bytes(self.path / STATUS))
        except (FileNotFoundError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_status(self, **facts: Any) -> None:
        """Add facts to the state that `status` shows.

        It reads state, stage, progress ("table 120/1010"), eta_s, verdict, exit_code and attempt.
        """
        facts = {**self.status(), **facts, "updated_at": utc_now()}
        write_atomic(self.path / STATUS, json.dumps(facts, indent=1))

    def is_held(self) -> bool:
        """Return whether a process on this machine works on the run, without being in its way."""
        try:
            with (self.path / LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def put(self, relative: str, source: Path) -> None:
        """Place a stage's file (or every file of a folder) under a name in the run folder.

        Raises `IntegrityError` when there is none.
        """
        files = [source] if source.is_file() else [p for p in sorted(source.rglob("*")) if p.is_file()]
        if not files:
            raise IntegrityError(
                f"{source}: a stage's result is missing", advice="delete its folder and run the same command"
            )
        for file in files:
            raise_if_stopped()
            target = self.path / relative
            place(file, target if source.is_file() else target / file.relative_to(source))

    def write(self, relative: str, data: bytes | str) -> None:
        """Write a file of the run itself."""
        write_atomic(self.path / relative, data)

    def seal(
        self, *, exit_code: int, verdict: str, identity: str, results_digest: str = "", attempt: int = 1
    ) -> None:
        """Write the manifest and then, for a run that may be trusted, the marker, each atomically.

        What a process that was killed while it wrote left unfinished is removed.
        """
        for unfinished in self.path.rglob(f".*{UNFINISHED}"):
            unfinished.unlink(missing_ok=True)
        relative = {
            path.relative_to(self.path).as_posix(): path
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.relative_to(self.path).as_posix() not in UNPUBLISHED
        }
        manifest = Manifest(
            name=self.name,
            run_id=self.run_id,
            attempt=attempt,
            identity=identity,
            verdict=verdict,
            exit_code=exit_code,
            finished_at=utc_now(),
            results_digest=results_digest,
            files={
                name: FileFacts(key=name, size=path.stat().st_size, sha256=sha256_file(path))
                for name, path in relative.items()
            },
        )
        self.write(MANIFEST, manifest.to_bytes())
        if exit_code == EXIT_OK:
            self.write(MARKER, sha256_file(self.path / MANIFEST) + "\n")
        else:
            (self.path / MARKER).unlink(missing_ok=True)  # of a manifest before this one


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
