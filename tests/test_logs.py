"""Structured logs: events as a contract, strict JSON lines, progress."""

import ast
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import logs, stopping
from job.errors import Interrupted
from job.logs import EVENTS, Output, ReportedProgress
from job.progress import track

ROOT = Path(__file__).parent.parent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def __getattr__(self, name: str) -> Any:
        import time

        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    return clock


@pytest.fixture
def stop_flag(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    flag: list[int] = []
    monkeypatch.setattr(stopping, "_received", flag)
    return flag


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]


def test_the_page_about_events_and_the_code_are_one() -> None:
    """docs/events.md holds exactly EVENTS, in order, with their meaning."""
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\S+)` \| (.*) \|$", page, re.MULTILINE) == list(EVENTS.items())


def emitted() -> Iterator[str]:
    for path in (ROOT / "job").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error")
                and re.search(r"(^|[._])log$", ast.unparse(node.func.value))
            ):
                assert isinstance(node.args[0], ast.Constant), ast.unparse(node)
                yield node.args[0].value


def test_every_event_in_the_code_is_known() -> None:
    """An unknown name would only show when its line is reached, perhaps after hours."""
    found = set(emitted())
    assert len(found) > 10
    assert found <= set(EVENTS)


def test_an_unknown_event_is_refused() -> None:
    """The set is closed: whoever adds an event documents it."""
    with pytest.raises(AssertionError, match=r"my\.event"):
        Output(stream=io.StringIO()).log.info("my.event")


def test_lines_are_strict_json_with_time_level_and_event_first() -> None:
    """NaN and infinities become null at any depth, numpy's numbers numbers, and other objects their text."""
    stream = io.StringIO()
    Output(stream=stream).log.warning(
        "check.result", value=math.nan, nested={"a": [math.inf, (-math.inf, 1.5)]}, n=np.int64(3),
        share=np.float32(0.5), missing=np.float64("nan"), path=Path("/x"), text="é\n",
    )  # fmt: skip
    (line,) = lines_of(stream)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert {key: line[key] for key in line if key != "timestamp"} == {
        "level": "warning", "event": "check.result", "value": None, "nested": {"a": [None, [None, 1.5]]},
        "n": 3, "share": 0.5, "missing": None, "path": "/x", "text": "é\n",
    }  # fmt: skip


def test_the_log_file_gets_the_same_lines_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Opened late, appended to, closed: nothing before or after reaches it."""
    path, stream = tmp_path / "run" / "job.log.jsonl", io.StringIO()
    for stage in ("pull", "table"):
        output = Output(stream=stream)
        output.log.info("job.started")
        output.open_file(path)
        output.log.info("stage.started", stage=stage)
        output.close()
        output.log.info("job.finished")
    assert [json.loads(line)["stage"] for line in path.read_text().splitlines()] == ["pull", "table"]
    assert set(path.read_text().splitlines()) < set(stream.getvalue().splitlines())
    assert len(lines_of(stream)) == 6


def test_the_level_drops_what_lies_below() -> None:
    """`runtime.log_level: warning` keeps warnings and errors."""
    stream = io.StringIO()
    output = Output(level="warning", stream=stream)
    output.log.info("job.started")
    output.log.error("job.failed", exit_code=3)
    assert [line["event"] for line in lines_of(stream)] == ["job.failed"]


def test_a_terminal_shows_readable_lines_and_the_file_json(tmp_path: Path) -> None:
    """What repeats many times is for the file alone."""
    terminal = Terminal()
    output = Output(stream=terminal)
    output.open_file(tmp_path / "log")
    output.log.info("stage.finished", stage="pull", fingerprint="ab12", seconds=1.26)
    output.log.info("finetune.iteration", timesteps=16)
    output.close()
    assert "pull: done in 1.3 s" in terminal.getvalue()
    assert "finetune.iteration" not in terminal.getvalue()
    assert "{" not in terminal.getvalue()
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events == ["stage.finished", "finetune.iteration"]


def test_progress_events_are_rate_limited_and_count(clock: Clock) -> None:
    """One event per period however many steps, with rate, time left and the loop's figures."""
    stream = io.StringIO()
    with ReportedProgress(Output(stream=stream), every_s=10.0).task("judging", 100, "images") as task:
        for _ in range(50):
            clock.now_s += 0.5
            task.advance(2, loss=0.25)
    first, second = lines_of(stream)
    assert (first["done"], second["done"]) == (40, 80)
    assert {k: first[k] for k in ("event", "what", "total", "unit", "per_second", "eta_s", "loss")} == {
        "event": "progress", "what": "judging", "total": 100, "unit": "images", "per_second": 4.0,
        "eta_s": 15.0, "loss": 0.25,
    }  # fmt: skip


def test_progress_without_elapsed_time_or_steps_is_no_error(clock: Clock) -> None:
    """A clock may stand still between two calls, and a loop may begin by waiting."""
    stream = io.StringIO()
    with ReportedProgress(Output(stream=stream), every_s=1e-12).task("x", 2, "images") as task:
        task.advance(0)
        clock.now_s += 1
        task.advance(0)
    assert lines_of(stream)[-1]["eta_s"] is None


def test_a_terminal_gets_bars_and_no_events() -> None:
    """Figures stand beside the bar."""
    terminal = Terminal()
    with ReportedProgress(Output(stream=terminal), every_s=0.001).task("judging", 2, "images") as task:
        task.advance(1, loss=0.25)
        task.advance(1, loss=0.125)
    assert "judging" in terminal.getvalue()
    assert '"event"' not in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["events", "bars"])
def test_a_stop_request_raises_interrupted_at_the_next_step(
    stop_flag: list[int], stream: io.StringIO
) -> None:
    """The step that is under way ends first; the error says that the same command goes on."""
    done = []
    progress = ReportedProgress(Output(stream=stream), every_s=10.0)

    def run() -> None:
        for item in track(progress, "x", range(5), 5, "images"):
            done.append(item)
            if item == 2:
                stop_flag.append(15)

    with pytest.raises(Interrupted, match="progress is saved") as caught:
        run()
    assert done == [0, 1, 2]
    assert caught.value.exit_code == 75
    assert "same command" in caught.value.advice


def test_no_line_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a message nor deep in a fact, on a terminal, elsewhere and in the file; numbers stay."""
    monkeypatch.setenv("STORE_TOKEN", "canary-canary")
    for stream in (io.StringIO(), Terminal()):
        output = Output(stream=stream)
        output.open_file(tmp_path / "log")
        facts = {"a": ["canary-canary", 1.5, Path("/x/canary-canary")]}
        output.log.info("job.warning", message="says canary-canary", facts=facts, place=Path("canary-canary"))
        output.close()
        assert "says ***" in stream.getvalue()
        assert "canary" not in stream.getvalue()
    lines = (tmp_path / "log").read_text()
    assert "canary" not in lines
    assert json.loads(lines.splitlines()[0])["facts"] == {"a": ["***", 1.5, "/x/***"]}
