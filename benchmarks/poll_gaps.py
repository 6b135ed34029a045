"""How long may a job go without noticing that it is to stop? Measured on a real run, question by question.

    python -m benchmarks.poll_gaps [--least 0.5] -- specs/quick.json [--set ...]

Runs `python -m job` in this process, with the question "was a stop asked for?" watched, and prints the
longest times between two of them: the stage, the seconds by the clock and of the processor (what they would
be on a machine without anybody else, on one thread), and where the program was half a second into them. A
stop is noticed at the next question: the longest time is what it costs at worst, beyond saving.
"""

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from unittest import mock

from structlog.typing import EventDict, WrappedLogger

from job import cli, logs, stopping

LOOKED_AFTER_S = 0.5
PACKAGE = str(Path(cli.__file__).parent)
BESIDE_THE_WORK = ("mirror", "lease", "stop clock")
"""Threads whose questions stop nothing."""


@dataclass(frozen=True)
class Gap:
    """A time without a question."""

    stage: str
    seconds: float
    cpu_s: float
    doing: str


@dataclass
class Watch:
    """Every question of a run."""

    gaps: list[Gap] = field(default_factory=list)
    stage: str = "start"
    _last: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), time.process_time()))
    _doing: str = ""
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def asked(self) -> None:
        """Note that somebody asked."""
        if threading.current_thread().name.startswith(BESIDE_THE_WORK):
            return
        with self._turn:
            now = time.monotonic(), time.process_time()
            self.gaps.append(Gap(self.stage, now[0] - self._last[0], now[1] - self._last[1], self._doing))
            self._last, self._doing = now, ""

    def told(self, event: str, stage: object) -> None:
        """Note which stage it is."""
        if event == "stage.started":
            self.stage = str(stage)

    def look(self, main: int) -> None:
        """Note where the work is, once in a gap that has become long."""
        with self._turn:
            if not self._doing and time.monotonic() - self._last[0] > LOOKED_AFTER_S:
                self._doing = where(sys._current_frames().get(main))


def where(frame: FrameType | None) -> str:
    """Name the functions of the job on a stack, innermost first."""
    named: list[str] = []
    while frame is not None and len(named) < 3:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            named.append(f"{code.co_filename.removeprefix(PACKAGE)[1:]}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(named)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch every question that is asked within."""
    watch, ended, main = Watch(), threading.Event(), threading.get_ident()
    requested, checked = stopping.requested, logs._known_events_only

    def counted() -> bool:
        watch.asked()
        return requested()

    def noted(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        watch.told(event["event"], event.get("stage"))
        return checked(logger, method, event)

    def look_again_and_again() -> None:
        while not ended.wait(0.05):
            watch.look(main)

    looking = threading.Thread(target=look_again_and_again, daemon=True)
    with (
        mock.patch.object(stopping, "requested", counted),
        mock.patch.object(logs, "_known_events_only", noted),
    ):
        looking.start()
        try:
            yield watch
        finally:
            watch.asked()
            ended.set()
            looking.join()


def main() -> int:
    """Run a job and print its longest gaps; returns the job's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--least", type=float, default=0.5, help="seconds of a gap that is shown")
    parser.add_argument("words", nargs="+", help="what `python -m job` is given")
    options = parser.parse_args()
    with watching() as watch:
        code = cli.main(options.words)
    print(f"\n{len(watch.gaps)} questions; {options.least} s or more without one:\n")
    print("| stage | seconds | of the processor | half a second into it |\n|---|---|---|---|")
    for gap in sorted(watch.gaps, key=lambda gap: -gap.cpu_s):
        if gap.seconds >= options.least:
            print(f"| {gap.stage} | {gap.seconds:.2f} | {gap.cpu_s:.2f} | {gap.doing} |")
    return code


if __name__ == "__main__":
    sys.exit(main())
