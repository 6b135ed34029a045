"""Structured logs: an enumerated set of events, as readable lines on a terminal and as JSON elsewhere.

Every line also goes, as JSON, to `job.log.jsonl` in the run folder once that is known. The events are a
contract: docs/events.md documents them and a test holds the two together.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text
from structlog.typing import EventDict, WrappedLogger

from job import stopping, terminal
from job.errors import Interrupted
from job.progress import Task
from job.storage import strict_json

EVENTS = {
    "job.started": "A run begins or goes on: run_id, run_uri, device, threads.",
    "job.already_done": "The run is finished and its inputs are unchanged: nothing is done again.",
    "job.warning": "Something the user should know before reading results: message.",
    "job.failed": "The job ends with an error: error, message, advice, exit_code.",
    "job.finished": "The last event of a run: run_uri, verdict, exit_code, seconds.",
    "stage.started": "A stage begins: stage, fingerprint.",
    "stage.reused": "A stage's finished result is taken: stage, fingerprint.",
    "stage.finished": "A stage is done: stage, fingerprint, seconds.",
    "progress": "A long loop, every so often: what, done, total, unit, per_second, eta_s, and its figures.",
    "data.summary": "What pull found: images and patients per split.",
    "data.left_out": "Patients that the split names on no side: patients.",
    "segmenter.loaded": "A model was loaded: kind, device, seconds.",
    "table.summary": "The table: images, actions, rows_reused, computed and cached (image, prompt) pairs.",
    "reward.epoch": "The reward network's epoch, told at the stage's end: epoch, train_mse, validation_mse.",
    "reward.summary": "The reward network on validation: mse, mae, spearman, regret.",
    "check.result": "A check: name, outcome, value, threshold, severity, finding, advice, details.",
    "finetune.iteration": "A PPO rollout, told when the stage ends: the figures of training_info.json.",
    "finetune.seed": "A training of one seed: seed, validation_dice, entropy, ships.",
    "sweep.point": "A setting of the sweep: point, validation_dice, chosen, seconds.",
    "fold.started": "A fold's run begins: fold, folds, test_patients.",
    "evaluate.candidate": "A rung of the ladder: candidate, Dice on validation and test.",
    "evaluate.verdict": "The answer: verdict, ships, sentence, learning.",
}

Log = structlog.stdlib.BoundLogger


class Output:
    """Where lines go: the standard output (a terminal or not) and, later, the run's log file."""

    def __init__(self, *, level: str = "info", stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        self.console = Console(file=stream) if stream.isatty() else None
        self._stream = stream
        self._file: TextIO | None = None
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                _known_events_only,
                self._write,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        self.log: Log = structlog.get_logger()

    def open_file(self, path: Path) -> None:
        """Append every further line to `path` too."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)

    def close(self) -> None:
        """Close the log file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        head = {"timestamp": stamp, "level": event["level"], "event": event["event"]}
        line = json.dumps(strict_json.plain({**head, **event}, null=True), default=str, allow_nan=False)
        if self._file is not None:
            self._file.write(line + "\n")
        if self.console is None:
            self._write_line(line)
        elif (sentence := terminal.sentence(event)) is not None:
            clock = Text(time.strftime("%H:%M:%S "), style="dim")
            style = {"warning": "yellow", "error": "bold red"}.get(event["level"], "")
            self.console.print(clock, Text(sentence, style=style), sep="", soft_wrap=True)
        return line

    def _write_line(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            # Whoever read the log has gone (`| head`, a dead log collector): the work goes on, to the file.
            self._stream = open(os.devnull, "w")  # noqa: SIM115, PTH123
            os.dup2(self._stream.fileno(), sys.stdout.fileno())


class ReportedProgress:
    """Bars with rate and time left on a terminal, an event every `every_s` seconds elsewhere."""

    def __init__(self, output: Output, *, every_s: float) -> None:
        self._output = output
        self._every_s = every_s

    @contextlib.contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator[Task]:
        """Open a task; see `job.progress.Progress`."""
        if self._output.console is None:
            yield _EventTask(self._output.log, what, total, unit, self._every_s)
            return
        columns = (
            TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Bars(*columns, console=self._output.console, transient=True) as bars:
            yield _BarTask(bars, what, total)


class _EventTask:
    def __init__(self, log: Log, what: str, total: int, unit: str, every_s: float) -> None:
        self._log, self._what, self._total, self._unit = log, what, total, unit
        self._every_s = every_s
        self._done = 0
        self._started = self._reported = time.monotonic()

    def advance(self, steps: int = 1, **figures: float) -> None:
        raise_if_stopped()
        self._done += steps
        now = time.monotonic()
        if now - self._reported < self._every_s:
            return
        self._reported = now
        rate = self._done / max(now - self._started, 1e-9)
        eta_s = round((self._total - self._done) / rate, 1) if rate else None
        self._log.info(
            "progress", what=self._what, done=self._done, total=self._total, unit=self._unit,
            per_second=round(rate, 3), eta_s=eta_s, **figures,
        )  # fmt: skip


class _BarTask:
    def __init__(self, bars: Bars, what: str, total: int) -> None:
        self._bars = bars
        self._id = bars.add_task(what, total=total, figures="")

    def advance(self, steps: int = 1, **figures: float) -> None:
        raise_if_stopped()
        if figures:
            self._bars.update(self._id, figures="  ".join(f"{n} {v:.4g}" for n, v in figures.items()))
        self._bars.update(self._id, advance=steps)


def raise_if_stopped() -> None:
    """Raise `Interrupted` when SIGTERM or SIGINT came."""
    if stopping.requested():
        raise Interrupted(
            "stopped by a signal; progress is saved",
            advice="run the same command again: it goes on from here",
        )


def _known_events_only(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    assert event["event"] in EVENTS, f"{event['event']!r} is not in job.logs.EVENTS"
    return event
