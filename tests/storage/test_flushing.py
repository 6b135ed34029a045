"""Files that are flushed while others arrive."""

import errno
import os
import threading
from pathlib import Path

import pytest

from job.errors import TryAgain
from job.storage import flushing
from job.storage.flushing import Flushing


def test_every_file_is_in_its_place_at_the_end_and_was_flushed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is renamed that is not on the disk: the same inode was flushed, under its unfinished name."""
    flushed: set[int] = set()
    renamed: dict[str, bool] = {}
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(file: int) -> None:
        fsync(file)
        flushed.add(os.fstat(file).st_ino)

    def noted_replace(path: Path, target: Path) -> Path:
        renamed[target.name] = path.stat().st_ino in flushed
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    names = [f"{i % 7}/{i}" for i in range(600)]
    with Flushing() as files:
        threads = [
            threading.Thread(
                target=lambda some: [files.write(tmp_path / n, n.encode()) for n in some], args=(part,)
            )
            for part in (names[::2], names[1::2])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = {p.relative_to(tmp_path).as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {name: name for name in names}
    assert renamed == {name.split("/")[1]: True for name in names}


def test_a_disk_that_fails_is_told_of_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end at the latest, or by the next file; what was flushed before stays."""

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Flushing() as files:
        files.write(tmp_path / "first", b"1")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryAgain, match="second: the disk is full"), Flushing() as files:
        files.write(tmp_path / "second", b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_what_arrived_before_an_error_is_kept(tmp_path: Path) -> None:
    """The error of the block is the one that is raised."""
    with pytest.raises(KeyError, match="broken"), Flushing() as files:  # noqa: PT012
        files.write(tmp_path / "a", b"1")
        raise KeyError("broken")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_few_files_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes more of them waits, so that the end of the block comes soon after a stop."""
    may_go, fsync = threading.Event(), os.fsync
    monkeypatch.setattr(flushing, "MOST_WAITING", 3)
    monkeypatch.setattr(os, "fsync", lambda file: (may_go.wait(10), fsync(file)))
    written: list[int] = []
    with Flushing() as files:

        def write() -> None:
            for i in range(5):
                files.write(tmp_path / str(i), b"x")
                written.append(i)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert written == [0, 1, 2]
        may_go.set()
        thread.join()
    assert len(list(tmp_path.iterdir())) == 5
