"""Work uploaded as it is made, and brought back onto an empty disk."""

import json
import math
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from job import stopping
from job.errors import Denied, Interrupted, StoreFailure, TryAgain
from job.storage.local import exclusive
from job.storage.local_store import LocalStore
from job.storage.sealed_folder import read_sealed, seal
from job.storage.store import ObjectStore
from job.storage.store_mirror import StoreMirror
from job.storage.uris import open_store
from tests.storage.mirrored import Clock, Told, Watch, Watched

FP = "0123abcd" * 4
RESULT, WORK = f"stages/table/{FP}.tar", f"work/table-{FP}.tar"


@pytest.fixture(autouse=True)
def _nothing_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_failures", [])


@dataclass
class Machine:
    """A machine with a disk of its own, working for the same store as others."""

    store: ObjectStore
    disk: Path
    watch: Watch = field(default_factory=Watch)
    told: Told = field(default_factory=Told)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.mirror = self.restarted()

    def restarted(self, **changes: Any) -> StoreMirror:
        store, arguments = Watched(self.store, self.watch), {"every_s": math.inf, "clock": self.clock}
        self.mirror = StoreMirror(
            self.disk / "root", self.disk / "cache", store, self.told.log, **(arguments | changes)
        )
        return self.mirror

    @property
    def home(self) -> Path:
        return self.disk / "root" / "stages" / "table"

    @property
    def scratch(self) -> Path:
        return self.home / f"{FP}.partial" / "scratch"

    def scribble(self, text: str, name: str = "state") -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        (self.scratch / f".{name}.tmp").write_text(text)
        (self.scratch / f".{name}.tmp").replace(self.scratch / name)

    def finish(self, text: str = "result", stage: str = "table") -> None:
        """Do what `compute` does at a stage's end."""
        folder = self.home / FP
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text(text)
        seal(folder, {"stage": stage, "fingerprint": FP, "outputs": {}, "seconds": 1.0})
        shutil.rmtree(self.scratch.parent, ignore_errors=True)
        self.mirror.keep_stage("table", FP)

    def result(self) -> str | None:
        if read_sealed(self.home / FP, {"stage": "table", "fingerprint": FP}, advice="") is None:
            return None
        return (self.home / FP / "deep" / "file").read_text()


Machines = Callable[[], Machine]


@pytest.fixture(params=["local", "s3"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Machines:
    """Gives machines with empty disks that share a store."""
    is_local = request.param == "local"
    store = LocalStore(tmp_path / "store") if is_local else open_store(request.getfixturevalue("s3_prefix"))
    numbers = iter(range(100))
    return lambda: Machine(store, tmp_path / f"machine-{next(numbers)}")


@pytest.fixture
def local(tmp_path: Path) -> Machines:
    numbers = iter(range(100))
    return lambda: Machine(LocalStore(tmp_path / "store"), tmp_path / f"machine-{next(numbers)}")


def test_a_finished_stage_is_found_by_every_other_machine(machines: Machines) -> None:
    """One object, whole and verified; what was scratch is removed from the store."""
    a, b = machines(), machines()
    a.mirror.restore_stage("table", FP)
    a.scribble("half way")
    a.mirror.tick()
    assert a.store.stat(WORK) is not None
    a.finish()
    a.mirror.flush()
    assert a.store.stat(WORK) is None
    b.mirror.restore_stage("table", FP)
    assert b.result() == "result"
    assert [event["files"] for event in b.told.events("store.restored")] == [2]
    assert [event["what"] for event in a.told.events("store.uploaded")] == [WORK, RESULT]
    b.mirror.flush()
    assert b.watch.count("upload") == 0
    assert sorted(path.name for path in b.home.iterdir()) == [FP, f"{FP}.lock"]


def test_what_an_interrupted_attempt_left_is_gone_on_with(machines: Machines) -> None:
    """Finished files alone; a disk that has its own scratch keeps it."""
    a, b = machines(), machines()
    a.mirror.restore_stage("table", FP)
    a.scribble("1")
    a.scribble("2", "deep")
    (a.scratch / ".more.tmp").write_text("unfinished")
    a.mirror.tick()
    b.mirror.restore_stage("table", FP)
    assert {path.name: path.read_text() for path in b.scratch.iterdir()} == {"state": "1", "deep": "2"}
    b.mirror.tick()
    assert b.watch.count("upload") == 0
    b.scribble("3")
    b.mirror.tick()
    a.scribble("own")
    a.restarted().restore_stage("table", FP)
    assert (a.scratch / "state").read_text() == "own"
    a.mirror.tick()
    c = machines()
    c.mirror.restore_stage("table", FP)
    assert (c.scratch / "state").read_text() == "own"


def test_a_look_that_finds_nothing_new_asks_the_store_for_nothing(machines: Machines) -> None:
    """Idle minutes cost nothing."""
    a = machines()
    a.mirror.restore_stage("table", FP)
    a.mirror.restore_cache("rows/m")
    (a.disk / "cache" / "rows" / "m").mkdir(parents=True)
    (a.disk / "cache" / "rows" / "m" / "row").write_text("1")
    a.scribble("1")
    (a.disk / "log").write_text("line")
    a.mirror.also(a.disk / "log", "runs/x/1/attempt-1/log")
    a.mirror.also(a.disk / "not yet", "runs/x/1/attempt-1/other")
    a.mirror.tick()
    assert a.store.read("runs/x/1/attempt-1/log")[0] == b"line"
    asked = len(a.watch.asked)
    a.mirror.tick()
    assert len(a.watch.asked) == asked
    (a.disk / "log").write_text("line and line")
    a.mirror.tick()
    assert a.watch.asked[asked:] == [("write", "runs/x/1/attempt-1/log")]


@pytest.mark.parametrize("damage", ["cut", "noise", "other stage", "file changed", "no record"])
def test_a_damaged_result_is_told_and_made_again(local: Machines, damage: str) -> None:
    """It never becomes a result, and the new one takes its place."""
    a, b = local(), local()
    match damage:
        case "other stage":
            a.finish(stage="reward")
        case "file changed":
            a.finish()
            (a.home / FP / "deep" / "file").write_text("edited")
        case _:
            a.finish()
    a.mirror.flush()
    match damage:
        case "cut":
            a.store.write(RESULT, a.store.read(RESULT)[0][:-9000])
        case "noise":
            a.store.write(RESULT, b"\x01" * 2000)
        case "no record":
            a.store.write(RESULT, b"\x00" * 10240)
    b.mirror.restore_stage("table", FP)
    assert b.result() is None
    assert [event["key"] for event in b.told.events("store.damaged")] == [f"{b.store.uri}/{RESULT}"]
    b.finish("made again")
    b.mirror.flush()
    c = local()
    c.mirror.restore_stage("table", FP)
    assert c.result() == "made again"


def test_damaged_scratch_is_told_and_forgotten(local: Machines) -> None:
    """The stage starts over: that costs time only."""
    a, b = local(), local()
    a.store.write(WORK, b"nonsense" * 1000)
    b.mirror.restore_stage("table", FP)
    assert not b.scratch.exists()
    assert len(b.told.events("store.damaged")) == 1


def test_a_result_that_was_finished_but_never_uploaded_is_uploaded(local: Machines) -> None:
    """Its attempt was killed in between; the next one on that disk takes it over and brings it."""
    a, b = local(), local()
    a.finish()
    a.restarted().restore_stage("table", FP)
    a.mirror.restore_stage("table", FP)
    a.mirror.flush()
    assert a.watch.count("upload") == 1
    asked = len(a.watch.asked)
    a.mirror.restore_stage("table", FP)
    assert len(a.watch.asked) == asked
    b.mirror.restore_stage("table", FP)
    assert b.result() == "result"


def test_a_stage_that_another_process_works_on_is_left_alone(local: Machines) -> None:
    """On one disk, the other's lock counts."""
    a, b = local(), local()
    a.finish()
    a.mirror.flush()
    with exclusive(b.home / f"{FP}.lock", "stage table"), pytest.raises(TryAgain):
        b.mirror.restore_stage("table", FP)
    assert b.result() is None


def test_a_store_that_fails_is_tried_again_and_the_work_goes_on(local: Machines) -> None:
    """Told at each look; once it answers, everything is there."""
    a, b = local(), local()

    def down(operation: str, key: str) -> None:
        raise StoreFailure("no route")

    a.mirror.restore_stage("table", FP)
    a.watch.hook = down
    a.scribble("1")
    a.mirror.tick()
    a.finish()
    a.mirror.tick()
    assert [event["message"] for event in a.told.events("store.retrying")] == ["no route"] * 2
    assert stopping.failure() is None
    with pytest.raises(StoreFailure):
        a.mirror.flush()
    a.watch.hook = lambda operation, key: None
    a.mirror.tick()
    b.mirror.restore_stage("table", FP)
    assert b.result() == "result"


@pytest.mark.parametrize(
    "error", [Denied("no right to write"), RuntimeError("a defect"), OSError(28, "full")]
)
def test_what_no_further_try_can_mend_stops_the_work(local: Machines, error: Exception) -> None:
    """Hours of computing for nothing are worse than an end; `flush` raises it again."""
    a = local()

    def refuse(operation: str, key: str) -> None:
        if operation == "upload":
            raise error

    a.watch.hook = refuse
    a.mirror.restore_stage("table", FP)
    a.scribble("1")
    a.mirror.tick()
    failure = stopping.failure()
    assert failure is error or (isinstance(error, OSError) and isinstance(failure, TryAgain))
    a.watch.hook = lambda operation, key: None
    a.mirror.tick()
    assert a.store.stat(WORK) is None
    with pytest.raises(type(failure)) as caught:
        a.mirror.flush()
    assert caught.value is failure


def test_a_dying_process_saves_what_it_can_and_raises_nothing(local: Machines) -> None:
    """What hangs is given up when the time is over, and so is what is slow."""
    a = local()
    a.mirror.restore_stage("table", FP)
    a.scribble("1")
    a.mirror.save(30.0)
    a.mirror.close()
    assert a.store.stat(WORK) is not None
    b = local()

    def slow(operation: str, key: str) -> None:
        b.clock.now += 31

    b.mirror.restore_stage("table", FP)
    b.watch.hook = slow
    b.scribble("2")
    b.mirror.save(30.0)
    b.mirror.close()
    assert [event["what"] for event in b.told.events("store.retrying")] == ["upload"]
    b.watch.hook = lambda operation, key: None
    c = local()
    c.mirror.restore_stage("table", FP)
    assert (c.scratch / "state").read_text() == "1"


def test_a_stop_is_noticed_while_the_run_waits_for_uploads(
    local: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`flush` ends at once, however much there is; `save` brings what there is time for."""
    a = local()
    a.mirror.restore_stage("table", FP)
    a.finish()
    monkeypatch.setattr(stopping, "_received", [signal.SIGTERM])
    with pytest.raises(Interrupted):
        a.mirror.flush()
    a.mirror.save(30.0)
    a.mirror.close()
    monkeypatch.undo()
    b = local()
    b.mirror.restore_stage("table", FP)
    assert b.result() == "result"


def test_the_thread_brings_by_itself_until_it_is_closed(local: Machines) -> None:
    """The thread does what `tick` does."""
    a, uploaded = local(), threading.Event()
    a.watch.hook = lambda operation, key: uploaded.set() if operation == "upload" else None
    mirror = a.restarted(every_s=0.0)
    mirror.restore_stage("table", FP)
    a.scribble("1")
    assert uploaded.wait(20)
    mirror.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "mirror"]


@pytest.mark.parametrize("killed_at_s", [19.0, 41.0, 77.3, 120.0, 200.5])
@pytest.mark.parametrize("upload_s", [0.1, 15.0, 25.0])
def test_at_most_a_minute_of_work_is_lost(local: Machines, killed_at_s: float, upload_s: float) -> None:
    """The work saves its state each second; uploads take long; the machine dies at any moment."""
    a, b = local(), local()
    began = a.clock.now
    mirror = a.restarted(every_s=1e5)  # its thread sleeps; we do what it does when it is due
    mirror._every_s, mirror.due = 20.0, began + 20.0

    class Killed(BaseException):
        pass

    def work_until(moment: float) -> None:
        while a.clock.now < moment:
            if a.clock.now >= began + killed_at_s:
                raise Killed
            a.clock.now += 1
            a.scribble(str(a.clock.now - began))

    def uploading(operation: str, key: str) -> None:
        if operation == "upload":
            work_until(a.clock.now + upload_s)

    def work() -> None:
        while True:
            work_until(max(mirror.due, a.clock.now + 1.0))
            mirror.tick()

    mirror.restore_stage("table", FP)
    a.watch.hook = uploading
    with pytest.raises(Killed):
        work()
    mirror.close()
    a.watch.hook = lambda operation, key: None
    b.mirror.restore_stage("table", FP)
    saved = float((b.scratch / "state").read_text()) if b.scratch.exists() else 0.0
    assert saved > 0 or killed_at_s < 60
    assert killed_at_s - saved <= 60


def test_checkpoints_do_not_wait_for_a_large_cache(local: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two packs of it, the scratch folders are looked at again."""
    monkeypatch.setattr("job.storage.cache_group.PACK_BYTES", 10)
    a = local()
    a.restarted(every_s=1e5)._every_s = 20.0
    a.mirror.restore_stage("table", FP)
    a.mirror.restore_cache("logits/m")
    folder = a.disk / "cache" / "logits" / "m"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}").write_bytes(b"x" * 10)

    def slow(operation: str, key: str) -> None:
        if operation == "upload" and "cache/" in key:
            a.clock.now += 15
            a.scribble(str(a.clock.now))

    a.watch.hook = slow
    a.mirror.tick()
    a.mirror.close()
    uploads = [key.split("/")[0] for operation, key in a.watch.asked if operation == "upload"]
    assert uploads == ["cache", "cache", "work", "cache", "cache", "work"]


def test_the_result_that_was_packed_is_plain_to_read(local: Machines) -> None:
    """Anybody's `tar -xf` opens it."""
    a = local()
    a.finish()
    a.mirror.flush()
    (a.disk / "x.tar").write_bytes(a.store.read(RESULT)[0])
    shutil.unpack_archive(a.disk / "x.tar", a.disk / "x", filter="data")
    assert json.loads((a.disk / "x" / "done.json").read_text())["stage"] == "table"
