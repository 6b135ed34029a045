"""What only a store in a folder has to get right: its lock, folders that come and go, what is no object."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from job.errors import Denied, Missing
from job.storage.local_store import LocalStore
from job.storage.store import Changed, Download, Upload


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_creating_and_deleting_at_once_lets_one_win_each_time(store: LocalStore) -> None:
    """Eight threads take and give back one key: never do two have it at the same time.

    Deleting the last object of a folder removes the folder with its lock, under those who wait for it.
    """
    holders: list[int] = []
    taken = [0] * 8
    wrong: list[object] = []

    def take_and_give_back(me: int) -> None:
        try:
            for _ in range(60):
                try:
                    store.create("deep/er/lease", b"%d" % me)
                except Changed:
                    continue
                holders.append(me)
                if holders != [me] or store.read("deep/er/lease")[0] != b"%d" % me:
                    wrong.append(list(holders))
                taken[me] += 1
                holders.remove(me)
                store.delete(["deep/er/lease"])
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=take_and_give_back, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(taken) > 0
    assert list(store.entries()) == []


@pytest.mark.parametrize("write", ["create", "upload"])
def test_folders_vanish_under_those_who_make_them(store: LocalStore, tmp_path: Path, write: str) -> None:
    """Six threads write and delete below the same folders, each its own object: none ever fails."""
    (tmp_path / "source").write_bytes(b"1")
    wrong: list[Exception] = []

    def come_and_go(me: int) -> None:
        key = f"runs/a/b/{me % 2}/{me}"
        try:
            for _ in range(150):
                if write == "create":
                    store.create(key, b"1")
                else:
                    store.upload([Upload(tmp_path / "source", key)])
                store.delete([key, "runs/a/b/2/nobody"])
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=come_and_go, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(store.entries()) == []


def test_deleting_leaves_no_empty_folder_and_makes_none(store: LocalStore, tmp_path: Path) -> None:
    """Up to the store's own; neighbours and their folders stay."""
    for key in ("a/b/c", "a/d"):
        store.write(key, b"1")
    store.delete(["a/b/c", "no/such/folder/x", "a/nothing"])
    assert sorted(path.name for path in (tmp_path / "store" / "a").iterdir() if path.is_dir()) == []
    assert [found.key for found in store.entries()] == ["a/d"]
    store.delete(["a/d"])
    assert not (tmp_path / "store" / "a").exists()
    assert not (tmp_path / "store" / "no").exists()
    assert (tmp_path / "store").is_dir()


def test_unfinished_files_are_no_objects_and_can_be_removed(store: LocalStore, tmp_path: Path) -> None:
    """Those younger than the limit stay: somebody is writing them."""
    store.write("a/x", b"1")
    old, new = tmp_path / "store" / "a" / ".big.12.tmp", tmp_path / "store" / "a" / ".big.13.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert [found.key for found in store.entries()] == ["a/x"]
    assert store.abort_stale_uploads(3600) == 1
    assert (old.exists(), new.exists()) == (False, True)
    assert store.read("a/x")[0] == b"1"


def test_an_upload_is_as_old_as_itself(store: LocalStore, tmp_path: Path) -> None:
    """`modified` is the time of the upload, as in every store, not that of the file that was uploaded."""
    source = tmp_path / "s"
    source.write_bytes(b"1")
    os.utime(source, (1, 1))
    before = store.now()
    assert store.upload([Upload(source, "x")]) == [hashlib.sha256(b"1").hexdigest()]
    found = store.stat("x")
    assert found is not None
    assert found.modified >= before - 1


def test_a_folder_is_no_object(store: LocalStore, tmp_path: Path) -> None:
    """A key that is a prefix of others is not there, nor is what would lie below an object."""
    store.write("a/x", b"1")
    assert store.stat("a") is None
    with pytest.raises(Missing):
        store.read("a")
    assert store.stat("a/x/y") is None
    with pytest.raises(Missing):
        store.read("a/x/y")
    found = store.stat("a/x")
    assert found is not None
    store.delete(["a/x"])
    with pytest.raises(Missing):
        store.download([Download(found, tmp_path / "t")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everything")
def test_what_may_not_be_written_or_read_is_denied(store: LocalStore, tmp_path: Path) -> None:
    """A mode is no absence."""
    store.write("a/x", b"1")
    folder = tmp_path / "store" / "a"
    folder.chmod(0)
    try:
        for ask in (
            lambda: store.stat("a/x"), lambda: store.read("a/x"), lambda: store.write("a/x", b"2"),
            lambda: store.create("a/y", b"2"), lambda: store.delete(["a/x"]),
        ):  # fmt: skip
            with pytest.raises(Denied, match=str(folder)):
                ask()
    finally:
        folder.chmod(0o755)


def test_a_store_below_is_a_folder_below(store: LocalStore, tmp_path: Path) -> None:
    """`at` of nothing is the store itself."""
    assert store.at("") == store
    assert store.at("a/b").folder == tmp_path / "store" / "a" / "b"
    assert store.at("a/b").uri == f"{tmp_path}/store/a/b"
