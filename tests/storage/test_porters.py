"""Processes that carry small objects: they change how fast things come, and nothing else."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from job.errors import Interrupted, Missing
from job.storage import porters, s3_piece
from job.storage.local import UNFINISHED
from job.storage.porters import Porter
from job.storage.s3 import S3Store
from job.storage.s3_piece import WHOLE, Place
from job.storage.s3_transfer import PART
from job.storage.side_by_side import Jobs, all_of
from job.storage.store import Changed, Download, Stat, Upload
from job.storage.uris import split_s3

SIZES = [0, 1, 50_000, WHOLE, WHOLE + 1, PART, PART + 1, *[1_000] * 60]
ROOT = Path(__file__).parents[2]
NOWHERE = Place("bucket", "http://store.invalid", False, "us-east-1", {}, None, 0.1)

PARENT_OF_A_BUSY_PORTER = """
import socket, sys, time
from job.storage.porters import BATCHES_AHEAD, MOST_THREADS, Porter
from job.storage.s3_piece import Place

silent = socket.create_server(("127.0.0.1", 0), backlog=200)
url = f"http://127.0.0.1:{silent.getsockname()[1]}"
porter = Porter(Place("bucket", url, False, "us-east-1", {"allow_http": True}, None, 60.0), dict)
assert porter._has_started()
credentials = {"access_key_id": "a", "secret_access_key": "b", "token": None}
for number in range(MOST_THREADS + BATCHES_AHEAD):
    piece = ["key", "etag", 0, 1, 1, f"{sys.argv[1]}/{number}", f"{sys.argv[1]}/x{number}", True]
    porter._write({"number": number, "credentials": credentials, "pieces": [piece]})
for number in range(MOST_THREADS):
    silent.accept()
print(porter._process.pid, flush=True)
time.sleep(60)
"""


def hold_back_own_threads(monkeypatch: pytest.MonkeyPatch, most_s: float) -> None:
    """Let the threads of this process begin when a helper does, or after a while: else all would be done."""
    is_helped = threading.Event()
    call, helping = Jobs.call, Jobs.helping

    @contextmanager
    def noted_helping(jobs: Jobs[Any, Any]) -> Iterator[None]:
        with helping(jobs):
            is_helped.set()
            yield

    def late_call(jobs: Jobs[Any, Any]) -> None:
        is_helped.wait(most_s)
        call(jobs)

    monkeypatch.setattr(Jobs, "helping", noted_helping)
    monkeypatch.setattr(Jobs, "call", late_call)


@pytest.fixture
def brought_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two porters for any work, and the keys that this process brings all the same."""
    monkeypatch.setattr(porters, "available_cpus", lambda: 2 * porters.CPUS_EACH)
    monkeypatch.setattr(porters, "WORTH_PIECES", 1)
    hold_back_own_threads(monkeypatch, most_s=2)
    seen: list[str] = []
    bring = s3_piece.bring

    def noted_bring(client: Any, piece: s3_piece.Piece, *others: Any) -> str | None:
        seen.append(piece.key)
        return bring(client, piece, *others)

    monkeypatch.setattr(s3_piece, "bring", noted_bring)
    return seen


@pytest.fixture
def store(s3_prefix: str) -> S3Store:
    return S3Store(*split_s3(s3_prefix))


@pytest.fixture
def items(store: S3Store, tmp_path: Path) -> Iterator[list[Download]]:
    """Objects of many sizes, still to be brought; no process is left behind when they are."""
    sources = [tmp_path / "source" / f"{i:03d}" for i in range(len(SIZES))]
    sources[0].parent.mkdir()
    for i, (source, size) in enumerate(zip(sources, SIZES, strict=True)):
        source.write_bytes((b"%07d," % i * (size // 8 + 1))[:size])
    store.upload([Upload(source, source.name) for source in sources])
    yield [Download(stat, tmp_path / "target" / stat.key) for stat in store.entries()]
    assert not children()


def children() -> list[int]:
    """The porters of this process, and whatever it has not seen the end of."""
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
    assert not unfinished(items)


def unfinished(items: list[Download]) -> list[str]:
    return [path.name for path in items[0].target.parent.glob(f"*{UNFINISHED}")]


def test_porters_bring_objects_of_all_sizes(
    store: S3Store, items: list[Download], brought_here: list[str]
) -> None:
    told: list[int] = []
    require_all(items, store.download(items, told.append))
    assert not brought_here
    assert sum(told) == sum(SIZES)


def test_few_processors_or_objects_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """And they never carry less side by side than this process does by itself."""

    def how_many(cpus: int, n_pieces: int) -> list[int]:
        monkeypatch.setattr(porters, "available_cpus", lambda: cpus)
        return [one._threads for one in porters.porters(NOWHERE, dict, n_pieces)]  # type: ignore[arg-type]

    assert how_many(2, 10_000) == how_many(16, 200) == []
    assert [how_many(cpus, 10_000) for cpus in (4, 8, 16, 128)] == [[16], [16] * 2, [8] * 4, [8] * 4]


def test_what_a_killed_porter_had_begun_is_brought_all_the_same(
    store: S3Store, items: list[Download], brought_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(porters, "BATCH_PIECES", 1)
    read = Porter._read
    answers: dict[int, int] = {}

    def killed(porter: Porter) -> dict[str, Any]:
        process = porter._process
        assert process is not None
        answers[process.pid] = answers.get(process.pid, 0) + 1
        if answers[process.pid] == 3:  # it is there, and has answered once
            process.kill()
            process.wait()
        return read(porter)

    monkeypatch.setattr(Porter, "_read", killed)
    require_all(items, store.download(items))
    assert 0 < len(brought_here) < len(items)


def test_a_porter_that_says_nothing_is_given_up(
    store: S3Store, items: list[Download], brought_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, or stuck in whatever a machine comes to: what it was asked for is brought all the same."""
    monkeypatch.setattr(porters, "BATCH_PIECES", 1)
    monkeypatch.setattr(porters, "ANSWER_S", 2)
    read = Porter._read
    answers: dict[int, int] = {}

    def stopped(porter: Porter) -> dict[str, Any]:
        process = porter._process
        assert process is not None
        answers[process.pid] = answers.get(process.pid, 0) + 1
        if answers[process.pid] == 3:
            process.send_signal(signal.SIGSTOP)
        return read(porter)

    monkeypatch.setattr(Porter, "_read", stopped)
    require_all(items, store.download(items))
    assert 0 < len(brought_here) < len(items)


def test_a_porter_that_hears_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is asked of it than the pipe to it holds."""
    monkeypatch.setattr(porters, "ANSWER_S", 1)
    porter = Porter(NOWHERE, dict)  # type: ignore[arg-type]
    assert porter._has_started()
    assert porter._process is not None
    porter._process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(porters._Lost):
        porter._write({"number": 0, "credentials": {}, "pieces": ["x" * 1_000_000]})
    assert time.monotonic() - began < 10
    porter._end()
    assert not children()


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false", "/bin/echo", None])
def test_where_none_can_be_started_this_process_does_it(
    store: S3Store,
    items: list[Download],
    brought_here: list[str],
    monkeypatch: pytest.MonkeyPatch,
    python: str | None,
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    require_all(items, store.download(items))
    assert len(brought_here) == len(items) + 1  # the large one comes in two parts


def test_errors_are_those_of_this_process(
    store: S3Store, items: list[Download], brought_here: list[str], tmp_path: Path
) -> None:
    store.write("003", b"another version")
    with pytest.raises(Changed, match=r"^003$"):
        store.download(items)
    assert brought_here
    gone = Stat("never-was", 10, '"etag"', 0.0)
    with pytest.raises(Missing, match="never-was: does not exist"):
        store.download([Download(gone, tmp_path / "gone")])


def test_a_stop_ends_them_at_once_and_leaves_nothing_unfinished(
    store: S3Store, items: list[Download], brought_here: list[str]
) -> None:
    def stop(n_bytes: int) -> None:
        raise Interrupted("stop")

    began = time.monotonic()
    with pytest.raises(Interrupted):
        store.download(items, stop)
    assert time.monotonic() - began < 10
    assert not {name for name in unfinished(items) if not name.startswith(".006")}  # which goes on later


def test_they_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """They read it from their input's end, and leave requests that they wait for: all their threads do."""
    command = [sys.executable, "-c", PARENT_OF_A_BUSY_PORTER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
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
        told = {"access_key_id": "id", "secret_access_key": keys.pop(0), "token": None}
        return told | {"expires_at": datetime.now(UTC)}

    porter = Porter(NOWHERE, credentials)
    told = [porter._new_credentials() for _ in range(3)]
    assert [one.get("secret_access_key") for one in told] == ["first", None, "second"]
    assert porter._has_started()
    assert porter._process is not None
    for name in ("cmdline", "environ"):
        assert b"second" not in Path(f"/proc/{porter._process.pid}/{name}").read_bytes()
    porter._end()
    assert not children()


def test_a_porter_has_ended_before_another_brings_what_it_had_begun(
    store: S3Store, items: list[Download], brought_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is wrong with it: where credentials cannot be renewed."""
    monkeypatch.setattr(porters, "BATCH_PIECES", 1)
    renew, give_back = Porter._new_credentials, Jobs.give_back
    asked: dict[Porter, int] = {}
    had_ended: list[bool] = []

    def refused() -> Any:
        raise RuntimeError("no new credentials")

    def failing(porter: Porter) -> dict[str, Any]:
        asked[porter] = asked.get(porter, 0) + 1
        if asked[porter] == 20:
            monkeypatch.setattr(porter, "_credentials", refused)
        return renew(porter)

    def noted(jobs: Jobs[Any, Any], some: list[tuple[int, Any]]) -> None:
        if some:
            ended = [one._process is not None and one._process.returncode is not None for one in asked]
            had_ended.append(any(ended))
        give_back(jobs, some)

    monkeypatch.setattr(Porter, "_new_credentials", failing)
    monkeypatch.setattr(Jobs, "give_back", noted)
    require_all(items, store.download(items))
    assert 0 < len(brought_here) < len(items)
    assert had_ended
    assert all(had_ended)


def test_an_error_leaves_nothing_unfinished(
    store: S3Store, items: list[Download], brought_here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what a porter had begun when it was ended; parts of large files stay, for they are gone on with."""
    write, read = Porter._write, Porter._read

    def begun(porter: Porter, line: dict[str, Any]) -> None:
        write(porter, line)
        for fields in line.get("pieces", ()):
            Path(s3_piece.Piece(*fields).file).touch()

    def broken(porter: Porter) -> dict[str, Any]:
        answer = read(porter)
        if answer:
            raise RuntimeError("broken")
        return answer

    items[0].target.parent.mkdir()
    monkeypatch.setattr(Porter, "_write", begun)
    monkeypatch.setattr(Porter, "_read", broken)
    with pytest.raises(RuntimeError, match="broken"):
        store.download(items)
    assert not {name for name in unfinished(items) if not name.startswith(".006")}


def test_what_is_left_of_another_attempt_is_no_part_of_a_file(
    store: S3Store, items: list[Download], brought_here: list[str]
) -> None:
    """Even where it has the name that this process, or its porter, would give it."""
    for item in items[:3]:
        item.target.parent.mkdir(exist_ok=True)
        item.target.with_name(f".{item.target.name}.{os.getpid()}{UNFINISHED}").write_bytes(b"x" * 60_000)
    require_all(items, store.download(items))


class Lost:
    """Does one job, gives one back while it goes on, and another one when it is lost."""

    def __init__(self, called: list[str]) -> None:
        self._called = called

    def work(self, jobs: Jobs[Any, int]) -> None:
        with jobs.helping():
            first, second, third = jobs.take(3)
            jobs.put(first[0], -1)
            jobs.give_back([second])
            until = time.monotonic() + 10
            while "second" not in self._called and time.monotonic() < until:
                time.sleep(0.01)
            assert self._called == ["second"]
            jobs.give_back([third])

    def leave(self) -> None:
        pass


def test_own_threads_take_over_from_a_helper_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, side by side; and what it gives back while it goes on is called, too."""
    called: list[str] = []
    at_once = threading.Barrier(4, timeout=10)

    def job(name: str) -> int:
        called.append(name)
        if name != "second":
            at_once.wait()
        return len(name)

    hold_back_own_threads(monkeypatch, most_s=10)
    names = ["first", "second", "third", "a", "b", "c"]
    jobs = [(i, partial(job, name)) for i, name in enumerate(names)]
    found: dict[int, int] = {}
    all_of(jobs, 4, lambda n: None, found.__setitem__, [Lost(called)])
    assert found == {0: -1, 1: 6, 2: 5, 3: 1, 4: 1, 5: 1}


def test_an_error_of_a_helper_is_raised_where_all_was_begun() -> None:
    class Broken(Lost):
        def work(self, jobs: Jobs[Any, int]) -> None:
            raise RuntimeError("broken")

    jobs = [(0, lambda: time.sleep(0.2))]
    with pytest.raises(RuntimeError, match="broken"):
        all_of(jobs, 1, lambda n: None, lambda i, result: None, [Broken([])])
