"""Retention: what goes, what stays whatever its age, and in which order a run goes."""

import json
import os
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog

from job.publish.published import open_run
from job.publish.publishing import publish
from job.publish.retention import clean_uploads, sweep_out
from job.storage.local import exclusive
from job.storage.local_store import LocalStore
from job.storage.run_folder import LOCK, RunFolder
from tests.publish.far_store import FarStore, Killed, sealed

DAY_S = 86_400
NOW_S = time.time()
FINGERPRINTS = {name: f"{i:032x}" for i, name in enumerate(("used", "folded", "unused", "fresh"))}


class World:
    """An output, in a store or on this disk."""

    def __init__(self, root: Path, *, is_far: bool) -> None:
        self.root, self.is_far = root, is_far
        self.store: Any = FarStore(root / "output") if is_far else LocalStore(root / "output")
        self.local = LocalStore(root / "output")

    def run(
        self, run_id: str, age_d: float, *, name: str = "vessels", exit_code: int = 0, **files: str
    ) -> str:
        place = self.root / ("made" if self.is_far else "output")
        folder = RunFolder(place, name, run_id)
        for file, text in {"candidate.json": "{}", **files}.items():
            folder.write(file, text)
        verdict = "invalid" if exit_code else "improved"
        folder.seal(exit_code=exit_code, verdict=verdict, identity=run_id, results_digest=run_id)
        path = f"runs/{name}/{run_id}"
        if self.is_far:
            publish(folder, self.store, 1, lambda: None, structlog.get_logger())
        self.age(path, age_d)
        return path

    def age(self, path: str, age_d: float) -> None:
        for stat in list(self.local.entries(f"{path}")):
            os.utime(self.local.folder / stat.key, (NOW_S - age_d * DAY_S,) * 2)

    def point(self, path: str, previous: str | None = None, name: str = "vessels") -> None:
        run = {"run": path, "manifest_sha256": "0" * 64}
        before = previous and {"run": previous, "manifest_sha256": "0" * 64}
        document = {"current": run, "previous": before}
        self.local.write(f"models/{name}/champion.json", json.dumps(document).encode())

    def put(self, key: str, age_d: float) -> str:
        self.local.write(key, b"x")
        self.age(key, age_d)
        return key

    @property
    def runs(self) -> set[str]:
        return {"/".join(stat.key.split("/")[1:3]) for stat in self.local.entries("runs/")}

    @property
    def keys(self) -> set[str]:
        return {stat.key for stat in self.local.entries()}

    def sweep(self, keep: int, name: str = "vessels") -> list[str]:
        return sweep_out(self.store, name, keep, structlog.get_logger())


@pytest.fixture(params=["far", "local"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with structlog.testing.capture_logs():
        yield World(tmp_path, is_far=request.param == "far")


def test_the_newest_runs_stay_and_older_ones_go(world: World) -> None:
    """Of this name alone; a name that begins alike is another one."""
    for age in range(1, 6):
        world.run(f"r{age}", age)
    world.run("r9", 90, name="vessels2")
    with structlog.testing.capture_logs() as logs:
        removed = world.sweep(3)
    assert removed == ["runs/vessels/r5", "runs/vessels/r4"]
    assert world.runs == {"vessels/r1", "vessels/r2", "vessels/r3", "vessels2/r9"}
    assert [log["run_uri"] for log in logs] == [f"{world.store.uri}/{path}" for path in removed]
    assert world.sweep(3) == []


def test_what_a_pointer_names_stays(world: World) -> None:
    """A champion of any name, the one before it, and the last run of a promoting job."""
    paths = [world.run(f"r{age}", age) for age in range(1, 7)]
    world.point(paths[5], previous=paths[4])
    world.point(paths[3], name="another")
    last = {"run": {"run": paths[2], "manifest_sha256": "0" * 64}, "identity": "x"}
    world.local.write("models/vessels/last.json", json.dumps(last).encode())
    assert world.sweep(1) == [paths[1]]


def test_where_a_pointer_cannot_be_read_nothing_is_removed(world: World) -> None:
    """Nobody knows which run it needs; the job that swept has ended well and goes on to say so."""
    for age in range(1, 4):
        world.run(f"r{age}", age)
    world.local.write("models/vessels/champion.json", b"{")
    with structlog.testing.capture_logs() as logs:
        assert world.sweep(1) == []
    assert len(world.runs) == 3
    assert [log["event"] for log in logs] == ["job.warning"]
    assert "champion.json" in logs[0]["message"]


def test_what_somebody_works_on_stays(world: World) -> None:
    """A finished run that is published again, and an unfinished one however old it looks."""
    world.run("r1", 1)
    old = world.run("r2", 2)
    world.put("runs/vessels/slow/spec.json", 30)
    if world.is_far:
        for path in (old, "runs/vessels/slow"):
            lease = {"holder": "h", "attempt": 1, "ttl_s": 60.0, "released": False, "facts": {}}
            world.local.write(f"{path}/lease.json", json.dumps(lease).encode())
        assert world.sweep(1) == []
        for path in (old, "runs/vessels/slow"):
            world.age(path, 30)
    else:
        with (
            exclusive(world.local.folder / old / LOCK, "run"),
            exclusive(world.local.folder / "runs/vessels/slow" / LOCK, "run"),
        ):
            assert world.sweep(1) == []
        world.age("runs/vessels/slow", 30)
    assert world.sweep(1) == [old, "runs/vessels/slow"]


def test_invalid_runs_do_not_drive_out_those_that_can_be_used(world: World) -> None:
    """Three bad nights in a row with `keep` 2: the last two good runs are still there."""
    for age in (1, 2, 3):
        world.run(f"bad{age}", age, exit_code=5)
    for age in (4, 5, 6):
        world.run(f"good{age}", age)
    assert set(world.sweep(2)) == {"runs/vessels/bad3", "runs/vessels/good6"}


def test_an_attempt_whose_manifest_is_none_is_an_unfinished_one(world: World) -> None:
    """Without a marker nobody trusts it: it keeps no other run from going, and goes after a week itself."""
    for age in range(1, 4):
        world.run(f"r{age}", age)
    world.put("stages/table/" + f"{7:032x}" + ("/data" if not world.is_far else ".tar"), 30)
    for run_id, age in (("torn", 2), ("old", 8)):
        world.put(f"runs/vessels/{run_id}/manifest.json", age)
    with structlog.testing.capture_logs() as logs:
        assert set(world.sweep(2)) == {"runs/vessels/r3", "runs/vessels/old"}
    assert {log["event"] for log in logs} == {"run.removed"}
    assert world.runs == {"vessels/r1", "vessels/r2", "vessels/torn"}
    assert not any(key.startswith("stages/") for key in world.keys)


def test_a_finished_run_of_another_version_stops_the_sweep(world: World) -> None:
    """Its marker names a manifest that only that version understands: it may need anything."""
    for age in range(1, 4):
        path = world.run(f"r{age}", age)
    manifest = b'{"schema_version": 2}'
    world.local.write(f"{path}/manifest.json", manifest)
    world.local.write(f"{path}/_SUCCESS", sha256(manifest).hexdigest().encode())
    with structlog.testing.capture_logs() as logs:
        assert world.sweep(1) == []
    assert [log["event"] for log in logs] == ["job.warning"]
    assert len(world.runs) == 3


def test_unfinished_runs_go_after_a_week(world: World) -> None:
    """By their newest file: an interrupted run may be taken up until then."""
    world.run("r1", 1)
    world.put("runs/vessels/old/attempt-1/candidate.json", 8)
    world.put("runs/vessels/recent/attempt-1/candidate.json", 30)
    world.put("runs/vessels/recent/lease.json", 6)
    assert world.sweep(1) == ["runs/vessels/old"]
    assert world.runs == {"vessels/r1", "vessels/recent"}


def test_a_kill_while_a_run_is_removed_shows_no_half_of_it(tmp_path: Path) -> None:
    """After any number of deletions it is whole or not there, and a later sweep removes what was left."""
    deletions = 0
    while True:
        world = World(tmp_path / str(deletions), is_far=True)
        world.run("r1", 1)
        old = world.run("r2", 20, a="a", b="b")
        world.store.dies_after = deletions
        try:
            world.sweep(1)
        except Killed:
            run = open_run(world.store, old)
            assert (run is not None) == (deletions == 0)
            assert run is None or run.verify() == []
        else:
            break
        world.store.dies_after = None
        assert world.sweep(1) == [old]
        assert world.runs == {"vessels/r1"}
        deletions += 1
    assert deletions == 5


def stages_of(world: World) -> dict[str, list[str]]:
    """Put stage results down: by what a run, its fold, or nobody lists, and by age."""
    made: dict[str, list[str]] = {}
    for what, fingerprint in FINGERPRINTS.items():
        age = 6.0 if what == "fresh" else 30.0
        keys = [f"stages/table/{fingerprint}.tar", f"work/table-{fingerprint}.tar"]
        if not world.is_far:
            keys = [f"stages/table/{fingerprint}/{file}" for file in ("done.json", "out/scores")]
            keys += [f"stages/table/{fingerprint}.lock", f"stages/table/{fingerprint}.partial/scratch/a"]
        made[what] = [world.put(key, age) for key in keys]
    return made


def record_of(what: str) -> str:
    return json.dumps({"stages": [{"name": "table", "fingerprint": FINGERPRINTS[what]}]})


def test_stages_that_no_run_lists_go_after_a_week(world: World) -> None:
    """Those of other names' runs and of folds stay; nothing outside of the layout is touched."""
    world.run("r1", 1, name="another", **{"training_info.json": record_of("used")})
    world.run(
        "r1", 1, **{"training_info.json": '{"stages": []}', "folds/1/training_info.json": record_of("folded")}
    )
    made = stages_of(world)
    foreign = [
        world.put(key, 99)
        for key in (
            "stages/table/notes.txt",
            "stages/readme",
            "work/mine.tar",
            "cache/rows/a.tar",
            "data/x.png",
        )
    ]
    before = world.keys
    world.sweep(3)
    assert before - world.keys == set(made["unused"])
    assert set(foreign) <= world.keys


def test_stages_of_a_removed_run_go_with_it(world: World) -> None:
    """In the same sweep: the record that listed them is gone."""
    world.run("r1", 1)
    world.run("r2", 20, **{"training_info.json": record_of("used")})
    made = stages_of(world)
    world.sweep(1)
    assert not world.keys & set(made["used"])
    assert set(made["fresh"]) <= world.keys


def test_stages_stay_while_a_run_on_this_disk_may_read_them(tmp_path: Path) -> None:
    """No record lists yet what it takes over; the run that sweeps holds its own lock and is finished."""
    world = World(tmp_path, is_far=False)
    mine = world.run("r1", 1)
    made = stages_of(world)
    busy = RunFolder(world.local.folder, "vessels", "busy")
    busy.write("spec.json", "{}")
    with exclusive(world.local.folder / mine / LOCK, "run"):
        with exclusive(busy.path / LOCK, "run"):
            world.sweep(1)
            assert set(made["unused"]) <= world.keys
        world.sweep(1)
        assert not set(made["unused"]) & world.keys


def test_old_unfinished_uploads_are_cleaned(tmp_path: Path) -> None:
    """After a day."""
    store = LocalStore(tmp_path)
    for name, age_d in ((".old.tmp", 2.0), (".new.tmp", 0.5)):
        (tmp_path / name).write_text("part")
        os.utime(tmp_path / name, (NOW_S - age_d * DAY_S,) * 2)
    assert clean_uploads(store) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".new.tmp"]


def test_a_real_store_is_swept(tmp_path: Path, s3_prefix: str) -> None:
    """Its runs are a moment apart, which its clock may not tell: then the later id is the newer one."""
    from job.storage.uris import open_store

    store = open_store(s3_prefix)
    for run_id in ("r1", "r2", "r3"):
        publish(sealed(tmp_path, run_id, results=run_id), store, 1, lambda: None, structlog.get_logger())
    with structlog.testing.capture_logs():
        assert sweep_out(store, "vessels", 2, structlog.get_logger()) == ["runs/vessels/r1"]
    assert {stat.key.split("/")[2] for stat in store.entries("runs/")} == {"r2", "r3"}
