"""Where a run lives: a folder on this machine alone, or a working copy of a place in a store."""

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from job import stopping
from job.errors import InputError, JobError, SpecError, StoreFailure
from job.logs import Log
from job.places import Places
from job.progress import Progress
from job.publish import published, publishing, retention
from job.publish.published import PublishedRun
from job.storage import lease, preflight, working_copy
from job.storage.lease import Lease
from job.storage.local import exclusive
from job.storage.mirror import Mirror, NoMirror
from job.storage.patience import patiently
from job.storage.run_folder import LOCK, Finished, RunFolder
from job.storage.store_mirror import StoreMirror
from job.storage.working_copy import WorkingCopy
from job.waiting import interruptibly

LEASE = "lease.json"
SAVING_S = 15.0
"""How long a run that ends may go on bringing its work to the store, where nobody told it to stop."""
PROBE_S = 120.0
"""Until a store that answers no probe is given up: nothing was begun that could be lost."""
LETTING_GO_S = 7.0
"""What a run that was told to stop keeps of its grace, for its lease and its last words."""


class Hold(Protocol):
    """What whoever works on a run has: nobody else does, until the block ends."""

    @property
    def mirror(self) -> Mirror:
        """Brings work to the store as it is made."""

    def publish(self, progress: Progress) -> PublishedRun:
        """Make the sealed run folder visible to readers."""


@dataclass(frozen=True)
class Home:
    """The place of one run."""

    places: Places
    folder: RunFolder
    """On this machine."""
    log: Log
    max_bytes: int = 100 * 10**9
    """Of the working copy of a store that stay for the next run: `cache.max_gb`."""

    @property
    def uri(self) -> str:
        """Where readers find the run."""
        return f"{self.places.store.uri}/{self.path}" if self.places.is_remote else str(self.folder.path)

    @property
    def path(self) -> str:
        """Relative to the output root."""
        return f"runs/{self.folder.name}/{self.folder.run_id}"

    def finished(self) -> Finished | None:
        """Return how the run ended, None while readers see nothing of it."""
        if self.places.is_remote:
            return publishing.finished_in(self.places.store, self.path)
        return self.folder.finished()

    def require_same(self, before: str, identity: str) -> None:
        """Raise `SpecError` when what the run was begun with, or made of, is not what is asked for now."""
        if before != identity:
            raise SpecError(
                f"run {self.folder.run_id!r} was started with another spec or other inputs ({self.uri})",
                advice="leave out --run-id to get a run of its own, or choose another id",
            )

    @contextmanager
    def held(self, identity: str) -> Iterator[Hold]:
        """Be the only one who works on this run; raises `TryAgain` while another attempt does.

        Raises `SpecError` where an earlier attempt, on whatever machine, began the run with other inputs or
        another spec than those that `identity` stands for.
        """
        with exclusive(self.folder.path / LOCK, f"run {self.folder.run_id}"):
            if not self.places.is_remote:
                self._tell_damage()
                yield _AtHome(self)
                return
            begun = lease.read(self.places.store, f"{self.path}/{LEASE}")
            if begun is not None:
                self.require_same(str(begun.facts.get("identity", identity)), identity)
            with working_copy.in_use(self.places.root) as copy:
                with self._leased(identity) as held, self._mirrored(held.attempt) as mirror:
                    self._clean_up()
                    yield _InStore(self, held, mirror)
                self._make_room(copy)

    def _make_room(self, copy: WorkingCopy) -> None:
        try:
            copy.make_room(self.places.store, self.max_bytes, self.folder.path)
        except (JobError, OSError) as error:  # the run is published: the next one makes room
            self.log.warning("job.warning", message=f"{copy.folder} was not made smaller: {error}")

    def _tell_damage(self) -> None:
        damage = self.folder.damage()
        if damage:
            self.log.warning("store.damaged", key=str(self.folder.path), message=damage)

    def _clean_up(self) -> None:
        try:
            retention.clean_uploads(self.places.store)
        except InputError as error:  # housekeeping, for which a right may be missing
            self.log.warning("job.warning", message=f"unfinished uploads stay where they are: {error}")

    def _leased(self, identity: str) -> AbstractContextManager[Lease]:
        return lease.hold(
            self.places.store,
            f"{self.path}/{LEASE}",
            holder=f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
            facts=lambda: {**self.folder.status(), "identity": identity},
            on_lost=stopping.fail,
            log=self.log,
            conditional=self.places.conditional_writes,
        )

    @contextmanager
    def _mirrored(self, attempt: int) -> Iterator[Mirror]:
        mirror = StoreMirror(self.places.root, self.places.cache, self.places.store, self.log)
        mirror.also(self.folder.path / "job.log.jsonl", f"{self.path}/attempt-{attempt}/job.log.jsonl")
        try:
            yield mirror
        finally:
            mirror.save(_saving_s())  # of a run that ended well, the last lines of its log
            mirror.close()


@dataclass(frozen=True)
class _AtHome:
    home: Home
    mirror: Mirror = field(default_factory=NoMirror)

    def publish(self, progress: Progress) -> PublishedRun:
        # The sealed folder is what readers read.
        run = published.open_run(self.home.places.store, self.home.path, or_invalid=True)
        assert run is not None
        return run


@dataclass(frozen=True)
class _InStore:
    home: Home
    held: Lease
    mirror: Mirror

    def publish(self, progress: Progress) -> PublishedRun:
        """Publish, waiting for a store that fails: the work is done, and another attempt would wait as well.

        It ends with the lease, which tells us to stop: from then on somebody else may be at work.
        """
        return patiently("publish", lambda: self._publish(progress), self.home.log)

    def _publish(self, progress: Progress) -> PublishedRun:
        self.mirror.flush()
        home = self.home
        return publishing.publish(
            home.folder, home.places.store, self.held.attempt, self.held.check, home.log,
            progress=progress,
        )  # fmt: skip


def _saving_s() -> float:
    left = stopping.seconds_left()
    return SAVING_S if left is None else max(left - LETTING_GO_S, left / 3)


def checked(places: Places, log: Log) -> Places:
    """Probe the store of a remote output; raises what stands in the way, with advice."""

    def tell(seconds: float) -> None:
        if seconds > PROBE_S:
            raise StoreFailure(
                f"{places.store.uri}: no answer to a small object for {seconds:.0f} s",
                advice="look at the server: its disk, its log, its load; then run the same command",
            )
        message = f"{places.store.uri}: no answer to a first small object for {seconds:.0f} s"
        log.warning("store.retrying", what="probe", message=message)

    found = interruptibly(lambda: preflight.check(places.store), tell)
    log.info(
        "store.checked", uri=places.store.uri, conditional_writes=found.conditional_writes,
        clock_skew_s=found.clock_skew_s, seconds=found.seconds,
    )  # fmt: skip
    if found.conditional_writes:
        return places
    log.warning(
        "job.warning",
        message=f"{places.store.uri}: the store ignores If-None-Match or If-Match; two attempts at one run at"
        " the same time cannot be told apart surely: never start a run twice",
    )
    return places.without_conditions()
