"""The stop request, in processes that really get signals."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from job import stopping
from job.errors import DeadlineReached, Interrupted, TryAgain
from job.spec.runtime import RuntimeSpec

ROOT = Path(__file__).parent.parent
START = "import hashlib, os, signal, sys, threading, time\nfrom job import stopping\nstopping.install()\n"
STUCK = "print('ready', flush=True)\nhashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
"""The main thread is in one call of C, so that no Python handler runs."""
PATIENCE_S = 30.0


class Child:
    """A process that has installed the handlers and does what `code` says."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START + code],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until_ready(self) -> "Child":
        """Return once it has told that it is."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def end(self) -> tuple[int, str, str]:
        """Return exit code, output and errors."""
        try:
            out, errors = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.process.kill()
        return self.process.returncode, out, errors


def end(code: str) -> tuple[int, str, str]:
    return Child(code).end()


@pytest.fixture(autouse=True)
def _nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_received", [])
    monkeypatch.setattr(stopping, "_failures", [])
    monkeypatch.setattr(stopping, "_limits", stopping._Limits())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_asks_to_stop_and_interrupts_nothing(name: str) -> None:
    """The flag is set; no exception flies through code that is not prepared for it."""
    kill = f"os.kill(os.getpid(), signal.{name})\n"
    assert end(f"print(stopping.requested())\n{kill}print(stopping.requested())") == (0, "False\nTrue\n", "")


def test_a_signal_that_came_before_the_handler_and_was_blocked_is_a_request() -> None:
    """Sent when the interpreter has hardly begun: it waits, as entrypoint.sh has it, and then is let in."""
    both = (signal.SIGTERM, signal.SIGINT)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, both)  # which the child inherits
    try:
        child = Child("print(stopping.requested(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))")
        child.process.send_signal(signal.SIGTERM)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert child.end() == (0, "True set()\n", "")


def test_a_second_sigterm_is_the_same_request_and_a_second_ctrl_c_means_now() -> None:
    """Schedulers repeat themselves; a person who does has no more patience."""
    again = "os.kill(os.getpid(), signal.SIGTERM)\n" * 3 + "time.sleep(0.2)\nprint('still here')"
    assert end(again) == (0, "still here\n", "")
    code, out, errors = end("for _ in range(2): os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)")
    assert (code, out) == (75, "")
    assert "stopped by SIGINT" in errors


def test_a_process_that_is_stuck_ends_with_its_grace() -> None:
    """Whatever the main thread is in, 75 comes in time, and a reason on the standard error."""
    child = Child("stopping.limit(grace_s=0.5)\n" + STUCK).until_ready()
    asked = time.monotonic()
    child.process.send_signal(signal.SIGTERM)
    code, _, errors = child.end()
    assert code == 75
    assert 0.375 <= time.monotonic() - asked < 5.0
    assert errors.startswith("error: stopped by SIGTERM, and ended 0.")
    assert "advice: run the same command again" in errors
    assert "interrupt_grace_s" in errors


def test_a_deadline_ends_a_process_that_is_stuck_with_6() -> None:
    """The same grace, after which the advice is to raise what has run out."""
    code, _, errors = end("stopping.limit(grace_s=0.2, deadline_s=0.1)\n" + STUCK)
    assert code == 6
    assert "runtime.deadline_s (0.1 s), 0." in errors
    assert "raise runtime.deadline_s" in errors


def test_a_signal_after_the_deadline_changes_nothing() -> None:
    """What came first says how the process ends."""
    kill = "time.sleep(0.3)\nos.kill(os.getpid(), signal.SIGTERM)\n"
    assert end("stopping.limit(grace_s=0.6, deadline_s=0.1)\n" + kill + STUCK)[0] == 6


def test_last_words_that_hang_hold_nobody() -> None:
    """A pipe that nobody empties, and words that fail, cost a second at most."""
    started = time.monotonic()
    for say in ("lambda error: time.sleep(60)", "lambda error: 1 / 0"):
        limit = f"stopping.limit(grace_s=0.1, deadline_s=0.1, say={say})\n"
        assert end(f"threading.excepthook = print\n{limit}{STUCK}")[0] == 6
    assert time.monotonic() - started < 10.0


def test_the_grace_goes_on_after_the_work_has_ended() -> None:
    """Released are the limits of work that nobody stopped: the interpreter's own end may hang too."""
    hang = "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    stop = "os.kill(os.getpid(), signal.SIGTERM)\nwhile stopping.seconds_left() is None: time.sleep(0.01)\n"
    done = "stopping.release()\nprint('done', flush=True)\n"
    assert end(f"stopping.limit(grace_s=0.5)\n{stop}{done}{hang}")[:2] == (75, "done\n")
    in_time = f"stopping.limit(grace_s=0.1, deadline_s=1.0)\n{done}time.sleep(1.5)"
    assert end(in_time) == (0, "done\n", "")


def test_who_was_told_to_stop_leaves_at_once() -> None:
    """Threads in requests that a silent store does not answer are left behind; other ends wait for theirs.

    So does who has no memory or no device any more, with which Python could crash as it ends.
    """
    hang = "threading.Thread(target=time.sleep, args=(60,)).start()\nprint('said')\n"
    started = time.monotonic()
    for code in (75, 10, 11):
        assert end(f"{hang}sys.exit(stopping.leave({code}))") == (code, "said\n", "")
    assert time.monotonic() - started < 20.0
    short = "threading.Thread(target=lambda: (time.sleep(0.2), print('ended'))).start()\n"
    assert end(f"{short}sys.exit(stopping.leave(3))") == (3, "ended\n", "")


def test_a_signal_at_the_very_end_changes_no_exit_code() -> None:
    """Python gives the signals back to the system before it has ended: work that is done stays done."""
    assert end("stopping.leave(0)\nos.kill(os.getpid(), signal.SIGTERM)\nprint('done')") == (0, "done\n", "")


def test_what_ended_the_work_is_raised_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread gave comes first, then a signal, then the deadline."""
    stopping.raise_if_stopped()
    stopping.limit(deadline_s=1e-9)
    with pytest.raises(DeadlineReached, match=r"deadline_s \(1e-09 s\), .* s after the start; progress is"):
        stopping.raise_if_stopped()
    stopping._received.append(signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped by SIGINT; progress is saved"):
        stopping.raise_if_stopped()
    stopping.fail(TryAgain("the lease is lost"))
    with pytest.raises(TryAgain, match="the lease is lost"):
        stopping.raise_if_stopped()


def test_nobody_told_to_stop_has_no_time_left_to_count() -> None:
    """The time left is that of a stop alone; the spec's default is what holds before it is read."""
    assert stopping.seconds_left() is None
    stopping.limit(grace_s=5.0)
    stopping.release()
    assert stopping._limits.grace_s == RuntimeSpec().interrupt_grace_s == stopping.GRACE_S


def test_the_handler_needs_no_slow_import() -> None:
    """It stands within the first 100 ms, most of which are the interpreter's own."""
    code = "import sys; before = {*sys.modules}; import job.stopping; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "job" in loaded
    slow = {"numpy", "torch", "structlog", "pydantic", "json", "argparse", "dataclasses", "inspect"}
    assert not loaded & slow
