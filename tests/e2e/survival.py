"""One run, stopped and killed in stage after stage: is its end that of a run that nothing happened to?

Shared by `test_survival.py`, which takes a few blows a stage, and `benchmarks/soak.py`, which takes hundreds.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from job.publish.published import open_run
from job.storage.uris import open_store
from tests.e2e.attempts import TRY_AGAIN, Attempt
from tests.e2e.child import ROOT

STAGES = ("pull", "table", "reward", "audit", "finetune", "evaluate", "publish")
KEEPING = ("table", "reward", "finetune", "evaluate")
"""Stages that go on where they were: the next attempt has less left of them."""
INTERRUPTED = 75
SPARE = {"publish": 0.25}
OFTEN_SPARE = 0.75
"""Share of a stage's time that all blows within it may use up: this attempt may be quicker than the measured
one was, and a run that is all but published ends rather than being stopped."""
GRACE_S = 24.0


@dataclass(frozen=True)
class Blow:
    """A signal that a stage is to get, after so large a share of the time that it takes undisturbed."""

    stage: str
    signal: str
    share: float


@dataclass(frozen=True)
class Suffered:
    """What a blow did."""

    stage: str
    """In which it fell; empty where the run was over."""
    signal: str
    meant_for: str
    after_s: float
    """After the stage began."""
    exit_code: int
    seconds: float
    """From the signal to the end of the process."""
    lost_s: float
    """What the run had done since it last kept anything, by the clock."""
    last: str
    """The last event."""
    problems: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))


def drawn(rng: random.Random, signals: Sequence[str], stages: Sequence[str] = STAGES) -> list[Blow]:
    """Draw a blow of each signal for every stage, in the order of stages and in any order within one."""
    blows = []
    for stage in stages:
        # What a stage has kept is time that the next attempt does not need.
        most = SPARE.get(stage, OFTEN_SPARE) / (len(signals) if stage in KEEPING else 1)
        blows += [Blow(stage, one, rng.uniform(0.0, most)) for one in rng.sample(signals, len(signals))]
    return blows


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to."""

    results_digest: str
    seconds: dict[str, float]
    """Of each stage."""
    start_s: float
    """From the start of the process to `job.started`: how quick the machine was."""

    @classmethod
    def of(cls, attempt: Attempt, output: str, path: str) -> "Undisturbed":
        """Read it from a run that is over."""
        seconds = {one["stage"]: one["seconds"] for one in attempt.named("stage.finished")}
        judged, over = (
            attempt.named("stage.finished", stage="evaluate")[-1],
            attempt.named("job.finished")[-1],
        )
        seconds["publish"] = (_time(over) - _time(judged)).total_seconds()
        return cls(_published(output, path)[0], seconds, start_s(attempt))


@dataclass(frozen=True)
class Course:
    """A run on its way, attempt after attempt."""

    start: Callable[[], Attempt]
    """Starts the next attempt."""
    output: str
    """Where readers find runs."""
    path: str
    """`runs/<name>/<run_id>` in it."""
    disk: Path | None
    """Where this attempt keeps its work, None where each has a disk of its own."""
    undisturbed: Undisturbed

    def suffer(self, blow: Blow) -> Suffered:
        """Start an attempt and deal it a blow: in the stage that it is meant for, or in a later one that has
        come by then."""
        attempt = self._begun(blow.stage)
        if attempt.named("job.finished"):
            return Suffered("", blow.signal, blow.stage, 0.0, attempt.end(), 0.0, 0.0, attempt.last)
        # Others may want the machine as well: now more of it than then, or less.
        pace = min(max(start_s(attempt) / self.undisturbed.start_s, 0.1), 4.0)
        pause = blow.share * pace * self.undisturbed.seconds[blow.stage]
        if not has_passed(attempt, blow.stage):
            time.sleep(pause)  # the moment is what is tried: there is nothing to wait for
        sent, stage = time.time(), stage_of(attempt)
        lost = max(0.0, sent - self._kept_at(attempt))
        attempt.send(signal.Signals[blow.signal])
        asked = time.monotonic()
        code = attempt.end()
        seconds = time.monotonic() - asked
        is_over = bool(attempt.named("job.finished")) and code == 0
        return Suffered(
            "" if is_over else stage, blow.signal, blow.stage, round(pause, 3), code, round(seconds, 2),
            round(lost, 2), attempt.last, tuple(self._wrong(blow.signal, code, seconds, is_over)),
        )  # fmt: skip

    def finish(self) -> tuple[Attempt, list[str]]:
        """Let the run end in peace; returns the last attempt and what is wrong with it."""
        attempt = self._begun("nothing")
        if attempt.end() != 0:
            return attempt, [f"exit code {attempt.end()}: {attempt.stderr.strip()}"]
        digest, problems = _published(self.output, self.path)
        if digest != self.undisturbed.results_digest:
            problems.append("other results than an undisturbed run")
        return attempt, problems

    def _begun(self, stage: str) -> Attempt:
        """Return an attempt that is at the stage or past it, or over; a killed one's lease has to run out."""
        while True:
            attempt = self.start()
            attempt.wait_until(lambda: has_begun(attempt, stage))  # noqa: B023 - waited for at once
            # Its last event may come before its end.
            is_refused = bool(attempt.named("job.failed")) and attempt.end() == TRY_AGAIN
            if not is_refused:
                return attempt
            time.sleep(0.5)

    def _kept_at(self, attempt: Attempt) -> float:
        """Return when the attempt last kept anything; when its stage began, where it has not."""
        begun = [_time(one).timestamp() for one in attempt.events if one["event"].startswith("stage.")]
        if self.disk is None:
            kept = [_time(one).timestamp() for one in attempt.named("store.uploaded")]
        else:
            kept = list(_kept_files(self.disk))
        return max([*begun[-1:], *kept], default=_time(attempt.events[0]).timestamp())

    def _wrong(self, name: str, code: int, seconds: float, is_over: bool) -> Iterator[str]:
        if is_over:
            return
        wanted = INTERRUPTED if name == "SIGTERM" else -int(signal.Signals[name])
        if code != wanted:
            yield f"exit code {code} instead of {wanted}"
        if seconds > GRACE_S:
            yield f"{seconds:.1f} s to its end"
        shown = open_run(open_store(self.output), self.path)
        if shown is not None and (wrong := shown.verify()):
            yield f"shown and not whole: {wrong[0]}"


def start_locally(spec: str, root: Path, *settings: str, name: str = "r") -> Attempt:
    """Start `python -m job SPEC` whose output and cache are below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "job", spec, "--run-id", name, "--set", f"output.uri={root / 'output'}"]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return Attempt(command, environment, root / "stderr")


def start_s(attempt: Attempt) -> float:
    """Return the seconds from the start of the process to the beginning of its work."""
    begun = attempt.named("job.started")
    return _time(begun[0]).timestamp() - attempt.started_at if begun else 0.0


def left_behind(output: Path) -> list[str]:
    """Return files and folders below a local output that only work in progress needs."""
    found = [
        *output.glob("runs/**/.*.tmp"), *output.glob("stages/**/.*.tmp"), *output.glob("stages/*/*.partial"),
    ]  # fmt: skip
    return [path.relative_to(output).as_posix() for path in found]


def torn_lines(log: Path) -> list[str]:
    """Return what is no JSON line of a log."""
    text = log.read_bytes()
    torn = [] if text.endswith(b"\n") else ["the last line has no end"]
    for line in text.splitlines():
        try:
            json.loads(line)
        except ValueError:
            torn.append(line.decode(errors="replace"))
    return torn


def has_begun(attempt: Attempt, stage: str) -> bool:
    """Whether an attempt is at a stage or past it."""
    if stage == "publish":
        return has_passed(attempt, "evaluate")
    return bool(attempt.named("stage.started", stage=stage)) or has_passed(attempt, stage)


def has_passed(attempt: Attempt, stage: str) -> bool:
    """Whether a stage is behind an attempt."""
    if stage == "publish":
        return bool(attempt.named("job.finished"))
    return any(attempt.named(event, stage=stage) for event in ("stage.finished", "stage.reused"))


def stage_of(attempt: Attempt) -> str:
    """Return the stage that an attempt is in."""
    return next((stage for stage in STAGES if not has_passed(attempt, stage)), "")


def _published(output: str, path: str) -> tuple[str, list[str]]:
    run = open_run(open_store(output), path)
    return ("", ["nothing is shown"]) if run is None else (run.manifest.results_digest, run.verify())


def _kept_files(disk: Path) -> Iterator[float]:
    for pattern in (
        "output/stages/*/*/done.json",
        "output/stages/*/*.partial/scratch/**/*",
        "output/cache/**/*",
    ):
        for path in disk.glob(pattern):
            yield path.stat().st_mtime


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["timestamp"])
