"""The stop request: SIGTERM, SIGINT or the deadline. Long loops poll it, and a clock ends what does not.

Imports next to nothing (no dataclasses, no typing), so that `__main__` can install the handlers within the
first 100 ms: a signal before that kills the process or, where that is process 1 of a container, is lost.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from job.errors import JobError

GRACE_S = 24.0
"""How long a process goes on after it was told to stop: a Pod is given 30 s between SIGTERM and SIGKILL."""
LAST_WORDS_S = 3.0
"""What of the grace, and a quarter of it at most, is kept for them: a pipe that nobody empties may hang."""
_LONGEST_WAIT_S = 3600.0
_EXIT_INTERRUPTED = 75


class _Limits:
    """How long the process may go on, and who tells why it ends when that is over."""

    def __init__(self) -> None:
        self.grace_s = GRACE_S
        self.deadline_s: float | None = None
        self.say: Callable[[JobError], object] | None = None

    @property
    def words_s(self) -> float:
        """How long last words may take."""
        return min(LAST_WORDS_S, self.grace_s / 4)

    def deadline_in(self, now: float) -> float:
        """Return the seconds until the deadline, infinity where there is none."""
        return float("inf") if self.deadline_s is None else _STARTED + self.deadline_s - now


_STARTED = time.monotonic()
_received: list[int] = []
_failures: list[Exception] = []
_limits = _Limits()
_clock: _Clock | None = None


def install() -> None:
    """Handle SIGTERM and SIGINT from now on, and those that came before where they were blocked.

    Process 1 of a container loses a signal that it does not handle yet: entrypoint.sh has them wait.
    """
    global _clock
    ring, bell = os.pipe()
    os.set_blocking(bell, False)
    # Python's own handlers run when the main thread is between two of its instructions, which may take
    # minutes: in a matrix product, or a request. The bell rings at once.
    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)
    _clock = _Clock(ring, bell)
    _clock.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def limit(
    *,
    grace_s: float = GRACE_S,
    deadline_s: float | None = None,
    say: Callable[[JobError], object] | None = None,
) -> None:
    """Set how long the process may go on after a stop, when its time is over, and who then says so.

    `deadline_s` counts from the start of the process; reaching it is a stop. Without `say` the error goes to
    the standard error.
    """
    _limits.grace_s, _limits.deadline_s, _limits.say = grace_s, deadline_s, say
    if _clock is not None:
        _clock.ring()


def release() -> None:
    """Forget the limits, as the work has ended: unless a stop was asked for, whose grace goes on."""
    if seconds_left() is None:
        limit()


def requested() -> bool:
    """Return whether a signal asked for a stop."""
    return bool(_received)


def seconds_left() -> float | None:
    """Return how long a process that was told to stop may still save, None for one that was not."""
    if _clock is None or _clock.asked_at is None:
        return None
    return max(0.0, _clock.asked_at + _limits.grace_s - _limits.words_s - time.monotonic())


def raise_if_stopped() -> None:
    """Raise what was given to `fail`, else `Interrupted` after a signal, else `DeadlineReached`."""
    first = failure()
    if first is not None:
        raise first
    if requested() or _limits.deadline_in(time.monotonic()) <= 0:
        raise _stop(by_deadline=not requested())


def fail(error: Exception) -> None:
    """Ask the work to stop with `error`: something that it rests on is lost, such as its lease."""
    _failures.append(error)


def failure() -> Exception | None:
    """Return the first error that was given to `fail`, None where there was none."""
    return _failures[0] if _failures else None


def leave(exit_code: int) -> int:
    """Return the exit code, but of a process that was told to stop or lacks something: that one ends here.

    Its threads may be in requests that a silent store does not answer, and nobody waits for them. Without
    memory, or with a broken device, Python would crash as it takes itself down, and the exit code be lost.
    """
    from job.errors import DeadlineReached, DeviceError, Interrupted, TryAgain

    if exit_code in {kind.exit_code for kind in (Interrupted, DeadlineReached, TryAgain, DeviceError)}:
        _exit(exit_code)
    # Python restores the default handlers some time before it ends: a signal would then kill a process that
    # has done its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return exit_code


class _Clock(threading.Thread):
    """Ends the process when its grace is over, whatever the main thread is doing."""

    def __init__(self, ring: int, bell: int) -> None:
        super().__init__(name="stop clock", daemon=True)
        self._ring, self._bell = ring, bell
        self.asked_at: float | None = None
        """When a stop was asked for, by a signal or the deadline."""
        self._by_deadline = False

    def ring(self) -> None:
        """Make it look at the limits again."""
        os.write(self._bell, b"\0")

    def run(self) -> None:
        while True:
            now = time.monotonic()
            left = _limits.deadline_in(now)
            if self.asked_at is None and left <= 0:
                self.asked_at, self._by_deadline = now, True
            if self.asked_at is not None:
                left = self.asked_at + _limits.grace_s - _limits.words_s - now
                if left <= 0:
                    self._end()
            if select.select([self._ring], [], [], min(left, _LONGEST_WAIT_S))[0]:
                for number in os.read(self._ring, 64):
                    self._hear(number)

    def _hear(self, number: int) -> None:
        if number not in (signal.SIGTERM, signal.SIGINT):
            return
        # A second Ctrl-C means now. Every artifact is written beside its place and renamed: nothing breaks.
        if number == signal.SIGINT and self.asked_at is not None:
            self._end()
        _received.append(number)  # the main thread's handler may have to wait
        if self.asked_at is None:
            self.asked_at = time.monotonic()

    def _end(self) -> None:
        exit_code = _EXIT_INTERRUPTED
        try:
            asked_at = self.asked_at or time.monotonic()
            late_s = time.monotonic() - asked_at
            error = _stop(by_deadline=self._by_deadline, late_s=late_s)
            exit_code = error.exit_code
            words = threading.Thread(target=_limits.say or _say, args=(error,), daemon=True)
            words.start()
            words.join(max(0.0, asked_at + _limits.grace_s - time.monotonic()))
        finally:
            os._exit(exit_code)


def _stop(*, by_deadline: bool, late_s: float | None = None) -> JobError:
    """Return the error of a stop; `late_s` of one that the work did not follow in so many seconds."""
    from job.errors import DeadlineReached, Interrupted  # by now there is time for it

    what, late, again = "progress is saved", "", ""
    if late_s is not None:
        what = "what was made since the last checkpoint may not be saved"
        late = f", and ended {late_s:.1f} s later in the middle of something"
        again = "; if that happens again, raise runtime.interrupt_grace_s and the Pod's grace"
    if by_deadline:
        since_start_s = time.monotonic() - _STARTED - (late_s or 0.0)
        return DeadlineReached(
            f"reached runtime.deadline_s ({_limits.deadline_s:g} s), {since_start_s:.1f} s after the"
            f" start{late}; {what}",
            advice=f"raise runtime.deadline_s, then run the same command: it goes on from here{again}",
        )
    return Interrupted(
        f"stopped by {signal.Signals(_received[0]).name}{late}; {what}",
        advice=f"run the same command again: it goes on from here{again}",
    )


def _say(error: JobError) -> None:
    os.write(2, f"error: {error}\n  advice: {error.advice}\n".encode())


def _exit(exit_code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, MemoryError):  # nobody reads it, or nothing is left to write it with
            continue
    os._exit(exit_code)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    _received.append(signum)
