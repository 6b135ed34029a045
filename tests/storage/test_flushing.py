"""Files that are flushed in the background."""

import errno
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from job.storage.flushing import AT_ONCE, Flushing


def test_every_file_is_flushed_once(tmp_path: Path) -> None:
    """By few threads; whoever waits is told when it is done, and may give more afterwards."""
    flushed: Counter[Path] = Counter()
    lock = threading.Lock()

    def flush(file: Path) -> None:
        assert sum(one.name == "flush" for one in threading.enumerate()) <= AT_ONCE + before
        with lock:
            flushed[file] += 1

    before = sum(one.name == "flush" for one in threading.enumerate())
    files = [tmp_path / str(i) for i in range(500)]
    flushing = Flushing(flush)
    assert flushing.wait(0)
    flushing.add(files[:400])
    assert flushing.wait(10)
    assert flushed == Counter(files[:400])
    flushing.add(files[400:])
    assert flushing.wait(10)
    assert flushed == Counter(files)


def test_nobody_waits_for_a_slow_disk_who_does_not_ask(tmp_path: Path) -> None:
    """Giving files returns at once, and waiting says that it is not done."""
    may_go = threading.Event()
    flushing = Flushing(lambda file: may_go.wait(10) and None)
    flushing.add([tmp_path / "slow"])
    assert not flushing.wait(0.01)
    may_go.set()
    assert flushing.wait(10)


def test_a_disk_that_fails_is_told_to_whoever_waits(tmp_path: Path) -> None:
    """The other files are flushed all the same, and one that is gone is no failure."""
    flushed: list[str] = []

    def flush(file: Path) -> None:
        if file.name == "gone":
            raise FileNotFoundError(file)
        if file.name == "bad":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flushed.append(file.name)

    flushing = Flushing(flush)
    flushing.add([tmp_path / "gone"])
    assert flushing.wait(10)
    flushing.add([tmp_path / "bad", tmp_path / "good"])
    with pytest.raises(OSError, match="Input/output error"):
        flushing.wait(10)
    assert flushed == ["good"]
