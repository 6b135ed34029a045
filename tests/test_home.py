"""Where a run lives: held by one, refused to other inputs, published with patience."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from job import home as homes
from job import stopping, waiting
from job.errors import SpecError, StoreFailure, TryAgain
from job.home import Hold, Home
from job.places import Places
from job.progress import SILENT
from job.publish.published import open_run
from job.storage import patience, preflight
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


def test_a_store_that_answers_no_probe_is_told_of_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within two minutes, whatever its client's own retries: there is nothing yet that could be lost."""
    silent = threading.Event()
    monkeypatch.setattr(waiting, "TELL_EVERY_S", 0.05)
    monkeypatch.setattr(homes, "PROBE_S", 0.2)
    monkeypatch.setattr(preflight, "check", lambda store: silent.wait(60.0))
    places = Places(tmp_path, tmp_path, LocalStore(tmp_path), is_remote=True)
    with (
        structlog.testing.capture_logs() as lines,
        pytest.raises(StoreFailure, match="small object") as caught,
    ):
        homes.checked(places, structlog.get_logger())
    silent.set()
    assert "its disk, its log" in caught.value.advice
    assert lines
    assert {line["event"] for line in lines} == {"store.retrying"}


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


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "manifest.json").write_text("{"), "manifest.json is none"),
        (lambda run: (run / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda run: (run / "_SUCCESS").write_text("0" * 64), "not the one that _SUCCESS names"),
        (lambda run: (run / "candidate.json").unlink(), "candidate.json is missing"),
        (lambda run: (run / "candidate.json").write_text("longer"), "candidate.json is missing, or has"),
    ],
)
def test_what_is_mended_on_this_disk_is_told_of(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    """A run that was published and is published anew says why."""
    folder = sealed(tmp_path / "output")
    places = Places(folder.root, tmp_path / "cache", LocalStore(folder.root), is_remote=False)
    home = Home(places, folder, structlog.get_logger())
    damage(folder.path)
    with structlog.testing.capture_logs() as logs, home.held("spec and inputs"):
        assert home.finished() is None
    assert [(line["event"], line["key"]) for line in logs] == [("store.damaged", str(folder.path))]
    assert words in logs[0]["message"]


@pytest.mark.parametrize("killed_at", ["manifest.json", "_SUCCESS", "none"])
def test_what_a_kill_left_is_no_damage(tmp_path: Path, killed_at: str) -> None:
    """A run that died before its manifest, or before its marker, goes on as if nothing had been."""
    folder = sealed(tmp_path / "output")
    for name in {"manifest.json": ("_SUCCESS", "manifest.json"), "_SUCCESS": ("_SUCCESS",)}.get(
        killed_at, ()
    ):
        (folder.path / name).unlink()
    places = Places(folder.root, tmp_path / "cache", LocalStore(folder.root), is_remote=False)
    home = Home(places, folder, structlog.get_logger())
    with structlog.testing.capture_logs() as logs, home.held("spec and inputs"):
        pass
    assert logs == []


def test_a_disk_that_stays_is_not_filled(tmp_path: Path) -> None:
    """When a run in a store has ended, working copies of others make room; one that failed leaves them."""
    home = replace(home_of(tmp_path, "one"), max_bytes=0)
    other = home.places.root / "runs" / "vessels" / "r0"
    other.mkdir(parents=True)
    (other / "report.md").write_text("long ago")
    home.places.store.write("runs/vessels/r0/manifest.json", b"x")
    sealed(home.folder.root)
    with structlog.testing.capture_logs():
        with pytest.raises(KeyError), home.held("spec and inputs"):
            raise KeyError
        assert other.exists()
        with home.held("spec and inputs") as hold:
            hold.publish(SILENT)
    assert not other.exists()
    assert (home.folder.path / "candidate.json").exists()
