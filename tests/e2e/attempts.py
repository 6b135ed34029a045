"""Attempts at one run in a store: child processes that are watched, stopped, killed and raced."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.data.synthetic import make_dataset
from job.progress import SILENT
from job.publish.published import open_run
from job.storage.store import ObjectStore
from tests.e2e.child import PATIENCE_S, ROOT, TINY
from tests.fault_proxy import SLOW_DOWN, Fault, FaultProxy
from tests.s3_server import Server

IMPATIENT = str(Path(__file__).with_name("impatient.py"))
COUNTS = {"train": 6, "validation": 4, "test": 6, "size": 64}
TRY_AGAIN = 10


class Attempt:
    """A job under way: its events as they come, and how it ended."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], errors: Path, cwd: Path | None = None
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self._errors = errors
        self._news = threading.Condition()
        self._is_over = False
        self._started, self.started_at = time.monotonic(), time.time()
        self.seconds = 0.0
        with errors.open("w") as stderr:
            self.process = subprocess.Popen(
                command, env=dict(environment), cwd=cwd, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, event: str, **facts: Any) -> bool:
        """Return once the event was told; False where the process ended without it."""
        return self.wait_until(lambda: bool(self.named(event, **facts)))

    def wait_until(self, holds: Callable[[], bool]) -> bool:
        """Return once it holds, which is asked at every event; False where the process ended before."""
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            while not holds():
                if self._is_over:
                    return False
                if not self._news.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"nothing in {PATIENCE_S:.0f} s; the last event: {self.last}")
        return True

    def named(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        """Return the events of that name and with these facts."""
        return [one for one in list(self.events) if one["event"] == event and facts.items() <= one.items()]

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        return code

    @property
    def stderr(self) -> str:
        """What was told to people."""
        return self._errors.read_text()

    @property
    def last(self) -> str:
        """The last event, in a few words."""
        if not self.events:
            return "start"
        event = self.events[-1]
        return " ".join(str(event[name]) for name in ("event", "stage", "what") if name in event)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._news:
                    self.events.append(json.loads(line))
                    self._news.notify_all()
        self.seconds = time.monotonic() - self._started
        with self._news:
            self._is_over = True
            self._news.notify_all()


@dataclass
class Bench:
    """A bucket with a dataset, and the folders that stand for the disks of machines."""

    server: Server
    folder: Path
    ttl_s: float
    n_disks: int = 0
    started: list[Attempt] = field(default_factory=list)
    spec: str = TINY

    @property
    def data(self) -> str:
        return f"s3://{self.server.bucket}/data"

    def output(self, name: str) -> str:
        """Return the URI of an output of that name."""
        return f"s3://{self.server.bucket}/{name}"

    def disk(self) -> Path:
        """Return an empty disk."""
        self.n_disks += 1
        return self.folder / f"disk-{self.n_disks}"

    def fill(self) -> None:
        """Make the dataset and bring it to the bucket."""
        made = self.folder / "data"
        make_dataset(made, **COUNTS, unlabelled=0, seed=0, annotation="by_clarity", progress=SILENT)
        client = self.server.client()
        for path in made.rglob("*"):
            if path.is_file():
                key = f"data/{path.relative_to(made).as_posix()}"
                client.put_object(Bucket=self.server.bucket, Key=key, Body=path.read_bytes())

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Return what a child sees: the server, or a proxy before it."""
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        more = {"AWS_ENDPOINT_URL_S3": endpoint} if endpoint else {}
        return {**os.environ, **self.server.environment, **own, **more}

    def start(
        self, output: str, disk: Path, *more: str, run_id: str = "r", endpoint: str | None = None,
        ttl_s: float | None = None,
    ) -> Attempt:  # fmt: skip
        """Start `python -m job SPEC` with data and output in the bucket."""
        arguments = [
            self.spec, "--run-id", run_id, "--set", f"data.uri={self.data}", "--set", f"output.uri={output}",
            "--set", f"cache.uri={disk}", "--set", "runtime.threads=1", *more,
        ]  # fmt: skip
        command = [sys.executable, IMPATIENT, str(ttl_s or self.ttl_s), *arguments]
        disk.mkdir(parents=True, exist_ok=True)
        errors = self.folder / f"stderr-{len(self.started)}"
        attempt = Attempt(command, self.environment(endpoint), errors)
        self.started.append(attempt)
        return attempt

    def until_done(self, output: str, disk: Path, *more: str, **how: Any) -> list[Attempt]:
        """Run the same command again and again, as long as it is told to; returns the attempts."""
        deadline = time.monotonic() + PATIENCE_S
        attempts = [self.start(output, disk, *more, **how)]
        while attempts[-1].end() == TRY_AGAIN and time.monotonic() < deadline:
            time.sleep(1.0)  # a lease may have to run out
            attempts.append(self.start(output, disk, *more, **how))
        return attempts

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run another verb to its end."""
        command = [sys.executable, "-m", "job", *words]
        return subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=PATIENCE_S
        )

    def close(self) -> None:
        """Leave no process behind."""
        for attempt in self.started:
            if attempt.process.poll() is None:
                attempt.send(signal.SIGKILL)
                attempt.end()


@dataclass
class Reader:
    """Somebody who reads a run all the time and trusts `_SUCCESS` alone."""

    store: ObjectStore
    path: str
    scratch: Path
    looks: int = 0
    seen: list[str] = field(default_factory=list)
    """Digests of the manifests that it was shown, whole."""
    problems: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Read the run; what is shown must be whole."""
        self.looks += 1
        run = open_run(self.store, self.path)
        if run is None:
            if self.seen:
                self.problems.append("a run that was shown is gone")
        elif run.manifest_sha256 not in self.seen:
            self.problems += run.verify(self.scratch)
            self.seen.append(run.manifest_sha256)

    @contextmanager
    def reading(self, every_s: float = 0.1) -> Iterator[None]:
        """Look in the background, and once more at the end."""
        ended = threading.Event()
        failures: list[Exception] = []

        def look_again_and_again() -> None:
            while not ended.wait(every_s):
                try:
                    self.look()
                except Exception as error:  # told by the thread that waits for this one
                    failures.append(error)
                    return

        thread = threading.Thread(target=look_again_and_again, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if failures:
            raise failures[0]
        self.look()
        self.problems += [] if len(self.seen) <= 1 else [f"{len(self.seen)} different manifests were shown"]


def kill_after(attempt: Attempt, seconds: float) -> str:
    """Kill a process so many seconds from now; returns the last event that it told."""
    time.sleep(seconds)  # the moment is what is tried: there is nothing to wait for
    attempt.send(signal.SIGKILL)
    attempt.end()
    return attempt.last


def take_away(proxy: FaultProxy, attempt: Attempt, seconds: float = math.inf) -> int:
    """Have the store refuse everything so long, or until the attempt ends; returns how often it did."""
    before, deadline = proxy.count(), time.monotonic() + seconds
    proxy.faults.append(Fault(SLOW_DOWN, times=None))
    while time.monotonic() < deadline and attempt.process.poll() is None:
        time.sleep(0.05)
    proxy.faults.clear()
    return proxy.count() - before


def poll(holds: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


def moments(first: float, last: float, n: int, rng: random.Random) -> list[float]:
    """Return n random moments, one in each of n equal parts of a time."""
    part = (last - first) / n
    return [first + part * (i + rng.random()) for i in range(n)]
