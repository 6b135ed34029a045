"""Stopped before the work begins, held by a silent store, started twice: how real processes end."""

import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from job.storage.local import exclusive
from tests.e2e.attempts import Attempt, poll
from tests.e2e.child import ROOT, TINY, run_here
from tests.fault_proxy import Delay, Fault, open_proxy
from tests.s3_server import Server

pytestmark = pytest.mark.timeout(600)  # each test is several processes, one after the other

SEED = 5
MOMENTS = 5
GRACE_S = 4.0
ENDS_WITHIN_S = 30.0
"""Imports of a slow machine and the default grace."""
LAST_WORDS_S = 2.0
"""What a process that is cut short needs to say so and end, on a machine of its own."""


class Stops:
    """Starts jobs in a folder of the test's own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.attempts: list[Attempt] = []

    def start(self, spec: str, *arguments: str, **more: str) -> Attempt:
        """Start `python -m job SPEC ARGUMENTS`, on one thread; arguments may name another output."""
        name = str(len(self.attempts))
        log = {"JOB_TERMINATION_LOG": str(self.place / f"termination-{name}")}
        own: Mapping[str, str] = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        sets = ("--set", "runtime.threads=1", "--set", f"output.uri={self.place / 'output'}")
        command = [sys.executable, "-m", "job", spec, *sets, *arguments]
        attempt = Attempt(command, {**os.environ, **own, **log, **more}, self.place / f"stderr-{name}")
        self.attempts.append(attempt)
        return attempt

    def message(self, attempt: Attempt) -> str:
        """Return the termination message, empty where there is none."""
        place = self.place / f"termination-{self.attempts.index(attempt)}"
        return place.read_text() if place.exists() else ""


@pytest.fixture
def stops(tmp_path: Path) -> Iterator[Stops]:
    stops = Stops(tmp_path)
    yield stops
    for attempt in stops.attempts:
        if attempt.process.poll() is None:
            attempt.send(signal.SIGKILL)
            attempt.end()


def handles(attempt: Attempt, number: signal.Signals) -> bool:
    """Return whether the process has a handler: what the kernel says of it."""
    status = Path(f"/proc/{attempt.process.pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def until_it_handles(attempt: Attempt) -> Attempt:
    """Return once it handles both signals, which it does first of all; Python itself handles SIGINT."""
    while not handles(attempt, signal.SIGTERM):
        assert attempt.process.poll() is None
        time.sleep(0.001)
    return attempt


def begin_to_write(pipe: Path) -> int:
    """Open a pipe as soon as somebody reads it, and write nothing; returns the descriptor."""
    opened: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(opened)

    poll(is_read)
    return opened[0]


def assert_stopped(stops: Stops, attempt: Attempt, asked: float, within_s: float = ENDS_WITHIN_S) -> None:
    """It ended with 75, soon, and said so once everywhere."""
    assert attempt.end() == 75, attempt.stderr
    assert time.monotonic() - asked < within_s
    assert "Traceback" not in attempt.stderr
    assert attempt.stderr.startswith("error: stopped by SIG")
    assert attempt.stderr.count("error:") == 1
    (failed,) = attempt.named("job.failed")
    assert (failed["level"], failed["exit_code"]) == ("warning", 75)
    assert stops.message(attempt).startswith("Interrupted (exit code 75): stopped by SIG")


def test_stopped_before_the_first_stage_it_ends_with_75(stops: Stops) -> None:
    """At drawn moments of its start, by either signal, once or twice: never killed, never a traceback."""
    whole = until_it_handles(stops.start(TINY))
    started = time.monotonic()
    assert whole.wait_for("stage.started")
    until_first_stage_s = time.monotonic() - started
    asked = time.monotonic()
    whole.send(signal.SIGTERM)
    # Where others want the machine, imports took longer, and so do those that a stop waits for.
    within_s = max(ENDS_WITHIN_S, 2 * until_first_stage_s)
    assert_stopped(stops, whole, asked, within_s)
    rng = random.Random(SEED)
    for number in range(MOMENTS):
        moment = (number + rng.random()) / MOMENTS * until_first_stage_s if number else 0.0
        attempt = until_it_handles(stops.start(TINY))
        time.sleep(moment)  # the moment is what is tried: there is nothing to wait for
        asked = time.monotonic()
        attempt.send(signal.SIGINT if number % 2 else signal.SIGTERM)
        if number == 2:
            attempt.send(signal.SIGTERM)  # schedulers repeat themselves
        if number == 1:
            attempt.send(signal.SIGINT)  # who presses Ctrl-C twice means now, and is told why all the same
        assert_stopped(stops, attempt, asked, within_s)


def test_stopped_while_the_spec_is_read_it_ends_at_once(stops: Stops) -> None:
    """From a pipe that nobody fills, and from a store that does not answer."""
    pipe = stops.place / "pipe.json"
    os.mkfifo(pipe)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any-secret-key-at-all"}
        both = [
            stops.start("s3://bucket/spec.json", AWS_ENDPOINT_URL_S3=endpoint, **keys),
            stops.start(TINY, "--set", "data.uri=s3://bucket/data", AWS_ENDPOINT_URL_S3=endpoint, **keys),
        ]
        connections = [silent.accept()[0] for _ in both]  # so that both are in a request
        reading = stops.start(str(pipe))
        writing = begin_to_write(pipe)
        for attempt in (*both, reading):
            asked = time.monotonic()
            attempt.send(signal.SIGTERM)
            assert_stopped(stops, attempt, asked)
            assert time.monotonic() - asked < 10.0
        for connection in connections:
            connection.close()
        os.close(writing)


def test_a_silent_store_holds_nobody_longer_than_the_grace(
    stops: Stops, s3_server: Server, s3_prefix: str
) -> None:
    """Neither one who was told to stop nor one whose deadline came; each says that not all was saved."""
    sets = (f"--set=runtime.interrupt_grace_s={GRACE_S}", f"--set=cache.uri={stops.place / 'disk'}")

    def silenced(run_id: str, *more: str) -> Attempt:
        place = ("--run-id", run_id, "--set", f"output.uri={s3_prefix}")
        attempt = stops.start(TINY, *place, *sets, *more, AWS_ENDPOINT_URL_S3=proxy.endpoint)
        assert attempt.wait_for("lease.acquired"), (attempt.process.returncode, attempt.stderr)
        proxy.faults.append(Fault(Delay(300.0), times=None))
        return attempt

    with open_proxy(s3_server) as proxy:
        started = time.monotonic()
        stopped = silenced("stopped")
        until_work_s = time.monotonic() - started
        deadline_s = round(2.0 * until_work_s + 5.0)
        # Where others want the machine, starting took longer, and so does ending.
        most_s = GRACE_S + max(LAST_WORDS_S, until_work_s)
        stopped.send(signal.SIGTERM)
        asked = time.monotonic()
        assert stopped.end() == 75, stopped.stderr
        assert time.monotonic() - asked < most_s
        proxy.faults.clear()
        started = time.monotonic()
        late = silenced("late", "--set", f"runtime.deadline_s={deadline_s}")
        assert late.end() == 6, late.stderr
        assert deadline_s <= time.monotonic() - started < deadline_s + most_s
    for attempt, code in ((stopped, 75), (late, 6)):
        assert f"(exit code {code})" in stops.message(attempt)
        assert attempt.stderr.count("error:") == 1
        assert "interrupt_grace_s" in attempt.stderr
        assert attempt.named("job.failed", exit_code=code)


def test_of_two_that_are_started_on_one_folder_one_works(stops: Stops) -> None:
    """The second leaves with 10 and says who works, where, since when; afterwards the run is done already."""
    first = stops.start(TINY)
    assert first.wait_for("stage.started")
    second = stops.start(TINY)
    assert second.end() == 10
    holder = rf"another process: {re.escape(os.uname().nodename)}, process {first.process.pid}, for \d+ s "
    assert re.search(holder, second.stderr)
    assert re.search(holder, stops.message(second))
    assert first.end() == 0, first.stderr
    assert stops.message(first) == ""
    third = stops.start(TINY)
    assert third.end() == 0
    assert third.named("job.already_done")
    assert stops.message(third) == ""


def test_two_jobs_that_meet_at_a_stage_do_not_compute_it_twice(tmp_path: Path) -> None:
    """Other settings, one output: the second ends with 10 and says who is at it, then takes it over."""
    first = run_here(TINY, "--set", "runtime.threads=1", cwd=tmp_path)
    assert first.code == 0, first.stderr
    table = tmp_path / first.stage("table")
    made = table.rename(tmp_path / "made")
    other = (TINY, "--set", "runtime.threads=1", "--set", "finetune.learning_rate=1e-4")
    with exclusive(table.with_name(f"{table.name}.lock"), "stage table"):
        second = run_here(*other, cwd=tmp_path)
        made.rename(table)
    assert second.code == 10, second.stderr
    holder = rf"stage table is being worked on by another process: {re.escape(os.uname().nodename)}, process"
    assert re.search(rf"{holder} {os.getpid()}, for \d+ s", second.stderr)
    third = run_here(*other, cwd=tmp_path)
    assert third.code == 0, third.stderr
    assert [event["stage"] for event in third.named("stage.reused")] == ["pull", "table", "reward", "audit"]
