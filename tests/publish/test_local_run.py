"""From a place as users write it to the folder of a run."""

import json
import shutil
from pathlib import Path

import pytest
import structlog

from job.errors import InputError, IntegrityError
from job.publish import local_run as local_runs
from job.publish.local_run import local_run, require_as_sealed
from job.publish.published import PublishedRun, open_run
from job.publish.publishing import publish
from job.storage.local_store import LocalStore
from job.storage.store import ObjectStore
from job.storage.uris import open_store
from tests.publish.far_store import FarStore, sealed


def crown(store: ObjectStore, run: PublishedRun) -> None:
    record = {"current": {"run": run.path, "manifest_sha256": run.manifest_sha256}, "previous": None}
    store.write("models/vessels/champion.json", json.dumps(record).encode())


def published(store: ObjectStore, root: Path, **files: str) -> PublishedRun:
    with structlog.testing.capture_logs():
        return publish(sealed(root, **files), store, 2, lambda: None, structlog.get_logger())


def test_a_local_run_is_found_by_every_name(tmp_path: Path) -> None:
    """Folder, candidate, name, champion, as a path and as a URI."""
    folder = sealed(tmp_path).path
    run = open_run(LocalStore(tmp_path), "runs/vessels/r1")
    assert run is not None
    crown(LocalStore(tmp_path), run)
    model = tmp_path / "models" / "vessels"
    for place in (folder, folder / "candidate.json", folder.parent, model, model / "champion.json"):
        assert local_run(str(place)).resolve() == folder
        assert local_run(place.as_uri()).resolve() == folder


def test_a_copy_of_a_store_is_read_as_it_lies(tmp_path: Path) -> None:
    """Its files are below the attempt that published."""
    store = FarStore(tmp_path / "store")
    run = published(store, tmp_path)
    crown(store, run)
    shutil.copytree(store.folder, tmp_path / "copy")
    root = tmp_path / "copy" / "runs" / "vessels" / "r1"
    for place in (root, root.parent, tmp_path / "copy" / "models" / "vessels"):
        assert local_run(str(place)) == root / "attempt-2"


def test_a_changed_byte_in_a_part_of_a_run_is_named(tmp_path: Path) -> None:
    """In that part alone; of a folder that is no run, the root of a disk too, nothing is said."""
    run = sealed(tmp_path, **{"segmenter/grpo/model.safetensors": "weights", "report.html": "page"}).path
    require_as_sealed(run, ["segmenter/grpo"])
    (run / "report.html").write_text("PAGE")
    require_as_sealed(run, ["segmenter/grpo"])
    (run / "segmenter" / "grpo" / "model.safetensors").write_text("Weights")
    with pytest.raises(IntegrityError, match=r"segmenter/grpo/model\.safetensors has other content"):
        require_as_sealed(run, ["segmenter/grpo"])
    for other in (tmp_path / "nowhere", tmp_path, Path("/")):
        require_as_sealed(other, ["segmenter/grpo"])


def test_a_changed_byte_in_an_attempt_of_a_copied_store_is_named(tmp_path: Path) -> None:
    """Its manifest lies above it."""
    store = FarStore(tmp_path / "store")
    published(store, tmp_path)
    shutil.copytree(store.folder, tmp_path / "copy")
    attempt = tmp_path / "copy" / "runs" / "vessels" / "r1" / "attempt-2"
    require_as_sealed(attempt, ["candidate.json"])
    with (attempt / "candidate.json").open("a") as file:
        file.write(" ")
    with pytest.raises(IntegrityError, match=r"candidate\.json"):
        require_as_sealed(attempt, ["candidate.json"])


def test_a_fold_of_a_copied_attempt_belongs_to_its_run(tmp_path: Path) -> None:
    """Its manifest lies three folders above."""
    store = FarStore(tmp_path / "store")
    published(store, tmp_path, **{"folds/1/candidate.json": "{}"})
    shutil.copytree(store.folder, tmp_path / "copy")
    fold = tmp_path / "copy" / "runs" / "vessels" / "r1" / "attempt-2" / "folds" / "1"
    require_as_sealed(fold, ["candidate.json"])
    (fold / "candidate.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"folds/1/candidate\.json has other content"):
        require_as_sealed(fold, ["candidate.json"])


def test_a_manifest_of_somebody_else_says_nothing_and_a_broken_seal_all(tmp_path: Path) -> None:
    """Web applications have a manifest.json too; a marker that names another manifest is damage."""
    mine = tmp_path / "app" / "segmenter" / "mine"
    mine.mkdir(parents=True)
    (tmp_path / "app" / "manifest.json").write_text('{"name": "my web app"}')
    require_as_sealed(mine, ["model.safetensors"])
    run = sealed(tmp_path).path
    (run / "_SUCCESS").write_text("0" * 64)
    with pytest.raises(IntegrityError, match=r"not the one that _SUCCESS names"):
        require_as_sealed(run, ["candidate.json"])


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """A place that does not exist, one without a finished run, a champion whose run is gone or another."""
    with pytest.raises(InputError, match="nowhere: no such run") as caught:
        local_run(str(tmp_path / "nowhere"))
    assert "models/NAME" in caught.value.advice
    with pytest.raises(InputError, match="no finished run here"):
        local_run(str(tmp_path))
    (tmp_path / "policy.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"policy\.zip: is a file, not a run"):
        local_run(str(tmp_path / "policy.zip"))
    folder = sealed(tmp_path)
    run = open_run(LocalStore(tmp_path), "runs/vessels/r1")
    assert run is not None
    crown(LocalStore(tmp_path), run)
    folder.seal(exit_code=0, verdict="improved", identity="other")
    with pytest.raises(IntegrityError, match="not the run that became champion"):
        local_run(str(tmp_path / "models" / "vessels"))
    shutil.rmtree(folder.path)
    with pytest.raises(InputError, match="the champion of 'vessels' is gone") as caught:
        local_run(str(tmp_path / "models" / "vessels"))
    assert "promote" in caught.value.advice


@pytest.mark.parametrize(
    ("place", "root", "kind", "tail"),
    [
        ("s3://bucket/runs/a", "s3://bucket", "runs", ["a"]),
        ("s3://bucket/p/q/runs/a/r1/", "s3://bucket/p/q", "runs", ["a", "r1"]),
        ("s3://bucket/p/runs/a/r1/attempt-3/candidate.json", "s3://bucket/p", "runs", ["a", "r1"]),
        ("s3://bucket/p/runs/a/r1/folds/2", "s3://bucket/p", "runs", ["a", "r1", "folds", "2"]),
        ("s3://bucket/p/models/a", "s3://bucket/p", "models", ["a"]),
        ("s3://bucket/p/models/a/champion.json", "s3://bucket/p", "models", ["a"]),
        ("s3://bucket/runs/of/mine/runs/a", "s3://bucket/runs/of/mine", "runs", ["a"]),
    ],
)  # fmt: skip
def test_a_uri_is_split_into_root_and_run(place: str, root: str, kind: str, tail: list[str]) -> None:
    """Whatever the prefix is called."""
    assert local_runs._parts(place) == (root, kind, tail)


@pytest.mark.parametrize(
    "place", ["s3://bucket", "s3://bucket/p", "s3://bucket/runs", "s3://bucket/models/a/b/c"]
)
def test_a_uri_that_names_no_run_is_refused_without_a_request(place: str) -> None:
    """With the forms that there are."""
    with pytest.raises(InputError, match="names no run") as caught:
        local_run(place)
    assert "runs/NAME" in caught.value.advice


def test_runs_in_a_real_store_are_fetched(tmp_path: Path, s3_prefix: str) -> None:
    """Run, name, champion, candidate and fold, of large files too; verification reads every byte."""
    store = open_store(s3_prefix)
    run = published(store, tmp_path, **{"folds/1/candidate.json": "fold", "big": "x" * 10_000_000})
    crown(store, run)
    assert run.verify(tmp_path / "scratch") == []
    cache = tmp_path / "cache"
    for place in ("runs/vessels/r1", "runs/vessels", "models/vessels", "runs/vessels/r1/candidate.json"):
        folder = local_run(f"{s3_prefix}/{place}", cache, ["candidate.json"])
        assert folder == cache / "runs" / run.manifest_sha256
        assert sorted(p.name for p in folder.iterdir()) == ["_SUCCESS", "candidate.json"]
    fold = local_run(f"{s3_prefix}/runs/vessels/r1/folds/1", cache, ["candidate.json"])
    assert (fold / "candidate.json").read_text() == "fold"
    assert (local_run(f"{s3_prefix}/runs/vessels", cache) / "big").stat().st_size == 10_000_000
    store.write(f"{run.path}/attempt-2/big", b"y" * 10_000_000)
    assert run.verify() == ["big has other content than the manifest says"]
    with pytest.raises(InputError, match="there is no finished run"):
        local_run(f"{s3_prefix}/runs/vessels/r2", cache)
    with pytest.raises(InputError, match="no champion of 'other'"):
        local_run(f"{s3_prefix}/models/other", cache)


@pytest.mark.parametrize("place", ["runs/vessels/r1", "runs/vessels", "models/vessels"])
@pytest.mark.parametrize("damage", ["gone", "edited"])
def test_a_damaged_run_is_no_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, damage: str
) -> None:
    """By every name, on this disk and in a store: marker and manifest disagree."""
    folder = sealed(tmp_path).path
    store = LocalStore(tmp_path)
    run = open_run(store, "runs/vessels/r1")
    assert run is not None
    crown(store, run)
    monkeypatch.setattr(local_runs, "open_store", lambda root: FarStore(tmp_path))
    if damage == "gone":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + " ")
    for root in (str(tmp_path), "s3://bucket"):
        with pytest.raises(IntegrityError, match=r"the run is damaged: manifest\.json is .*_SUCCESS"):
            local_run(f"{root}/{place}", tmp_path / "cache")
