"""Reading published runs: what is trusted, what is fetched, and what is refused."""

import json
import os
from pathlib import Path

import pytest
import structlog

from job.errors import InputError, IntegrityError
from job.publish import published
from job.publish.published import PublishedRun, newest_run, open_run, trusted_run
from job.publish.publishing import publish
from job.storage.local_store import LocalStore
from tests.publish.far_store import FarStore, sealed

PATH = "runs/vessels/r1"


def sent(store: FarStore, root: Path, run_id: str = "r1", **files: str) -> PublishedRun:
    with structlog.testing.capture_logs():
        return publish(sealed(root, run_id, **files), store, 1, lambda: None, structlog.get_logger())


@pytest.fixture
def store(tmp_path: Path) -> FarStore:
    return FarStore(tmp_path / "store")


@pytest.fixture
def run(store: FarStore, tmp_path: Path) -> PublishedRun:
    return sent(store, tmp_path, **{"reward/net": "weights", "report.md": "# Report"})


def files_below(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_brought_whole_and_a_second_time_without_a_request(
    run: PublishedRun, store: FarStore, tmp_path: Path
) -> None:
    """The folder is named by the manifest's digest and carries the marker, as a finished run does."""
    folder = run.bring(tmp_path / "cache")
    assert folder == tmp_path / "cache" / "runs" / run.manifest_sha256
    assert files_below(folder) == {
        "candidate.json": "{}", "evaluation/measured": "measured", "reward/net": "weights",
        "report.md": "# Report", "_SUCCESS": f"{run.manifest_sha256}\n",
    }  # fmt: skip
    store.requests.clear()
    assert run.bring(tmp_path / "cache") == folder
    assert store.requests == []


def test_only_what_is_wanted_is_fetched(run: PublishedRun, store: FarStore, tmp_path: Path) -> None:
    """Files by name and folders by theirs, with or without a slash; `report` is no folder of `report.md`."""
    store.requests.clear()
    folder = run.bring(tmp_path / "cache", ["candidate.json", "reward/", "report", "absent"])
    assert set(files_below(folder)) == {"candidate.json", "reward/net", "_SUCCESS"}
    assert sum(request.startswith("download") for request in store.requests) == 2
    run.bring(tmp_path / "cache")
    assert sum(request.startswith("download") for request in store.requests) == 4


def test_an_edited_copy_is_fetched_again(run: PublishedRun, tmp_path: Path) -> None:
    """Of the same size, so that only reading it tells."""
    folder = run.bring(tmp_path / "cache")
    (folder / "reward" / "net").write_text("WEIGHTS")
    assert (run.bring(tmp_path / "cache") / "reward" / "net").read_text() == "weights"


@pytest.mark.parametrize("damage", ["other", "longer", "missing"])
def test_a_damaged_object_is_refused_and_not_kept(
    run: PublishedRun, store: FarStore, tmp_path: Path, damage: str
) -> None:
    """Exit 4 with the file's name; `verify` has a sentence for it and none for the others."""
    path = store.folder / PATH / "attempt-1" / "reward" / "net"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("WEIGHTS" if damage == "other" else "weights and more")
    with pytest.raises(IntegrityError, match="reward/net"):
        run.bring(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("net"))
    problems = run.verify()
    assert len(problems) == 1
    assert problems[0].startswith("reward/net ")


def test_verification_keeps_little_on_the_disk(
    store: FarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects come a batch at a time, and nothing of them stays."""
    run = sent(store, tmp_path, **{f"masks/{i}.png": "x" * 40 for i in range(9)})
    monkeypatch.setattr(published, "READ_AT_ONCE_BYTES", 100)
    seen: list[int] = []
    download = FarStore.download

    def counting(self: FarStore, items: list[published.Download], *rest: object) -> list[str]:
        seen.append(sum(item.source.size for item in items))
        assert not any(p.is_file() for p in (tmp_path / "scratch").rglob("*"))
        return download(self, items)

    monkeypatch.setattr(FarStore, "download", counting)
    assert run.verify(tmp_path / "scratch") == []
    assert max(seen) <= 100
    assert sum(seen) == run.manifest.size
    assert not any((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("name", ["../out", "/abs", "a//b", "a/../../out", "nul\0", "back\\slash"])
def test_a_hostile_path_leaves_no_folder(run: PublishedRun, tmp_path: Path, name: str) -> None:
    """A manifest is what somebody wrote: none of its names is repaired, and nothing is fetched."""
    facts = run.manifest.files["candidate.json"]
    hostile = run.manifest.model_copy(update={"files": {name: facts}})
    with pytest.raises(IntegrityError, match="cannot be a file"):
        PublishedRun(run.store, run.path, hostile, "0" * 64).bring(tmp_path / "cache")
    assert not list(tmp_path.glob("out*"))


def test_a_run_without_its_own_marker_is_not_open(run: PublishedRun, store: FarStore) -> None:
    """None, or of another manifest; whoever asks for invalid runs gets no other unmarked ones."""
    store.local.write(f"{PATH}/_SUCCESS", b"0" * 64)
    assert open_run(store, PATH) is None
    store.local.delete([f"{PATH}/_SUCCESS"])
    assert open_run(store, PATH) is None
    assert open_run(store, PATH, or_invalid=True) is None
    assert open_run(store, "runs/vessels/nowhere") is None


def test_a_marked_manifest_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Of an older version of the program: named with the field, never taken for an absence."""
    folder = sealed(tmp_path)
    document = json.loads((folder.path / "manifest.json").read_text())
    for facts in document["files"].values():
        del facts["key"]
    folder.write("manifest.json", json.dumps(document))
    folder.write(
        "_SUCCESS", published.hashlib.sha256((folder.path / "manifest.json").read_bytes()).hexdigest()
    )
    with pytest.raises(IntegrityError, match=r"manifest\.json .*files\.candidate\.json\.key: Field required"):
        open_run(LocalStore(tmp_path), PATH)


def test_a_name_stands_for_its_newest_trusted_run(store: FarStore, tmp_path: Path) -> None:
    """By the marker's time; a newer one whose marker is another's, and folds, do not count."""
    for run_id, time in (("old", 1000), ("new", 2000), ("broken", 3000)):
        sent(store, tmp_path, run_id)
        os.utime(store.folder / "runs" / "vessels" / run_id / "_SUCCESS", (time, time))
    broken = store.folder / "runs" / "vessels" / "broken" / "_SUCCESS"
    broken.write_text("0" * 64)
    os.utime(broken, (3000, 3000))
    store.local.write("runs/vessels/old/attempt-1/folds/1/_SUCCESS", b"")
    store.local.write("runs/vessels2/x/_SUCCESS", b"")
    with pytest.raises(IntegrityError, match="runs/vessels/broken: the run is damaged"):
        newest_run(store, "runs/vessels/broken")
    assert newest_run(store, "runs/vessels").path == "runs/vessels/new"
    assert newest_run(store, "runs/vessels/old").path == "runs/vessels/old"
    with pytest.raises(InputError, match="runs/none: no finished run here") as caught:
        newest_run(store, "runs/none")
    assert caught.value.advice


def test_a_local_run_is_read_where_it_lies(tmp_path: Path) -> None:
    """Nothing is copied; damage is told all the same."""
    folder = sealed(tmp_path)
    run = open_run(LocalStore(tmp_path), PATH)
    assert run is not None
    assert run.bring(tmp_path / "cache") == folder.path
    assert not (tmp_path / "cache").exists()
    assert run.verify() == []
    (folder.path / "evaluation" / "measured").write_text("MEASURED")
    (folder.path / "candidate.json").unlink()
    assert run.verify() == [
        "candidate.json is missing", "evaluation/measured has other content than the manifest says",
    ]  # fmt: skip


def test_a_run_that_is_repaired_at_this_moment_is_read_again(
    run: PublishedRun, store: FarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifest and marker that were both replaced between the two reads disagree in the first pass alone."""
    other = sealed(tmp_path / "other", results="others")
    read = FarStore.read
    passes = []

    def replaced_between(self: FarStore, key: str) -> tuple[bytes, str]:
        answer = read(self, key)
        if key.endswith("manifest.json") and not passes:
            for file in ("manifest.json", "_SUCCESS"):
                self.local.write(f"{PATH}/{file}", (other.path / file).read_bytes())
            passes.append(key)
        return answer

    monkeypatch.setattr(FarStore, "read", replaced_between)
    found = open_run(store, PATH)
    assert found is not None
    assert found.manifest.results_digest == "others"
    assert found.manifest_sha256 != run.manifest_sha256


@pytest.mark.parametrize(
    ("marker", "error", "message"),
    [
        (None, InputError, "_SUCCESS is missing"),
        ("0" * 64, IntegrityError, "not the one that _SUCCESS names"),
    ],
)
def test_no_marker_and_a_broken_one_are_told_apart(
    run: PublishedRun, store: FarStore, marker: str | None, error: type[Exception], message: str
) -> None:
    """The first is an input that is not there, the second damage."""
    store.local.delete([f"{PATH}/_SUCCESS"])
    if marker is not None:
        store.local.write(f"{PATH}/_SUCCESS", marker.encode())
    with pytest.raises(error, match=message):
        trusted_run(store, PATH)
