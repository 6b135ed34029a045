"""The stop request."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from job import stopping


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stopping, "_received", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop_and_interrupts_nothing(number: signal.Signals) -> None:
    """The flag is set; no exception flies through code that is not prepared for it."""
    stopping.install()
    assert not stopping.requested()
    os.kill(os.getpid(), number)
    assert stopping.requested()


def test_a_second_sigterm_is_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers repeat themselves; only a person's second Ctrl-C means now."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    stopping.install()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert exits == []
    os.kill(os.getpid(), signal.SIGINT)
    assert exits == [75]


def test_the_handler_needs_no_slow_import() -> None:
    """It stands before numpy, torch or anything else of the program is imported."""
    code = "import sys; import job.stopping; print(*sys.modules)"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "job" in loaded
    assert not loaded & {"numpy", "torch", "structlog", "pydantic", "json", "argparse"}
