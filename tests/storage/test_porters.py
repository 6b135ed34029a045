"""Processes that carry small objects: they change how fast things come, and nothing else."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from job.errors import Interrupted, Missing
from job.storage import porters, s3_piece, s3_transfer
from job.storage.s3 import S3Store
from job.storage.s3_piece import WHOLE, Place
from job.storage.s3_transfer import PART
from job.storage.store import Changed, Download, Stat, Upload
from job.storage.uris import split_s3

SIZES = [0, 1, 50_000, WHOLE, WHOLE + 1, PART, PART + 1, *[1_000] * 60]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def brought_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two porters for any work, and the keys that this process brings all the same."""
    monkeypatch.setattr(porters, "available_cpus", lambda: 2 * porters.CPUS_EACH)
    monkeypatch.setattr(porters, "WORTH_PIECES", 1)
    # Without threads of our own, nothing is done before they are there.
    monkeypatch.setattr(s3_transfer, "AT_ONCE", 0)
    seen: list[str] = []
    bring = s3_piece.bring

    def noted(client: Any, piece: s3_piece.Piece, *others: Any) -> str | None:
        seen.append(piece.key)
        return bring(client, piece, *others)

    monkeypatch.setattr(s3_piece, "bring", noted)
    return seen


@pytest.fixture
def store(s3_prefix: str) -> S3Store:
    return S3Store(*split_s3(s3_prefix))


@pytest.fixture
def items(store: S3Store, tmp_path: Path) -> Iterator[list[Download]]:
    """Objects of many sizes, still to be brought; nobody is left behind when they are."""
    sources = [tmp_path / "source" / f"{i:03d}" for i in range(len(SIZES))]
    sources[0].parent.mkdir()
    for i, (source, size) in enumerate(zip(sources, SIZES, strict=True)):
        source.write_bytes((b"%07d," % i * (size // 8 + 1))[:size])
    store.upload([Upload(source, source.name) for source in sources])
    yield [Download(stat, tmp_path / "target" / stat.key) for stat in store.entries()]
    assert not children()


def children() -> list[int]:
    """The processes that this one has started and not seen the end of, but for the test's server."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = status.read_text().rsplit(")", 1)
            words = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        is_zombie = fields.split()[0] == "Z"
        if int(fields.split()[1]) == os.getpid() and (is_zombie or "porter" in words):
            found.append(int(name.split()[0]))
    return found


def is_at_work(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def require_all(items: list[Download], digests: list[str]) -> None:
    for item, digest in zip(items, digests, strict=True):
        source = item.target.parents[1] / "source" / item.target.name
        assert item.target.read_bytes() == source.read_bytes()
        assert digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert len(list(items[0].target.parent.iterdir())) == len(items)  # no beginning is left


def test_porters_bring_objects_of_all_sizes(
    store: S3Store, items: list[Download], brought_here: list[str]
) -> None:
    told: list[int] = []
    require_all(items, store.download(items, told.append))
    assert not brought_here
    assert sum(told) == sum(SIZES)


def test_few_processors_or_objects_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def how_many(cpus: int, n_pieces: int) -> int:
        monkeypatch.setattr(porters, "available_cpus", lambda: cpus)
        place = Place("bucket", "http://store.invalid", False, "us-east-1", {}, None, 0.1)
        return len(porters.porters(place, dict, n_pieces))  # type: ignore[arg-type]

    assert [how_many(2, 10_000), how_many(16, 200)] == [0, 0]
    assert [how_many(4, 10_000), how_many(16, 10_000), how_many(128, 10_000)] == [1, 4, 4]


def test_what_a_killed_porter_had_begun_is_brought_all_the_same(
    store: S3Store, items: list[Download], brought_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(porters, "BATCH_PIECES", 1)
    read = porters.Porter._read
    answers: dict[int, int] = {}

    def killed(porter: porters.Porter) -> dict[str, Any]:
        process = porter._process
        assert process is not None
        answers[process.pid] = answers.get(process.pid, 0) + 1
        if answers[process.pid] == 3:  # it is there, and has answered once
            process.kill()
            process.wait()
        return read(porter)

    monkeypatch.setattr(porters.Porter, "_read", killed)
    require_all(items, store.download(items))
    assert brought_here
    assert len(brought_here) < len(items)


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false"])
def test_where_none_can_be_started_this_process_does_it(
    store: S3Store,
    items: list[Download],
    brought_here: list[str],
    monkeypatch: pytest.MonkeyPatch,
    python: str,
) -> None:
    monkeypatch.setattr(s3_transfer, "AT_ONCE", 4)
    monkeypatch.setattr(sys, "executable", python)
    require_all(items, store.download(items))
    assert len(brought_here) == len(items) + 1  # the large one comes in two parts


def test_errors_are_those_of_this_process(
    store: S3Store, items: list[Download], brought_here: list[str], tmp_path: Path
) -> None:
    store.write("003", b"another version")
    with pytest.raises(Changed):
        store.download(items)
    assert brought_here
    gone = Stat("never-was", 10, '"etag"', 0.0)
    with pytest.raises(Missing, match="never-was: does not exist"):
        store.download([Download(gone, tmp_path / "gone")])


def test_a_stop_ends_them_at_once(store: S3Store, items: list[Download], brought_here: list[str]) -> None:
    def stop(n_bytes: int) -> None:
        raise Interrupted("stop")

    began = time.monotonic()
    with pytest.raises(Interrupted):
        store.download(items, stop)
    assert time.monotonic() - began < 10


def test_they_end_with_a_process_that_is_killed() -> None:
    """They read it from their input's end, and leave requests that they wait for."""
    child = """
import sys, time
from job.storage.porters import Porter
from job.storage.s3_piece import Place
place = Place("bucket", "http://127.0.0.1:9", False, "us-east-1", {"allow_http": True}, None, 60.0)
porter = Porter(place, dict)
assert porter._has_started()
porter._write({"number": 0, "credentials": {"access_key_id": "a", "secret_access_key": "b", "token": None},
               "pieces": [["key", "etag", 0, 1, 1, "/tmp/never", None, True]]})
print(porter._process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", child], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert "job.storage.porter" in Path(f"/proc/{pid}/cmdline").read_text()
        parent.kill()
    until = time.monotonic() + 10
    while is_at_work(pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_credentials_are_told_when_they_are_new_and_shown_to_nobody() -> None:
    keys = ["first", "first", "second"]

    def credentials() -> Any:
        return {
            "access_key_id": "id",
            "secret_access_key": keys.pop(0),
            "token": None,
            "expires_at": datetime.now(UTC),
        }

    place = Place("bucket", "http://store.invalid", False, "us-east-1", {}, None, 0.1)
    porter = porters.Porter(place, credentials)
    told = [porter._new_credentials() for _ in range(3)]
    assert [one.get("secret_access_key") for one in told] == ["first", None, "second"]
    assert porter._has_started()
    assert porter._process is not None
    for name in ("cmdline", "environ"):
        assert b"second" not in Path(f"/proc/{porter._process.pid}/{name}").read_bytes()
    porter._end()
    assert not children()
