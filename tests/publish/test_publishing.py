"""Publishing: all or nothing for readers, whenever the process dies and whoever else publishes."""

import hashlib
import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from job.errors import IntegrityError, TryAgain
from job.publish.published import PublishedRun, open_run
from job.publish.publishing import finished_in, publish
from job.storage.run_folder import Finished, RunFolder
from job.storage.store import ObjectStore
from job.storage.uris import open_store
from tests.publish.far_store import FarStore, Killed, sealed

PATH = "runs/vessels/r1"
LOG = structlog.get_logger()


def nothing() -> None:
    """Hold the lease."""


def send(
    folder: RunFolder, store: ObjectStore, attempt: int = 1, check: Callable[[], None] = nothing
) -> PublishedRun:
    with structlog.testing.capture_logs():
        return publish(folder, store, attempt, check, LOG)


def keys(store: FarStore) -> list[str]:
    return [stat.key.removeprefix(f"{PATH}/") for stat in store.local.entries()]


@pytest.fixture
def store(tmp_path: Path) -> FarStore:
    return FarStore(tmp_path / "store")


def test_a_published_run_has_its_files_below_the_attempt_and_proves_every_byte(
    tmp_path: Path, store: FarStore
) -> None:
    """Manifest and marker alone lie at the root; digests are recomputed here from the objects."""
    with structlog.testing.capture_logs() as logs:
        run = publish(sealed(tmp_path), store, 3, nothing, LOG)
    assert keys(store) == [
        "_SUCCESS", "attempt-3/candidate.json", "attempt-3/evaluation/measured", "manifest.json",
    ]  # fmt: skip
    for name, facts in run.manifest.files.items():
        data = (store.folder / PATH / facts.key).read_bytes()
        assert facts.key == f"attempt-3/{name}"
        assert (facts.size, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    manifest = (store.folder / PATH / "manifest.json").read_bytes()
    assert (store.folder / PATH / "_SUCCESS").read_text().strip() == hashlib.sha256(manifest).hexdigest()
    assert open_run(store, PATH) == run
    assert finished_in(store, PATH) == Finished(0, "improved", "me", run.manifest.finished_at)
    event = {
        "event": "run.published",
        "run_uri": f"{store.uri}/{PATH}",
        "attempt": 3,
        "files": 2,
        "bytes": 10,
    }
    assert event.items() <= logs[-1].items()


def test_objects_come_first_then_the_manifest_then_the_marker(tmp_path: Path, store: FarStore) -> None:
    """And between the objects and the manifest all of them are read back and the lease is asked."""
    send(sealed(tmp_path), store, check=lambda: store.requests.append("check"))
    steps = [r for r in store.requests if r.split()[0] in ("upload", "download", "check", "create")]
    assert [step.split()[0] for step in steps] == [
        "upload", "upload", "download", "download", "check", "create", "check", "create", "check",
    ]  # fmt: skip
    assert steps[5].endswith("manifest.json")
    assert steps[7].endswith("_SUCCESS")


@pytest.mark.parametrize("results", ["same", "others"])
def test_a_kill_at_any_write_leaves_nothing_to_trust_and_the_next_attempt_publishes(
    tmp_path: Path, results: str
) -> None:
    """The next attempt has the same results, or (on another machine) others; what was left is removed."""
    first, second = sealed(tmp_path / "1"), sealed(tmp_path / "2", results=results, log="more")
    writes = 0
    while True:
        store = FarStore(tmp_path / f"store-{writes}", dies_after=writes)
        try:
            send(first, store)
        except Killed:
            assert open_run(store, PATH) is None
            assert finished_in(store, PATH) is None
        else:
            break
        store.dies_after = None
        run = send(second, store, attempt=2)
        assert open_run(store, PATH) == run
        assert run.verify() == []
        completes = writes == 3 and results == "same"  # the manifest was there and its files were whole
        assert run.manifest.attempt == (1 if completes else 2)
        attempts = {key.split("/")[0] for key in keys(store) if key.startswith("attempt")}
        assert attempts == {f"attempt-{run.manifest.attempt}"}
        writes += 1
    assert writes == 4


def test_the_log_of_an_attempt_that_was_killed_is_kept(tmp_path: Path, store: FarStore) -> None:
    """It tells why; what a later attempt is bringing stays too."""
    for key in ("attempt-1/job.log.jsonl", "attempt-1/candidate.json", "attempt-3/candidate.json"):
        store.local.write(f"{PATH}/{key}", b"x")
    send(sealed(tmp_path), store, attempt=2)
    assert [key for key in keys(store) if not key.startswith("attempt-2")] == [
        "_SUCCESS", "attempt-1/job.log.jsonl", "attempt-3/candidate.json", "manifest.json",
    ]  # fmt: skip


def test_an_object_damaged_on_its_way_is_sent_again_once(tmp_path: Path, store: FarStore) -> None:
    """A second failure is the store's: exit 4, and nothing is shown."""
    store.damages = 1
    assert send(sealed(tmp_path), store).verify() == []
    bad = FarStore(tmp_path / "bad", damages=100)
    with pytest.raises(IntegrityError, match=r"other content .* sent twice"):
        send(sealed(tmp_path), bad)
    assert "manifest.json" not in keys(bad)


def test_a_file_changed_after_sealing_is_not_published(tmp_path: Path, store: FarStore) -> None:
    """Equal size, other bytes: the digest that was promised tells."""
    folder = sealed(tmp_path)
    (folder.path / "evaluation" / "measured").write_text("MEASURED")
    with pytest.raises(IntegrityError, match="changed after the run was finished"):
        send(folder, store)
    assert open_run(store, PATH) is None


def test_an_invalid_run_gets_a_manifest_and_no_marker(tmp_path: Path, store: FarStore) -> None:
    """No reader trusts it; the same command finds how it ended."""
    run = send(sealed(tmp_path, exit_code=5), store)
    assert run.is_invalid
    assert "_SUCCESS" not in keys(store)
    assert open_run(store, PATH) is None
    assert open_run(store, PATH, or_invalid=True) == run
    finished = finished_in(store, PATH)
    assert finished is not None
    assert (finished.exit_code, finished.verdict) == (5, "invalid")


def test_a_lost_lease_shows_nothing(tmp_path: Path, store: FarStore) -> None:
    """The check comes after the upload, which may take long, and before the manifest."""

    def lost() -> None:
        raise TryAgain("the lease is lost")

    with pytest.raises(TryAgain, match="lost"):
        send(sealed(tmp_path), store, check=lost)
    assert "manifest.json" not in keys(store)


@pytest.mark.parametrize("notices", [True, False])
def test_an_attempt_thought_dead_cannot_hide_or_replace_what_followed(
    tmp_path: Path, store: FarStore, notices: bool
) -> None:
    """It wakes up between its manifest and its marker, when the next attempt has published other results."""
    checks = 0

    def overtaken() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            send(sealed(tmp_path / "2", results="others"), store, attempt=2)
            if notices:
                raise TryAgain("the lease is lost")

    with pytest.raises(TryAgain):
        send(sealed(tmp_path / "1"), store, check=overtaken)
    run = open_run(store, PATH)
    assert run is not None
    assert (run.manifest.results_digest, run.manifest.attempt) == ("others", 2)
    assert run.verify() == []


def test_an_attempt_whose_manifest_another_one_marks_has_not_published(
    tmp_path: Path, store: FarStore
) -> None:
    """It stood still between manifest and marker: who took over says so, and it alone."""
    checks = itertools.count(1)
    completed = []

    def overtaken() -> None:
        number = next(checks)
        if number == 2:  # the lease is asked for, and found ours; then we stand still
            completed.append(send(sealed(tmp_path / "2"), store, attempt=2))
        if number == 3:
            raise TryAgain("the lease went to another attempt", advice="run again")

    with pytest.raises(TryAgain, match="another attempt"):
        send(sealed(tmp_path / "1"), store, check=overtaken)
    assert open_run(store, PATH) == completed[0]
    assert completed[0].manifest.attempt == 1
    assert completed[0].verify() == []


def test_a_marker_of_an_earlier_manifest_is_replaced(tmp_path: Path, store: FarStore) -> None:
    """Left by an attempt that died while it removed or replaced a run."""
    store.local.write(f"{PATH}/_SUCCESS", b"0" * 64)
    run = send(sealed(tmp_path), store)
    assert open_run(store, PATH) == run


def test_a_finished_run_of_other_results_stays(tmp_path: Path, store: FarStore) -> None:
    """The message names the attempt that published; equal results are taken as they are."""
    first = send(sealed(tmp_path / "1"), store)
    with pytest.raises(TryAgain, match="attempt 1 has published"):
        send(sealed(tmp_path / "2", results="others"), store, attempt=2)
    assert send(sealed(tmp_path / "3"), store, attempt=3) == first
    assert open_run(store, PATH) == first


def test_a_damaged_run_is_published_again(tmp_path: Path, store: FarStore) -> None:
    """An object was lost in the store: the next attempt's files take its place."""
    send(sealed(tmp_path / "1"), store)
    store.local.delete([f"{PATH}/attempt-1/candidate.json"])
    run = send(sealed(tmp_path / "2"), store, attempt=2)
    assert run.manifest.attempt == 2
    assert open_run(store, PATH) == run
    assert run.verify() == []


@pytest.mark.parametrize("results", ["same", "others"])
def test_of_racing_attempts_one_result_is_published(tmp_path: Path, results: str) -> None:
    """Ten rounds without any lease: both end with one run, or the loser is told to try again."""
    folders = [sealed(tmp_path / "1"), sealed(tmp_path / "2", results=results)]
    for number in range(10):
        race(FarStore(tmp_path / f"round-{number}"), folders)


@pytest.mark.parametrize("results", ["same", "others"])
def test_attempts_race_at_a_real_store(tmp_path: Path, results: str, s3_prefix: str) -> None:
    """As above, by the server's conditional writes."""
    folders = [sealed(tmp_path / "1"), sealed(tmp_path / "2", results=results)]
    for number in range(5):
        race(open_store(f"{s3_prefix}/{number}"), folders)


def race(store: ObjectStore, folders: list[RunFolder]) -> None:
    """Let two attempts create the manifest at once; the store shows one run, and every winner that run."""
    barrier = threading.Barrier(2)
    ended: list[PublishedRun | TryAgain] = []

    def attempt(i: int) -> None:
        checks = itertools.count()

        def meet() -> None:
            if next(checks) == 0:
                barrier.wait(timeout=30)

        try:
            ended.append(publish(folders[i], store, i + 1, meet, LOG))
        except TryAgain as error:
            ended.append(error)

    with structlog.testing.capture_logs():
        threads = [threading.Thread(target=attempt, args=(i,)) for i in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    run = open_run(store, PATH)
    assert run is not None
    assert run.verify() == []
    equal = len({folder.manifest()[0].results_digest for folder in folders}) == 1  # type: ignore[index]
    assert len(ended) == 2
    assert [one for one in ended if isinstance(one, PublishedRun)] == [run] * (2 if equal else 1)


@pytest.mark.parametrize("damage", ["gone", "truncated", "edited", "marker"])
@pytest.mark.parametrize("exit_code", [0, 5])
def test_a_damaged_run_is_published_anew(
    tmp_path: Path, store: FarStore, damage: str, exit_code: int
) -> None:
    """It is not finished; what somebody edited is not taken over; the damage is told."""
    send(sealed(tmp_path / "1"), store)
    manifest = store.folder / PATH / "manifest.json"
    text = manifest.read_text()
    if damage == "gone":
        manifest.unlink()
    elif damage == "marker":
        (store.folder / PATH / "_SUCCESS").write_text("")
    else:
        manifest.write_text(text[:50] if damage == "truncated" else text.replace("improved", "splendid"))
    assert finished_in(store, PATH) is None
    with structlog.testing.capture_logs() as logs:
        run = publish(sealed(tmp_path / "2", exit_code=exit_code), store, 2, nothing, LOG)
    assert [log["log_level"] for log in logs if log["event"] == "store.damaged"] == ["warning"]
    assert open_run(store, PATH, or_invalid=True) == run
    assert (run.manifest.attempt, run.verify()) == (2, [])
    assert (store.folder / PATH / "_SUCCESS").exists() == (exit_code == 0)
    finished = finished_in(store, PATH)
    assert finished is not None
    assert finished.verdict == ("invalid" if exit_code else "improved")


def test_a_manifest_of_another_version_is_not_overwritten(tmp_path: Path, store: FarStore) -> None:
    """Its marker says that it is whole: it is no damage."""
    send(sealed(tmp_path / "1"), store)
    data = b'{"schema_version": 2}'
    store.local.write(f"{PATH}/manifest.json", data)
    store.local.write(f"{PATH}/_SUCCESS", hashlib.sha256(data).hexdigest().encode())
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        finished_in(store, PATH)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        send(sealed(tmp_path / "2"), store, attempt=2)
    assert (store.folder / PATH / "manifest.json").read_bytes() == data
