"""`status`: a line a run."""

import json
import re
import time
from pathlib import Path

import pytest

from job import status
from job.errors import InputError
from job.storage.local import exclusive
from job.storage.run_folder import RunFolder

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
        found = status.runs(tmp_path)
    shown = [(r["run_id"], r["state"], r["stage"], r["verdict"], r["exit_code"], r["age"]) for r in found]
    assert shown == [
        ("running", "running", "table", None, None, "3 s"),
        ("done", "finished", "publish", "improved", "0", "2 min"),
        ("stopped", "stopped", "reward", None, None, "2 h"),
        ("invalid", "finished", "publish", "invalid", "5", "2 d"),
    ]
    assert found[0]["path"] == str(running.path)


def test_asking_for_the_state_takes_no_lock(tmp_path: Path) -> None:
    """A run may start right after somebody looked."""
    run = run_of(tmp_path, "a", ago(1))
    run.write(".lock", "")
    status.runs(tmp_path)
    with exclusive(run.path / ".lock", "run"):
        assert status.runs(tmp_path)[0]["state"] == "running"


def test_broken_files_of_one_run_do_not_hide_the_others(tmp_path: Path) -> None:
    """A status that is no JSON or no object, a manifest that is none, a time that is none or a number."""
    run_of(tmp_path, "good", ago(1), stage="pull")
    RunFolder(tmp_path, "vessels", "cut").write("status.json", "{")
    RunFolder(tmp_path, "vessels", "list").write("status.json", "[1]")
    RunFolder(tmp_path, "vessels", "number").write("status.json", '{"updated_at": 7}')
    run_of(tmp_path, "foreign", "yesterday")
    run_of(tmp_path, "bad", ago(2)).write("manifest.json", "{")
    found = {run["run_id"]: (run["state"], run["age"]) for run in status.runs(tmp_path)}
    assert found == {
        "good": ("stopped", "1 s"), "cut": ("stopped", "-"), "foreign": ("stopped", "-"),
        "bad": ("stopped", "2 s"), "list": ("stopped", "-"), "number": ("stopped", "-"),
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
    found = status.runs(tmp_path)
    assert [(run["run_id"], run["verdict"]) for run in found] == [("whole", "improved")]


def test_the_table_is_aligned_and_dashes_stand_for_nothing(tmp_path: Path) -> None:
    """Columns begin at one place in every line."""
    run_of(tmp_path, "a-long-run-id", ago(5))
    run_of(tmp_path, "b", ago(9), stage="reward")
    header, first, second = status.table(status.runs(tmp_path)).splitlines()
    for column in ("run_id", "state", "stage", "verdict", "exit_code", "age"):
        found = re.search(rf"\b{column}\b", header)
        assert found is not None
        at = found.start()
        assert first[at - 1] == second[at - 1] == " "
        assert first[at] != " "
        assert second[at] != " "
    assert first.split() == ["vessels", "a-long-run-id", "stopped", "-", "-", "-", "5", "s"]


def test_no_folder_is_an_error_and_no_run_is_none(tmp_path: Path) -> None:
    """The advice says which folder is meant."""
    assert status.table(status.runs(tmp_path)) == "no runs yet"
    with pytest.raises(InputError) as caught:
        status.runs(tmp_path / "nowhere")
    assert "output.uri" in caught.value.advice
