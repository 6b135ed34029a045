"""The working copy of an output in a store: what goes, what stays, and who may not be disturbed."""

import os
import time
from pathlib import Path

import pytest

from job.errors import Interrupted
from job.storage import working_copy
from job.storage.local_store import LocalStore
from job.storage.working_copy import KEPT_S, in_use

NOW_S = time.time()
RUN, OTHER = "runs/vessels/r1", "runs/vessels/r2"
STAGES = {f"stages/table/{i:032x}": 100.0 * (5 - i) for i in range(5)}
"""Results of 1,000 bytes, with their age in seconds."""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def put(copy: Path, name: str, age_s: float, size: int = 1000) -> Path:
    """Make a run folder or a stage's result."""
    (copy / name / "deep").mkdir(parents=True)
    (copy / name / "deep" / "file").write_bytes(b"x" * size)
    for path in (copy / name / "deep" / "file", copy / name):
        os.utime(path, (NOW_S - age_s,) * 2)
    return copy / name


def left(copy: Path) -> set[str]:
    return {
        path.relative_to(copy).as_posix() for kind in ("runs", "stages") for path in copy.glob(f"{kind}/*/*")
    }


def test_what_was_not_used_for_the_longest_time_goes_until_the_rest_fits(
    tmp_path: Path, store: LocalStore
) -> None:
    """Its lock goes with it; nothing goes while everything fits."""
    copy = tmp_path / "copy"
    for name, age_s in STAGES.items():
        put(copy, name, age_s)
        (copy / f"{name}.lock").touch()
        store.write(f"{name}.tar", b"x")
    with in_use(copy) as mine:
        assert mine.make_room(store, 5000, copy / RUN) == []
    oldest = sorted(STAGES)[:2]
    os.utime(copy / oldest[1])  # a later run took it over
    with in_use(copy) as mine:
        gone = mine.make_room(store, 3500, copy / RUN)
    assert [path.relative_to(copy).as_posix() for path in gone] == [oldest[0], sorted(STAGES)[2]]
    assert left(copy) == {name + end for name in STAGES if copy / name not in gone for end in ("", ".lock")}


def test_what_the_store_lacks_stays_for_a_week(tmp_path: Path, store: LocalStore) -> None:
    """Work that was made while the store was away is nowhere else."""
    copy = tmp_path / "copy"
    young, old = KEPT_S / 2, KEPT_S + 3600
    stage, begun = (f"stages/table/{i:032x}" for i in (1, 2))
    for name, age_s in ((stage, young), (f"{begun}.partial", young), (RUN, young), (OTHER, old)):
        put(copy, name, age_s)
    with in_use(copy) as mine:
        mine.make_room(store, 0, copy / "runs/vessels/now")
    assert left(copy) == {stage, f"{begun}.partial", RUN}
    for key in (f"{stage}.tar", f"{begun}.tar", f"{RUN}/manifest.json"):
        store.write(key, b"x")
    with in_use(copy) as mine:
        mine.make_room(store, 0, copy / "runs/vessels/now")
    assert left(copy) == set()


def test_the_run_itself_stays(tmp_path: Path, store: LocalStore) -> None:
    """Its report is what the command line shows at its end."""
    copy = tmp_path / "copy"
    for name in (RUN, OTHER):
        put(copy, name, 100.0)
        store.write(f"{name}/manifest.json", b"x")
    with in_use(copy) as mine:
        mine.make_room(store, 0, copy / RUN)
    assert left(copy) == {RUN}


def test_nothing_goes_while_others_work_here(tmp_path: Path, store: LocalStore) -> None:
    """They may read a stage at any moment, without a lock of its own."""
    copy = tmp_path / "copy"
    put(copy, RUN, 100.0)
    store.write(f"{RUN}/manifest.json", b"x")
    with in_use(copy) as mine, in_use(copy):
        assert mine.make_room(store, 0, copy / OTHER) == []
    with in_use(copy) as mine:
        assert mine.make_room(store, 0, copy / OTHER) == [copy / RUN]


def test_who_comes_while_room_is_made_waits_and_can_be_stopped(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would find stages half removed."""

    def stop() -> None:
        raise Interrupted("stopped", advice="run it again")

    monkeypatch.setattr(working_copy, "raise_if_stopped", stop)
    with in_use(tmp_path) as mine:
        mine.make_room(store, 0, tmp_path)
        with pytest.raises(Interrupted), in_use(tmp_path):
            pass
    with in_use(tmp_path):
        pass
