"""Which runs `models/*/` names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from job.errors import InputError, IntegrityError
from job.publish.pointers import Pointer, champion_of, champions, named_runs
from job.storage.local_store import LocalStore


def pointer(run: str) -> dict[str, str]:
    return {"run": run, "manifest_sha256": run[-1] * 64, "promoted_at": "2026-01-01T00:00:00Z"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    for name, previous in (("a", pointer("runs/a/1")), ("b", None)):
        record = {"generation": 2, "current": pointer(f"runs/{name}/2"), "previous": previous}
        store.write(f"models/{name}/champion.json", json.dumps(record).encode())
    store.write("models/a/last.json", json.dumps({"run": pointer("runs/a/3"), "identity": "x"}).encode())
    store.write("models/champion.json", b"no record: it lies in no name's folder")
    store.write("models/a/notes/champion.json", b"no record either")
    return store


def test_champions_and_everything_named(store: LocalStore) -> None:
    """Current ones by name; with them the ones before and the last runs."""
    assert {name: found.run for name, found in champions(store).items() if isinstance(found, Pointer)} == {
        "a": "runs/a/2",
        "b": "runs/b/2",
    }
    assert champion_of(store, "a") == champions(store)["a"]
    assert named_runs(store) == {"runs/a/1", "runs/a/2", "runs/a/3", "runs/b/2"}


def test_no_models_name_no_run(tmp_path: Path) -> None:
    """And asking for one champion is answered with what to do."""
    store = LocalStore(tmp_path)
    assert champions(store) == {}
    assert named_runs(store) == set()
    with pytest.raises(InputError, match="no champion of 'a'") as caught:
        champion_of(store, "a")
    assert "runs/a" in caught.value.advice


@pytest.mark.parametrize("file", ["champion.json", "last.json"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"current": {"run": 1}, "run": {}}'])
def test_a_record_that_cannot_be_read_is_no_absence(store: LocalStore, file: str, text: str) -> None:
    """The file is named: what it points to may not be removed."""
    store.write(f"models/a/{file}", text.encode())
    with pytest.raises(IntegrityError, match=rf"models/a/{file}"):
        named_runs(store)


@pytest.mark.parametrize(
    "run",
    [
        "runs/a/..",
        "runs/../1",
        "runs/a/1/../../b/2",
        "/runs/a/1",
        "runs/a",
        "runs/a/1/",
        "runs/a/1\n",
        "runs/b/2",
    ],
)
def test_a_record_that_leads_elsewhere_is_refused(store: LocalStore, run: str) -> None:
    """Out of the runs, or to the run of another name."""
    store.write("models/a/champion.json", json.dumps({"current": pointer(run)}).encode())
    with pytest.raises(IntegrityError, match=r"models/a/champion\.json"):
        champion_of(store, "a")
    found = champions(store)
    assert isinstance(found["a"], IntegrityError)
    assert isinstance(found["b"], Pointer)


def test_a_record_of_another_version_is_refused(store: LocalStore) -> None:
    """Its fields may mean something else."""
    document = {"schema_version": 99, "current": pointer("runs/a/2")}
    store.write("models/a/champion.json", json.dumps(document).encode())
    with pytest.raises(IntegrityError, match="written by another version") as caught:
        champion_of(store, "a")
    assert caught.value.advice


def test_status_of_pointers_needs_no_numpy() -> None:
    """`status` and `compare` of far runs answer at once."""
    code = "import sys, job.status, job.publish.local_run; sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
