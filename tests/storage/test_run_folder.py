"""The run folder."""

import hashlib
import json
from pathlib import Path

import pytest

from job.errors import IntegrityError, SpecError
from job.storage.local import exclusive
from job.storage.run_folder import Finished, RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path, "vessels", "abc")
    folder.write("report.md", "# Report")
    return folder


def test_a_sealed_run_is_finished_and_every_byte_verifiable(run: RunFolder) -> None:
    """Manifest and marker, recomputed; status, log and lock go on changing and are no part of it."""
    run.write_status(state="running")
    run.write("sub/data.bin", b"\0\1")
    run.write("job.log.jsonl", "{}")
    run.write(".lock", "")
    assert run.finished() is None
    run.seal(exit_code=0, verdict="improved", identity="me", results_digest="r")
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert {name: (f["key"], f["size"], f["sha256"]) for name, f in manifest["files"].items()} == {
        "report.md": ("report.md", 8, hashlib.sha256(b"# Report").hexdigest()),
        "sub/data.bin": ("sub/data.bin", 2, hashlib.sha256(b"\0\1").hexdigest()),
    }
    assert (manifest["results_digest"], manifest["attempt"]) == ("r", 1)
    marker = (run.path / "_SUCCESS").read_text().strip()
    assert marker == hashlib.sha256((run.path / "manifest.json").read_bytes()).hexdigest()
    assert run.finished() == Finished(0, "improved", "me", manifest["finished_at"])


def test_what_a_killed_process_left_half_written_is_removed(run: RunFolder) -> None:
    """Partial files have names of their own: none is in the manifest, and none is left."""
    (run.path / "sub").mkdir(exist_ok=True)
    partial = [run.path / ".report.md.123.tmp", run.path / "sub" / ".data.bin.77.tmp"]
    for path in partial:
        path.write_text("# Rep")
    run.seal(exit_code=0, verdict="improved", identity="me")
    assert not any(path.exists() for path in partial)
    assert list(json.loads((run.path / "manifest.json").read_text())["files"]) == ["report.md"]


def test_a_manifest_without_marker_is_a_run_that_died_between_the_two(run: RunFolder) -> None:
    """It is not finished, except where the result is invalid: such a run never gets a marker."""
    run.seal(exit_code=0, verdict="improved", identity="me")
    (run.path / "_SUCCESS").unlink()
    assert run.finished() is None
    run.seal(exit_code=5, verdict="invalid", identity="me")
    assert not (run.path / "_SUCCESS").exists()
    finished = run.finished()
    assert finished is not None
    assert (finished.exit_code, finished.verdict) == (5, "invalid")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"exit_code": 0}'])
@pytest.mark.parametrize("marker", [None, "0" * 64])
def test_a_damaged_manifest_is_repaired_and_one_of_another_version_named(
    run: RunFolder, text: str, marker: str | None
) -> None:
    """The same command publishes the run again, unless the marker says that the manifest is whole."""
    run.write("manifest.json", text)
    if marker is not None:
        run.write("_SUCCESS", marker)
    assert run.finished() is None
    run.write("_SUCCESS", hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(IntegrityError, match=r"manifest\.json") as caught:
        run.finished()
    assert "delete" in caught.value.advice
    run.seal(exit_code=0, verdict="improved", identity="me")
    assert run.finished() is not None


def test_an_invalid_result_takes_the_marker_of_what_was_there_away(run: RunFolder) -> None:
    """Marker and manifest would disagree for ever."""
    run.seal(exit_code=0, verdict="improved", identity="me")
    run.seal(exit_code=5, verdict="invalid", identity="me")
    assert not (run.path / "_SUCCESS").exists()
    assert run.finished() is not None
    run.write("_SUCCESS", "0" * 64)
    assert run.finished() is None


def test_a_run_id_stands_for_one_set_of_inputs(run: RunFolder) -> None:
    """Started with other inputs: refused with advice; with the same, or never started: fine."""
    run.require_identity("me")
    run.write_status(identity="me")
    run.require_identity("me")
    with pytest.raises(SpecError, match="other inputs") as caught:
        run.require_identity("you")
    assert "--run-id" in caught.value.advice


def test_a_finished_run_without_status_still_knows_its_inputs(run: RunFolder) -> None:
    """A folder that was fetched from a store holds what the manifest names, which the status is not."""
    run.seal(exit_code=0, verdict="improved", identity="me")
    run.require_identity("me")
    with pytest.raises(SpecError):
        run.require_identity("you")


def test_a_manifest_that_names_files_elsewhere_is_refused(run: RunFolder) -> None:
    """Looking for them must not leave the folder, whatever the marker says."""
    run.seal(exit_code=0, verdict="improved", identity="me")
    document = json.loads((run.path / "manifest.json").read_text())
    document["files"]["report.md"]["key"] = "../secret"
    run.write("manifest.json", json.dumps(document))
    assert run.finished() is None
    run.write("_SUCCESS", hashlib.sha256((run.path / "manifest.json").read_bytes()).hexdigest())
    with pytest.raises(IntegrityError, match=r"\.\./secret"):
        run.finished()


def test_a_copy_of_a_run_in_a_store_is_finished(run: RunFolder) -> None:
    """Its files lie below the attempt that published, as the manifest says."""
    run.seal(exit_code=0, verdict="improved", identity="me", attempt=2)
    document = json.loads((run.path / "manifest.json").read_text())
    document["files"]["report.md"]["key"] = "attempt-2/report.md"
    run.write("manifest.json", json.dumps(document))
    run.write("_SUCCESS", hashlib.sha256((run.path / "manifest.json").read_bytes()).hexdigest())
    assert run.finished() is None
    run.write("attempt-2/report.md", "# Report")
    assert run.finished() is not None


def test_whoever_works_on_a_run_holds_it(run: RunFolder) -> None:
    """Never locked, locked by nobody, locked."""
    assert not run.is_held()
    run.write(".lock", "")
    assert not run.is_held()
    with exclusive(run.path / ".lock", "run"):
        assert run.is_held()
    assert not run.is_held()


def test_status_gathers_facts_and_survives_a_broken_file(run: RunFolder) -> None:
    """Later facts replace earlier ones of the same name; every write has its time."""
    assert run.status() == {}
    run.write_status(stage="pull", identity="me")
    run.write_status(stage="table")
    status = run.status()
    assert (status["stage"], status["identity"]) == ("table", "me")
    assert status["updated_at"].endswith("Z")
    (run.path / "status.json").write_text("{")
    assert run.status() == {}


def test_files_and_folders_are_placed_under_their_names(run: RunFolder, tmp_path: Path) -> None:
    """A folder keeps its structure."""
    stage = tmp_path / "stage"
    (stage / "logs" / "PPO_1").mkdir(parents=True)
    (stage / "logs" / "PPO_1" / "events").write_text("e")
    (stage / "model.zip").write_text("m")
    run.put("final.zip", stage / "model.zip")
    run.put("logs", stage / "logs")
    assert (run.path / "final.zip").read_text() == "m"
    assert (run.path / "logs" / "PPO_1" / "events").read_text() == "e"
