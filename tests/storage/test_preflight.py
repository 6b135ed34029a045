"""The probe of a store: what it does there, and what it concludes."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from job.errors import InputError, IntegrityError, Missing, StoreFailure
from job.storage.local_store import LocalStore
from job.storage.preflight import PROBE, check
from job.storage.store import Changed


@dataclass(frozen=True)
class Odd(LocalStore):
    """A folder that behaves as some store does; notes what was asked of it."""

    way: str = ""
    asked: list[str] = field(default_factory=list)
    clock_s: float = 0.0

    def write(self, key: str, data: bytes) -> str:
        self.asked.append(f"write {key}")
        if self.way == "flips":
            data = bytes([data[0] ^ 1]) + data[1:]
        if self.way == "forgets":
            return "etag"
        return super().write(key, data)

    def create(self, key: str, data: bytes) -> str:
        self.asked.append(f"create {key}")
        match self.way:
            case "overwrites":
                return super().write(key, data)
            case "cannot":
                raise InputError("not implemented")
            case "fails":
                raise StoreFailure("down")
        return super().create(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        self.asked.append(f"replace {key}")
        match self.way:
            case "replaces":
                return super().write(key, data)
            case "fails late":
                raise StoreFailure("down")
        return super().replace(key, data, etag)

    def now(self) -> float:
        return super().now() - self.clock_s


def objects(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp")]


def test_a_good_store_is_asked_for_everything_once_and_left_as_it_was(tmp_path: Path) -> None:
    """One object of its own below the store, under a name that no other probe has."""
    first, second = Odd(tmp_path), Odd(tmp_path)
    assert check(first).conditional_writes
    assert check(second).conditional_writes
    assert objects(tmp_path) == []
    names = {one.split("/")[1] for one in first.asked} | {one.split("/")[1] for one in second.asked}
    assert len(names) == 2
    assert [one.split()[0] for one in first.asked] == ["write", "create", "write", "replace"]
    assert all(f" {PROBE}/" in one for one in first.asked)


@pytest.mark.parametrize("way", ["overwrites", "replaces", "cannot"])
def test_a_store_without_conditions_is_told_from_one_with_them(tmp_path: Path, way: str) -> None:
    """Either of the two conditions ignored, or refused as unknown, is enough."""
    assert not check(Odd(tmp_path, way)).conditional_writes
    assert objects(tmp_path) == []


@pytest.mark.parametrize("way", ["flips", "forgets"])
def test_a_store_that_keeps_something_else_is_not_to_be_used(tmp_path: Path, way: str) -> None:
    """Other bytes, or none after an answer of success, are an integrity failure that names the object."""
    with pytest.raises(IntegrityError, match=rf"{tmp_path}/{PROBE}/\w+: the store took 19 bytes") as caught:
        check(Odd(tmp_path, way))
    assert not isinstance(caught.value, Missing)
    assert objects(tmp_path) == []


@pytest.mark.parametrize("way", ["fails", "fails late"])
def test_a_failure_says_nothing_about_conditions(tmp_path: Path, way: str) -> None:
    """It is raised, and the probe is removed all the same."""
    with pytest.raises(StoreFailure):
        check(Odd(tmp_path, way))
    assert objects(tmp_path) == []


@pytest.mark.parametrize("behind_s", [300.0, -300.0, 0.0])
def test_the_clocks_are_compared(tmp_path: Path, behind_s: float) -> None:
    """Positive: this machine is ahead."""
    assert check(Odd(tmp_path, clock_s=behind_s)).clock_skew_s == pytest.approx(behind_s, abs=2)


def test_a_probe_of_another_does_not_disturb(tmp_path: Path) -> None:
    """What an earlier, killed probe left behind stays nobody's business."""
    store = LocalStore(tmp_path)
    store.write(f"{PROBE}/left", b"x")
    assert check(store).conditional_writes
    assert [found.key for found in store.entries()] == [f"{PROBE}/left"]
    with pytest.raises(Changed):
        store.create(f"{PROBE}/left", b"y")
