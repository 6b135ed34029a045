"""Where a run lives: held by one, refused to other inputs, published with patience."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from job import stopping
from job.errors import SpecError, StoreFailure, TryAgain
from job.home import Hold, Home
from job.places import Places
from job.progress import SILENT
from job.publish.published import open_run
from job.storage import patience
from job.storage.local_store import LocalStore
from job.storage.mirror import NoMirror
from job.storage.run_folder import RunFolder
from tests.publish.far_store import sealed


def home_of(place: Path, machine: str) -> Home:
    """Return the home of one run, as a machine with a disk of its own sees it."""
    disk = place / machine
    places = Places(disk / "root", disk / "cache", LocalStore(place / "far"), is_remote=True)
    return Home(places, RunFolder(places.root, "vessels", "r1"), structlog.get_logger())


class Failing(NoMirror):
    """The mirror of a store that fails so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def flush(self) -> None:
        """Fail, or do nothing."""
        self.times -= 1
        if self.times >= 0:
            raise StoreFailure("the store is away", advice="wait")


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """A run that is done and held, with a store that is looked at again without a pause."""
    monkeypatch.setattr(patience, "PAUSE_S", 0.01)
    home = home_of(tmp_path, "one")
    sealed(home.folder.root)
    with structlog.testing.capture_logs(), home.held("spec and inputs") as held:
        yield held


def with_mirror(hold: Hold, mirror: NoMirror) -> Hold:
    """Return the hold with another mirror."""
    changed: Any = replace(hold, mirror=mirror)  # type: ignore[type-var]
    return changed  # type: ignore[no-any-return]


def test_publishing_waits_for_a_store_that_fails(tmp_path: Path, hold: Hold) -> None:
    """The work of hours is not thrown away because the store was away at its end."""
    run = with_mirror(hold, Failing(3)).publish(SILENT)
    assert open_run(LocalStore(tmp_path / "far"), "runs/vessels/r1") is not None
    assert run.manifest.attempt == 1


def test_publishing_does_not_wait_for_ever(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its patience is at an end, it raises what the store raised."""
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    with pytest.raises(StoreFailure, match="away"):
        with_mirror(hold, Failing(10**9)).publish(SILENT)
    assert open_run(LocalStore(tmp_path / "far"), "runs/vessels/r1") is None


def test_publishing_waits_no_longer_than_the_lease_lasts(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may be at work then."""
    monkeypatch.setattr(stopping, "failure", lambda: TryAgain("the lease is lost", advice="run again"))
    with pytest.raises(TryAgain, match="lost"):
        with_mirror(hold, Failing(10**9)).publish(SILENT)


def test_a_run_that_another_machine_began_with_other_inputs_is_refused(tmp_path: Path) -> None:
    """Nothing on this disk tells: the lease does, even of an attempt that was killed at once."""
    with structlog.testing.capture_logs(), home_of(tmp_path, "one").held("spec and inputs"):
        with (
            pytest.raises(SpecError, match="another spec") as refusal,
            home_of(tmp_path, "two").held("other spec"),
        ):
            pass
        assert "--run-id" in refusal.value.advice
    with (
        structlog.testing.capture_logs(),
        pytest.raises(SpecError, match="another spec"),
        home_of(tmp_path, "two").held("other spec"),
    ):
        pass
    with structlog.testing.capture_logs() as logs, home_of(tmp_path, "two").held("spec and inputs"):
        pass
    assert [line["attempt"] for line in logs if line["event"] == "lease.acquired"] == [2]
