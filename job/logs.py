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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text
from structlog.typing import EventDict, WrappedLogger

from job import terminal
from job.log_file import LogFile
from job.progress import Task
from job.spec.secrets import redacted
from job.stopping import raise_if_stopped as raise_if_stopped  # loops know it by this name too
from job.storage import strict_json

EVENTS = {
    "job.started": "A run begins or goes on: run_id, run_uri, device, threads.",
    "job.already_done": "The run is finished and its inputs are unchanged: nothing is done again.",
    "job.nothing_new": "Spec, inputs and versions are those of the last promoting job: last_run, seconds.",
    "job.warning": "Something the user should know before reading results: message.",
    "names": "At level debug alone, the images or patients that an event before left out: of, names.",
    "job.failed": "The run fails, or is stopped (a warning): error, message, advice, exit_code, at.",
    "job.finished": "A run ends; `job.failed` follows an invalid one: run_uri, verdict, exit_code, seconds.",
    "stage.started": "A stage begins: stage, fingerprint.",
    "stage.reused": "A stage's finished result is taken: stage, fingerprint.",
    "stage.finished": "A stage is done: stage, fingerprint, seconds.",
    "progress": "A long loop, every so often: what, done, total, unit, per_second, eta_s, and its figures.",
    "data.summary": "What pull found: images and patients per split.",
    "data.bad_image": "Images of no use were left out: dataset, images, of; at debug level each: file, what.",
    "data.left_out": "Patients that the split names on no side: patients, unlabelled_images (how many).",
    "segmenter.loaded": "A model was loaded: kind, device, seconds.",
    "segmenter.verified": "Two ways to a mask on random pairs: pairs, equal_pairs, mean_iou and others.",
    "table.summary": "The table: images, actions, rows_reused, computed and cached (image, prompt) pairs.",
    "reward.epoch": "The reward network's epoch, told at the stage's end: epoch, train_mse, validation_mse.",
    "reward.summary": "The reward network on validation: mse, mae, spearman, regret.",
    "check.result": "A check: name, outcome, value, threshold, severity, finding, advice, details.",
    "finetune.iteration": "A PPO rollout, told when the stage ends: the figures of training_info.json.",
    "finetune.seed": "A training of one seed: seed, validation_dice, entropy, ships.",
    "phase.resumed": "Training of weights goes on from what an interrupted attempt kept: phase, step.",
    "phase.step": "A look in a phase of weights: phase, step, gold (validation Dice), proxy, kl, loss (sft).",
    "phase.finished": "Its end: phase, steps, best_step, ended, at_start, validation_dice.",
    "sweep.point": "A setting of the sweep: point, validation_dice, chosen, seconds.",
    "store.checked": "The output's store answered a probe: uri, conditional_writes, clock_skew_s, seconds.",
    "store.retrying": "The store fails; the work goes on here and is brought later: what, message.",
    "store.damaged": "Something in the store is not what it should be, and is made again: key, message.",
    "store.uploaded": "What was made lies in the store now: what, files, bytes, seconds.",
    "store.restored": "What an earlier attempt or night made is here again: what, files, bytes, seconds.",
    "pull.fetched": "An input is on this disk: uri, files, bytes, downloaded_files, downloaded_bytes.",
    "lease.acquired": "This attempt holds the run: attempt, taken_over (from an attempt that went silent).",
    "run.published": "A run is visible to readers: run_uri, attempt, files, bytes.",
    "run.removed": "Retention removed a run: run_uri.",
    "champion.compared": "What ships against the champion: decision, sentence.",
    "champion.promoted": "A new champion: model_uri, run, generation, previous.",
    "champion.race_lost": "Another job changed the champion meanwhile; it stays: model_uri, run.",
    "fold.started": "A fold's run begins: fold, folds, test_patients (how many).",
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
        self._file: LogFile | None = None
        self.has_failed = False
        """Whether `job.failed` was told."""
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                _known_events_only,
                _without_secrets,
                self._write,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
        self.log: Log = structlog.get_logger()

    def open_file(self, path: Path) -> None:
        """Append every further line to `path` too."""
        self._file = LogFile(path)

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
            self._file.write(line)
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
        except OSError:
            # Whoever read the log has gone (`| head`, a dead log collector), or the disk that it goes to is
            # full: the work goes on, to the file.
            self._stream = open(os.devnull, "w")  # noqa: SIM115, PTH123
            os.dup2(self._stream.fileno(), sys.stdout.fileno())


OBSERVED_EVERY_S = 5.0
"""An observer writes a file and waits for the disk: not at every step."""

Observe = Callable[[str, float | None], None]
"""Is told how far a long loop is (`action table 120/1010`) and how many seconds it will still take."""


class ReportedProgress:
    """Bars with rate and time left on a terminal, an event every `every_s` seconds elsewhere.

    `observe` is told every few seconds, wherever the output goes.
    """

    def __init__(self, output: Output, *, every_s: float, observe: Observe | None = None) -> None:
        self._output = output
        self._every_s = every_s
        self._observe = observe

    @contextlib.contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator[Task]:
        """Open a task; see `job.progress.Progress`."""
        pace = _Pace(what, total, self._every_s, self._observe)
        if self._output.console is None:
            yield _EventTask(pace, self._output.log, unit)
            return
        amount: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn(unit))
        if unit == "bytes":
            amount = (DownloadColumn(), TransferSpeedColumn())
        columns = (
            TextColumn("{task.description:>24}"), BarColumn(), *amount,
            TextColumn("{task.fields[figures]}"), TimeRemainingColumn(),
        )  # fmt: skip
        with Bars(*columns, console=self._output.console, transient=True) as bars:
            yield _BarTask(pace, bars)


class _Pace:
    """How far a task is, and whether it is time to say so again."""

    def __init__(self, what: str, total: int, every_s: float, observe: Observe | None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._every_s, self._observe = every_s, observe
        self._started = self._told = self._observed = time.monotonic()

    def advance(self, steps: int) -> tuple[float, float | None] | None:
        """Count steps; returns steps a second and seconds left when it is time to tell, else None."""
        raise_if_stopped()
        self.done += steps
        now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        eta_s = round((self.total - self.done) / rate, 1) if rate else None
        if self._observe is not None and now - self._observed >= OBSERVED_EVERY_S:
            self._observed = now
            self._observe(f"{self.what} {self.done}/{self.total}", eta_s)
        if now - self._told < self._every_s:
            return None
        self._told = now
        return round(rate, 3), eta_s


class _EventTask:
    def __init__(self, pace: _Pace, log: Log, unit: str) -> None:
        self._pace, self._log, self._unit = pace, log, unit

    def advance(self, steps: int = 1, **figures: float) -> None:
        told = self._pace.advance(steps)
        if told is not None:
            self._log.info(
                "progress", what=self._pace.what, done=self._pace.done, total=self._pace.total,
                unit=self._unit, per_second=told[0], eta_s=told[1], **figures,
            )  # fmt: skip


class _BarTask:
    def __init__(self, pace: _Pace, bars: Bars) -> None:
        self._pace, self._bars = pace, bars
        self._id = bars.add_task(pace.what, total=pace.total, figures="")

    def advance(self, steps: int = 1, **figures: float) -> None:
        self._pace.advance(steps)
        if figures:
            self._bars.update(self._id, figures="  ".join(f"{n} {v:.4g}" for n, v in figures.items()))
        self._bars.update(self._id, advance=steps)


def _without_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {key: redacted(value) for key, value in event.items()}


def _known_events_only(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    assert event["event"] in EVENTS, f"{event['event']!r} is not in job.logs.EVENTS"
    return event
