"""Cached files in a store, as packs."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from job.errors import StoreFailure
from job.storage import cache_group
from job.storage.cache_group import CacheGroup, Moved
from job.storage.local_store import LocalStore
from job.storage.packs import pack
from job.storage.store import ObjectStore
from job.storage.uris import open_store
from tests.storage.mirrored import Told, Watch, Watched


@dataclass
class Disk:
    """A machine's cache folder and what it knows of the store."""

    store: ObjectStore
    folder: Path
    watch: Watch = field(default_factory=Watch)
    told: Told = field(default_factory=Told)

    def __post_init__(self) -> None:
        self.restarted()

    def restarted(self) -> "Disk":
        self.group = CacheGroup(self.folder, Watched(self.store, self.watch), self.told.log)
        return self

    def write(self, name: str, text: str, mtime_s: float | None = None) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.tmp")
        partial.write_text(text)
        if mtime_s is not None:
            os.utime(partial, (mtime_s, mtime_s))
        partial.replace(path)

    def bring(self) -> list[int]:
        """Upload; returns the files of each pack."""
        return [moved.files for moved in self.group.bring()]

    @property
    def files(self) -> dict[str, str]:
        return {
            p.relative_to(self.folder).as_posix(): p.read_text()
            for p in self.folder.rglob("*")
            if p.is_file()
        }

    @property
    def packs(self) -> list[str]:
        return [stat.key for stat in self.store.entries() if stat.key.endswith(".tar")]


Disks = Callable[[], Disk]


@pytest.fixture(params=["local", "s3"])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Disks:
    """Gives machines with empty disks that share a store."""
    is_local = request.param == "local"
    store = LocalStore(tmp_path / "store") if is_local else open_store(request.getfixturevalue("s3_prefix"))
    numbers = iter(range(100))
    return lambda: Disk(store, tmp_path / f"disk-{next(numbers)}" / "rows")


@pytest.fixture
def local(tmp_path: Path) -> Disks:
    numbers = iter(range(100))
    return lambda: Disk(LocalStore(tmp_path / "store"), tmp_path / f"disk-{next(numbers)}" / "rows")


def test_what_one_machine_made_is_on_the_next(disks: Disks) -> None:
    """All of it, with what an attempt that was killed left on the first one's disk."""
    a, b = disks(), disks()
    assert a.group.restore() == Moved(0, 0)
    a.write("left", "from an earlier attempt")
    a.restarted().group.restore()
    a.write("deep/row", "1")
    assert a.bring() == [2]
    a.write("row", "2")
    assert a.bring() == [1]
    assert b.group.restore() == Moved(3, 25)
    assert b.files == a.files == {"left": "from an earlier attempt", "deep/row": "1", "row": "2"}
    asked = len(b.watch.asked)
    assert b.bring() == []
    assert len(b.watch.asked) == asked


def test_only_packs_with_something_new_are_fetched(disks: Disks) -> None:
    """The next night's machine with a warm disk downloads what others added."""
    a, b = disks(), disks()
    for number in range(3):
        a.write(f"{number}", f"row {number}")
        a.bring()
    b.group.restore()
    assert b.watch.count("download") == 3
    a.write("new", "row")
    a.bring()
    assert b.restarted().group.restore().files == 1
    assert b.watch.count("download") == 4


def test_a_rewritten_file_is_brought_again_and_the_newest_counts(disks: Disks) -> None:
    """A row with further terms replaces the row, within the same second of the store's clock too."""
    a, b = disks(), disks()
    a.write("row", "dice")
    a.bring()
    for text in ("dice, iou", "dice, hd8", "dice, iou, hd8"):
        a.write("row", text)
        assert a.bring() == [1]
    assert len(a.packs) == 4
    b.group.restore()
    assert b.files == {"row": "dice, iou, hd8"}
    assert b.watch.count("download") == 1


def test_a_file_that_is_here_is_never_replaced(local: Disks) -> None:
    """Nor is it brought over a newer one: it may hold less."""
    a, b, c = local(), local(), local()
    b.write("row", "older", mtime_s=1000.0)
    a.write("row", "newer", mtime_s=2000.0)
    a.bring()
    b.group.restore()
    assert b.files == {"row": "older"}
    assert b.bring() == []
    b.write("row", "rewritten", mtime_s=1500.0)  # a clock that is behind
    assert b.bring() == [1]
    c.group.restore()
    assert c.files == {"row": "rewritten"}


def test_a_time_is_not_what_tells_versions_apart(local: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is rewritten within a tick of the clock, at the same size, is another version."""
    monkeypatch.setattr(cache_group, "SMALL_PACKS", 1)
    a, b, c, fresh = local(), local(), local(), local()
    a.write("row", "1", mtime_s=1000.0)
    assert a.bring() == [1]
    a.write("row", "2", mtime_s=1000.0)
    assert a.bring() == [1]
    c.group.restore()
    b.write("row", "3", mtime_s=1000.0)
    assert b.bring() == [1]
    c.write("row", "4", mtime_s=1000.0)
    assert c.bring() == [1]
    a.group.merge()  # it has version 2, and must not give it for the newest
    b.group.merge()
    fresh.group.restore()
    assert fresh.files == {"row": "4"}
    assert a.bring() == b.bring() == c.bring() == []


def test_equal_files_of_two_machines_are_brought_once(local: Disks) -> None:
    """Both computed the same: times differ, contents do not."""
    a, b = local(), local()
    a.write("row", "same", mtime_s=1000.0)
    a.bring()
    b.write("row", "same", mtime_s=2000.0)
    b.group.restore()
    assert b.bring() == []


def test_packs_are_bounded(local: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut upload loses little; a file that is larger than the bound is a pack of its own."""
    monkeypatch.setattr(cache_group, "PACK_BYTES", 100)
    a = local()
    for name, size in {"a": 60, "b": 60, "c": 40, "d": 300, "e": 1}.items():
        a.write(name, "x" * size)
    assert a.bring() == [1, 2, 1, 1]


def test_a_cut_upload_is_invisible_and_made_up_for(disks: Disks) -> None:
    """Without its sidecar a pack is none, and without its pack a sidecar."""
    a, b, c = disks(), disks(), disks()

    def cut(operation: str, key: str) -> None:
        if operation == "write":
            raise StoreFailure("cut")

    a.write("row", "1")
    a.watch.hook = cut
    with pytest.raises(StoreFailure):
        a.bring()
    assert b.group.restore() == Moved(0, 0)
    a.watch.hook = lambda operation, key: None
    assert a.bring() == [1]
    assert b.restarted().group.restore().files == 1
    a.store.delete(a.packs)
    assert c.group.restore() == Moved(0, 0)
    assert b.restarted().group.restore() == Moved(0, 0)
    assert b.bring() == [1]
    assert c.restarted().group.restore().files == 1


@pytest.mark.parametrize("damage", ["pack", "sidecar", "no JSON", "hostile", "lies", "more"])
def test_what_is_damaged_is_told_forgotten_and_made_again(local: Disks, damage: str) -> None:
    """An older version that is whole is better than none; nothing leaves the folder."""
    a, b, c = local(), local(), local()
    a.write("row", "old")
    a.write("other", "whole")
    a.bring()
    (before,) = a.packs
    a.write("row", "newer")
    a.bring()
    (pack_key,) = set(a.packs) - {before}
    sidecar_key = pack_key.replace(".tar", ".json")
    sidecar = json.loads(a.store.read(sidecar_key)[0])
    match damage:
        case "pack":
            a.store.write(pack_key, a.store.read(pack_key)[0].replace(b"newer", b"NEWER"))
        case "sidecar":
            sidecar["members"]["row"]["size"] = -1
        case "no JSON":
            a.store.write(sidecar_key, b"{")
        case "hostile":
            sidecar["members"]["../../out"] = sidecar["members"]["row"]
        case "lies":
            sidecar["members"]["row"]["sha256"] = "0" * 64
        case "more":
            sidecar["members"]["third"] = sidecar["members"]["row"]
    if damage not in ("pack", "no JSON"):
        a.store.write(sidecar_key, json.dumps(sidecar).encode())
    b.group.restore()
    assert b.files == {"row": "old", "other": "whole"}
    assert {event["key"].rpartition("/")[2] for event in b.told.events("store.damaged")} <= {
        pack_key,
        sidecar_key,
    }
    assert b.told.events("store.damaged")
    b.write("row", "newest")
    assert b.bring() == [1]
    c.group.restore()
    assert c.files == {"row": "newest", "other": "whole"}


def test_a_pack_that_is_merged_away_while_it_is_fetched_is_found_again(
    local: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing is old the moment it is there."""
    monkeypatch.setattr(cache_group, "SMALL_PACKS", 1)
    a, b = local(), local()
    for number in range(3):
        a.write(f"{number}", f"row {number}")
        a.bring()
    merged = iter([True])

    def merge(operation: str, key: str) -> None:
        if operation == "download" and next(merged, False):
            a.group.merge()

    b.watch.hook = merge
    b.group.restore()
    assert b.files == a.files
    assert len(a.packs) == 1


def test_many_small_packs_become_few(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions go; the newest of each file stays; few packs are left as they are."""
    monkeypatch.setattr(cache_group, "SMALL_PACKS", 4)
    a, b = disks(), disks()
    for number in range(4):
        a.write("row", f"version {number}")
        a.write(f"{number}", f"row {number}")
        a.bring()
    assert a.group.merge() == Moved(0, 0)
    a.write("row", "last")
    a.bring()
    assert a.group.merge().files == 5
    assert len(a.packs) == 1
    assert len(list(a.store.entries())) == 2
    b.group.restore()
    assert b.files == a.files
    assert a.bring() == b.bring() == []


def test_of_two_packs_with_the_same_file_a_merge_takes_neither_for_superfluous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One merge has written the file anew and is about to delete the old pack; another begins in between."""
    monkeypatch.setattr(cache_group, "SMALL_PACKS", 1)
    for text in "0123456789":  # which pack's name is the greater depends on what is in it
        store = LocalStore(tmp_path / text / "store")
        a, b, fresh = (Disk(store, tmp_path / text / name / "rows") for name in "abc")
        for name in ("one", "other"):
            a.write(name, text)
            a.bring()

        def meanwhile(operation: str, key: str, a: Disk = a, b: Disk = b) -> None:
            if operation == "delete":
                a.watch.hook = lambda operation, key: None
                b.write("one", "newer")
                b.bring()
                b.group.merge()

        a.watch.hook = meanwhile
        a.group.merge()
        fresh.group.restore()
        assert fresh.files == {"one": "newer", "other": text}


def test_halves_of_packs_that_nobody_completes_are_removed(local: Disks) -> None:
    """What a killed upload left is seen by nobody. What is young may be completed, what is whole stays."""
    a, b = local(), local()
    a.write("row", "1")
    a.bring()
    whole = {stat.key for stat in a.store.entries()}
    halves = {f"{'a' * 64}.tar", f"{'b' * 64}.json"}
    for key in halves:
        a.store.write(key, b"half")
    a.store.write("note.json", b"of somebody else")
    a.group.merge()
    assert {stat.key for stat in a.store.entries()} == whole | halves | {"note.json"}
    a.watch.later_s = cache_group.HALVES_STAY_S + 60
    a.group.merge()
    assert {stat.key for stat in a.store.entries()} == whole | {"note.json"}
    asked = a.watch.count("now")
    a.group.merge()
    assert a.watch.count("now") == asked
    assert b.group.restore().files == 1


def test_merged_packs_are_bounded_and_large_ones_are_left(
    local: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge of a large cache costs each file a few uploads in its life, not one a night."""
    monkeypatch.setattr(cache_group, "SMALL_PACKS", 4)
    monkeypatch.setattr(cache_group, "MERGED_BYTES", 25_000)
    a = local()
    for number in range(10):
        a.write(f"{number}", "x" * 8_000)
        a.bring()
    a.group.merge()
    assert len(a.packs) == 4
    uploads = a.watch.count("upload")
    a.restarted().group.restore()
    a.group.merge()
    assert a.watch.count("upload") == uploads


def test_a_merge_leaves_what_this_disk_lacks(local: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job's newest pack is not here: it stays as it is."""
    monkeypatch.setattr(cache_group, "SMALL_PACKS", 1)
    a, b, c = local(), local(), local()
    a.write("1", "of a")
    a.bring()
    b.group.restore()
    b.write("2", "of b")
    b.bring()
    a.write("3", "of a")
    a.bring()
    a.group.merge()
    c.group.restore()
    assert c.files == {"1": "of a", "2": "of b", "3": "of a"}
    assert len(a.packs) == 2


def test_a_killed_merge_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whichever of its requests it ends."""
    monkeypatch.setattr(cache_group, "SMALL_PACKS", 1)

    class Killed(BaseException):
        pass

    requests, is_killed = 0, True
    while is_killed:
        store = LocalStore(tmp_path / str(requests) / "store")
        a, fresh = (Disk(store, tmp_path / str(requests) / name / "rows") for name in "ab")
        for number in range(2):
            a.write(f"{number}", f"row {number}")
            a.write("row", f"version {number}")
            a.bring()
        done, most = len(a.watch.asked), requests

        def hook(operation: str, key: str, watch: Watch = a.watch, last: int = done + most) -> None:
            if len(watch.asked) > last:
                raise Killed

        a.watch.hook = hook
        try:
            a.group.merge()
            is_killed = False
        except Killed:
            requests += 1
        fresh.group.restore()
        assert fresh.files == a.files
    assert requests == 9  # a listing, two sidecars, a pack and its sidecar, four deletions


class Jobs(RuleBasedStateMachine):
    """Jobs that write, bring, merge and lose their disks, in any order, with merges inside each other."""

    def __init__(self) -> None:
        super().__init__()
        self._small, cache_group.SMALL_PACKS = cache_group.SMALL_PACKS, 1
        self._place = tempfile.TemporaryDirectory()
        self.root = Path(self._place.name)
        self.disks: list[Disk] = []
        self.brought: dict[str, int] = {}
        """The newest version of each file that the store was given."""
        self.written: dict[str, int] = {}

    def teardown(self) -> None:
        cache_group.SMALL_PACKS = self._small
        self._place.cleanup()

    @initialize()
    def start(self) -> None:
        self.add_disk()
        self.add_disk()

    def add_disk(self) -> None:
        disk = Disk(
            LocalStore(self.root / "store"), self.root / f"{len(self.disks)}-{len(self.written)}" / "x"
        )
        disk.group.restore()
        self.disks.append(disk)

    @rule(which=st.integers(0, 1), name=st.sampled_from("abc"))
    def write_and_bring(self, which: int, name: str) -> None:
        self.written[name] = self.written.get(name, 0) + 1
        disk = self.disks[which]
        # A clock of a disk ticks every few milliseconds, which no test can wait for: this one stands still.
        disk.write(name, str(self.written[name]), mtime_s=1000.0)
        disk.bring()
        self.brought[name] = self.written[name]

    @rule(which=st.integers(0, 1), at=st.integers(0, 20), name=st.sampled_from("abc"))
    def merge_within_a_merge(self, which: int, at: int, name: str) -> None:
        outer, inner = self.disks[which], self.disks[1 - which]
        asked = iter(range(at))

        def hook(operation: str, key: str) -> None:
            if next(asked, None) is None:
                outer.watch.hook = lambda operation, key: None
                self.write_and_bring(1 - which, name)
                inner.group.merge()

        outer.watch.hook = hook
        outer.group.merge()
        outer.watch.hook = lambda operation, key: None

    @precondition(lambda self: self.brought)
    @rule(which=st.integers(0, 1))
    def lose_the_disk(self, which: int) -> None:
        old = self.disks[which]
        new = Disk(old.store, self.root / f"again-{os.urandom(4).hex()}" / "x")
        new.group.restore()
        self.disks[which] = new

    @invariant()
    def nothing_is_lost(self) -> None:
        fresh = Disk(LocalStore(self.root / "store"), self.root / f"fresh-{os.urandom(4).hex()}" / "x")
        fresh.group.restore()
        found = {name: int(text) for name, text in fresh.files.items()}
        assert found == self.brought
        assert not fresh.told.events("store.damaged")


TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=15, stateful_step_count=10, deadline=None)


def test_a_member_that_vanishes_is_not_promised(local: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged logits file is removed by its reader at any moment."""
    a, b = local(), local()
    a.write("gone", "1")
    a.write("row", "2")

    def packing(folder: Path, names: list[str], target: Path) -> object:
        (folder / "gone").unlink(missing_ok=True)
        return pack(folder, names, target)

    monkeypatch.setattr(cache_group, "pack", packing)
    assert a.bring() == [1]
    b.group.restore()
    assert b.files == {"row": "2"}
