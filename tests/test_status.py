"""`status`: a line a run."""

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from job import status
from job.errors import InputError, Missing
from job.publish.published import open_run
from job.publish.publishing import publish
from job.storage import beside
from job.storage.local import exclusive
from job.storage.local_store import LocalStore
from job.storage.run_folder import RunFolder
from job.storage.store import ObjectStore
from job.storage.uris import open_store
from tests.publish.far_store import FarStore, sealed

NOW_S = 1_750_000_000


@pytest.fixture(autouse=True)
def _frozen_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_S + 0.5)


def run_of(root: Path, run_id: str, updated_at: str, **facts: object) -> RunFolder:
    run = RunFolder(root, "vessels", run_id)
    run.write("status.json", json.dumps({"updated_at": updated_at, **facts}))
    return run


def ago(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW_S - seconds))


def test_runs_are_listed_newest_first_with_state_and_verdict(tmp_path: Path) -> None:
    """Finished by its manifest, running by its lock, stopped otherwise."""
    stopped = run_of(tmp_path, "stopped", ago(7300), stage="reward")
    running = run_of(tmp_path, "running", ago(3), stage="table")
    done = run_of(tmp_path, "done", ago(130), stage="publish")
    done.seal(exit_code=0, verdict="improved", identity="x")
    invalid = run_of(tmp_path, "invalid", ago(200_000), stage="publish")
    invalid.seal(exit_code=5, verdict="invalid", identity="x")
    stopped.write(".lock", "")
    with exclusive(running.path / ".lock", "run"):
        found = status.runs(str(tmp_path))
    shown = [(r["run_id"], r["state"], r["stage"], r["verdict"], r["exit_code"], r["age"]) for r in found]
    assert shown == [
        ("running", "running", "table", None, None, "3 s"),
        ("done", "finished", "publish", "improved", 0, "2 min"),
        ("stopped", "stopped", "reward", None, None, "2 h"),
        ("invalid", "finished", "publish", "invalid", 5, "2 d"),
    ]
    assert found[0]["path"] == str(running.path)


def test_asking_for_the_state_takes_no_lock(tmp_path: Path) -> None:
    """A run may start right after somebody looked."""
    run = run_of(tmp_path, "a", ago(1))
    run.write(".lock", "")
    status.runs(str(tmp_path))
    with exclusive(run.path / ".lock", "run"):
        assert status.runs(str(tmp_path))[0]["state"] == "running"


def test_broken_files_of_one_run_do_not_hide_the_others(tmp_path: Path) -> None:
    """A status that is no JSON or no object, a manifest that is none, a time that is none or a number."""
    run_of(tmp_path, "good", ago(1), stage="pull")
    RunFolder(tmp_path, "vessels", "cut").write("status.json", "{")
    RunFolder(tmp_path, "vessels", "list").write("status.json", "[1]")
    RunFolder(tmp_path, "vessels", "number").write("status.json", '{"updated_at": 7}')
    run_of(tmp_path, "foreign", "yesterday")
    run_of(tmp_path, "bad", ago(2)).write("manifest.json", "{")
    found = {run["run_id"]: (run["state"], run["age"]) for run in status.runs(str(tmp_path))}
    assert found == {
        "good": ("stopped", "1 s"), "cut": ("stopped", "-"), "foreign": ("stopped", "-"),
        "bad": ("damaged", "2 s"), "list": ("stopped", "-"), "number": ("stopped", "-"),
    }  # fmt: skip


def test_a_run_starts_over_a_status_that_is_no_object(tmp_path: Path) -> None:
    """Its identity is unknown, and the next fact makes it a state again."""
    run = RunFolder(tmp_path, "vessels", "a")
    run.write("status.json", "[1]")
    run.require_identity("x")
    run.write_status(stage="pull")
    assert run.status()["stage"] == "pull"


def test_folds_are_parts_of_their_run_and_no_runs_of_their_own(tmp_path: Path) -> None:
    """A run over folds is one line, whatever lies below its folder."""
    whole = run_of(tmp_path, "whole", ago(5), stage="publish")
    for fold in ("1", "2"):
        part = RunFolder(tmp_path, "vessels", f"whole/folds/{fold}")
        part.write("status.json", json.dumps({"updated_at": ago(1)}))
        part.seal(exit_code=0, verdict="inconclusive", identity="x")
    whole.seal(exit_code=0, verdict="improved", identity="x")
    found = status.runs(str(tmp_path))
    assert [(run["run_id"], run["verdict"]) for run in found] == [("whole", "improved")]


def test_the_table_is_aligned_and_dashes_stand_for_nothing(tmp_path: Path) -> None:
    """Columns begin at one place in every line."""
    run_of(tmp_path, "a-long-run-id", ago(5))
    run_of(tmp_path, "b", ago(9), stage="reward")
    header, first, second = status.table(status.runs(str(tmp_path))).splitlines()
    for column in ("run_id", "state", "stage", "progress", "eta", "verdict", "exit_code", "age"):
        found = re.search(rf"\b{column}\b", header)
        assert found is not None
        at = found.start()
        assert first[at - 1] == second[at - 1] == " "
        assert first[at] != " "
        assert second[at] != " "
    assert first.split() == ["vessels", "a-long-run-id", "stopped", "-", "-", "-", "-", "-", "5", "s"]


def test_no_folder_is_an_error_and_no_run_is_none(tmp_path: Path) -> None:
    """The advice says which folder is meant."""
    assert status.table(status.runs(str(tmp_path))) == "no runs yet"
    with pytest.raises(InputError) as caught:
        status.runs(str(tmp_path / "nowhere"))
    assert "output.uri" in caught.value.advice


def test_what_a_run_is_at_is_shown_while_it_runs(tmp_path: Path) -> None:
    """Progress and time left of a run that stopped mean nothing any more."""
    facts = {"stage": "table", "progress": "table 120/1010", "eta_s": 95.0}
    running = run_of(tmp_path, "running", ago(3), state="running", **facts)
    run_of(tmp_path, "stopped", ago(4), state="running", **facts)
    with exclusive(running.path / ".lock", "run"):
        found = status.runs(str(tmp_path))
    assert [(run["progress"], run["eta_s"]) for run in found] == [("table 120/1010", 95.0), (None, None)]
    assert "table 120/1010  1 min" in status.table(found)


def test_a_run_that_says_how_it_ended_is_believed(tmp_path: Path) -> None:
    """Failed and interrupted with their exit codes; without a word it was stopped."""
    run_of(tmp_path, "a", ago(1), state="failed", exit_code=11)
    run_of(tmp_path, "b", ago(2), state="interrupted", exit_code=75)
    run_of(tmp_path, "c", ago(3), state="running")
    found = [(run["state"], run["exit_code"]) for run in status.runs(str(tmp_path))]
    assert found == [("failed", 11), ("interrupted", 75), ("stopped", None)]


def test_the_champion_is_marked(tmp_path: Path) -> None:
    """In JSON and in the table; a record that cannot be read hides no run."""
    sealed(tmp_path, "r1")
    sealed(tmp_path, "r2")
    champion = tmp_path / "models" / "vessels" / "champion.json"
    champion.parent.mkdir(parents=True)
    champion.write_text(json.dumps({"current": {"run": "runs/vessels/r2", "manifest_sha256": "0"}}))
    found = {run["run_id"]: run for run in status.runs(str(tmp_path))}
    assert {run_id: run["champion"] for run_id, run in found.items()} == {"r1": False, "r2": True}
    assert status.table([found["r2"]]).endswith("champion")
    other = tmp_path / "models" / "other" / "champion.json"
    other.parent.mkdir()
    other.write_text("{")
    seen = status.look(str(tmp_path))
    assert [run["champion"] for run in seen.runs if run["run_id"] == "r2"] == [True]
    (problem,) = seen.problems
    assert f"{tmp_path}/models/other/champion.json is not what this program writes" in problem
    assert (seen.exit_code, status.look(str(tmp_path), verify=True).exit_code) == (0, 4)


@pytest.mark.parametrize("damage", ["gone", "truncated", "edited"])
@pytest.mark.parametrize("place", ["folder", "store"])
def test_a_marker_without_its_manifest_is_damage(
    tmp_path: Path, far: FarStore, place: str, damage: str
) -> None:
    """Neither finished nor an absence while nobody works on the run; `--verify` says what and ends with 4."""
    run = far.folder / published(tmp_path, far, "r1")
    manifest = run / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    if damage != "gone":
        manifest.write_text(text[:40] if damage == "truncated" else text.replace("improved", "Improved"))
    uri = "s3://bucket/p" if place == "store" else str(far.folder)
    assert [found["state"] for found in status.runs(uri)] == ["damaged"]
    seen = status.look(uri, verify=True)
    what = "missing, though _SUCCESS names it" if damage == "gone" else "not the one that _SUCCESS names"
    assert [found["damaged"] for found in seen.runs] == [[f"manifest.json is {what}"]]
    assert seen.exit_code == 4
    hold(far, "runs/vessels/r1", state="running")
    assert [found["state"] for found in status.runs("s3://bucket/p")] == ["running"]


def test_a_finished_run_that_lost_a_file_is_damaged(tmp_path: Path) -> None:
    """Not one that ended without a word; its verdict stands on nothing, and is not told."""
    folder = sealed(tmp_path, "done")
    (lost,) = list(folder.manifest()[0].files)[:1]
    (folder.path / lost).unlink()
    for verify in (False, True):
        (run,) = status.runs(str(tmp_path), verify=verify)
        assert (run["state"], run["verdict"], run["exit_code"]) == ("damaged", None, None)
    assert "damaged" in status.table([run])


def test_exit_codes_are_numbers(tmp_path: Path) -> None:
    """In JSON an integer or null, whatever a status file holds; 0 is shown as such."""
    sealed(tmp_path, "done")
    for i, exit_code in enumerate(("3", True, None, [1], 11)):
        run_of(tmp_path, f"r{i}", ago(i), state="failed", exit_code=exit_code)
    found = {run["run_id"]: run for run in status.runs(str(tmp_path))}
    codes = {run_id: run["exit_code"] for run_id, run in found.items()}
    assert codes == {"done": 0, "r0": None, "r1": None, "r2": None, "r3": None, "r4": 11}
    assert re.search(r"improved +0 ", status.table([found["done"]]))


def test_a_folder_that_a_console_marked_is_not_advised(
    far: FarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint leaves out the very thing that was asked for; the root of a bucket is an output."""
    monkeypatch.setattr(beside, "open_store", lambda uri: far)
    (far.folder / "resutls").mkdir(parents=True)
    monkeypatch.setattr(FarStore, "children", lambda store: ["resutls/"])
    assert "resutls" not in beside.nothing_at("s3://bucket/resutls").advice.replace("s3://bucket", "")
    monkeypatch.setattr(FarStore, "children", lambda store: ["resutls/", "results/"])
    assert beside.nothing_at("s3://bucket/resutls").advice == "check the URI; s3://bucket has results"
    monkeypatch.setattr(FarStore, "children", lambda store: [])
    assert status.runs("s3://bucket") == []
    with pytest.raises(Missing, match="resutls: there is nothing"):
        status.runs("s3://bucket/resutls")


def test_verification_reads_every_byte_of_finished_runs(tmp_path: Path) -> None:
    """One sentence a file, exit code 4; a manifest that was edited is damage too, an unfinished run none."""
    whole, changed, cut, edited = (
        sealed(tmp_path, run_id) for run_id in ("whole", "changed", "cut", "edited")
    )
    run_of(tmp_path, "unfinished", ago(1))
    assert status.look(str(tmp_path), verify=True).exit_code == 0
    (changed.path / "evaluation" / "measured").write_text("MEASURED")
    (cut.path / "candidate.json").unlink()
    manifest = edited.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("improved", "Improved"))
    seen = status.look(str(tmp_path), verify=True)
    found = seen.runs
    assert {run["run_id"]: run["damaged"] for run in found} == {
        "whole": [],
        "changed": ["evaluation/measured has other content than the manifest says"],
        "cut": ["candidate.json is missing"],
        "edited": ["manifest.json is not the one that _SUCCESS names"],
        "unfinished": None,
    }
    assert seen.exit_code == 4
    shown = status.table(found)
    assert "vessels/cut: candidate.json is missing" in shown
    assert shown.count("DAMAGED: 1") == 3
    assert shown.count("verified") == 1
    assert whole.finished() is not None
    assert "damaged" not in status.runs(str(tmp_path))[0]


def hold(store: FarStore, path: str, *, age_s: float = 7.0, released: bool = False, **facts: Any) -> None:
    """Put down what the holder of a run's lease wrote so many seconds ago."""
    document = {"holder": "h", "attempt": 2, "ttl_s": 60.0, "released": released, "facts": facts}
    store.local.write(f"{path}/lease.json", json.dumps(document).encode())
    os.utime(store.folder / path / "lease.json", (NOW_S + 0.5 - age_s,) * 2)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FarStore:
    store = FarStore(tmp_path / "store")
    monkeypatch.setattr(status, "open_store", lambda uri: store)
    return store


def published(root: Path, store: ObjectStore, run_id: str, *, exit_code: int = 0) -> str:
    with structlog.testing.capture_logs():
        folder = sealed(root, run_id, exit_code=exit_code)
        return publish(folder, store, 3, lambda: None, structlog.get_logger()).path


def test_runs_in_a_store_are_told_by_manifest_marker_and_lease(tmp_path: Path, far: FarStore) -> None:
    """Finished, invalid, running, failed, released without a word, silent, and without any lease."""
    published(tmp_path, far, "done")
    hold(far, published(tmp_path, far, "again"), state="running", stage="publish")
    published(tmp_path, far, "invalid", exit_code=5)
    facts = {"stage": "table", "progress": "table 3/9", "eta_s": 60}
    hold(far, "runs/vessels/running", state="running", **facts)
    hold(far, "runs/vessels/failed", released=True, state="failed", exit_code=3)
    hold(far, "runs/vessels/released", released=True, state="running")
    hold(far, "runs/vessels/silent", age_s=90, state="running", **facts)
    far.local.write("runs/vessels/bare/attempt-1/job.log.jsonl", b"{}")
    far.local.write("runs/vessels/foreign/lease.json", b"[]")
    far.local.write("runs/vessels/foreign/manifest.json", b"[]")
    far.local.write("runs/stray", b"")
    found = {run["run_id"]: run for run in status.runs("s3://bucket/p")}
    shown = {
        k: (r["state"], r["stage"], r["verdict"], r["exit_code"], r["attempt"]) for k, r in found.items()
    }
    assert shown == {
        "done": ("finished", None, "improved", 0, 3),
        "again": ("finished", None, "improved", 0, 3),
        "invalid": ("finished", None, "invalid", 5, 3),
        "running": ("running", "table", None, None, 2),
        "failed": ("failed", None, None, 3, 2),
        "released": ("stopped", None, None, None, 2),
        "silent": ("lost", "table", None, None, 2),
        "bare": ("lost", None, None, None, None),
        "foreign": ("lost", None, None, None, None),
    }
    assert (found["running"]["progress"], found["running"]["eta_s"]) == ("table 3/9", 60)
    assert (found["running"]["age"], found["silent"]["progress"]) == ("7 s", None)
    assert found["done"]["path"] == f"{far.uri}/runs/vessels/done"


def test_many_runs_in_a_store_are_listed_once_and_read_side_by_side(
    tmp_path: Path, far: FarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two listings whatever there is, two small objects a run, and eight of them under way at a time."""
    for i in range(20):
        published(tmp_path, far, f"r{i}")
    far.requests.clear()
    barrier, read = threading.Barrier(8), FarStore.read
    together = threading.Semaphore(8)

    def reading(store: FarStore, key: str) -> tuple[bytes, str]:
        if key.endswith("manifest.json") and together.acquire(blocking=False):
            barrier.wait(timeout=20)  # breaks unless eight come together
        return read(store, key)

    monkeypatch.setattr(FarStore, "read", reading)
    assert len(status.runs("s3://bucket/p")) == 20
    kinds = [request.split()[0] for request in far.requests]
    assert (kinds.count("list"), kinds.count("read"), len(kinds)) == (2, 40, 42)


def test_a_real_store_is_verified(tmp_path: Path, s3_prefix: str) -> None:
    """A run that is whole and one with an object that somebody replaced."""
    store = open_store(s3_prefix)
    good, bad = (published(tmp_path, store, run_id) for run_id in ("good", "bad"))
    store.write(f"{bad}/attempt-3/candidate.json", b"[]")
    found = {run["run_id"]: run["damaged"] for run in status.runs(s3_prefix, verify=True)}
    assert found == {"good": [], "bad": ["candidate.json has other content than the manifest says"]}
    assert open_run(store, good) is not None
    with pytest.raises(Missing, match="there is nothing") as caught:
        status.runs(f"{s3_prefix}/nothing")
    assert f"{s3_prefix} has runs" in caught.value.advice
    store.write("output/stages/pull/x", b"no run yet")
    assert status.runs(f"{s3_prefix}/output") == []
    store.write("marked/", b"")
    with pytest.raises(Missing) as caught:
        status.runs(f"{s3_prefix}/market")
    assert "marked" in caught.value.advice


def test_a_copy_of_a_store_is_listed_too(tmp_path: Path) -> None:
    """Manifests without any status."""
    published(tmp_path / "made", LocalStore(tmp_path / "copy"), "r1")
    (found,) = status.runs(str(tmp_path / "copy"), verify=True)
    assert (found["state"], found["verdict"], found["damaged"]) == ("finished", "improved", [])
