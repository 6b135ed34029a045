"""What a run that fails says: an event, an error for people, and a message where Kubernetes looks for one.

Nothing that goes wrong here changes how the run ends.
"""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from job.errors import Interrupted, JobError, meaning
from job.spec.problems import SpecProblems
from job.spec.secrets import redact
from job.spec.showing import printable

if TYPE_CHECKING:
    from job.logs import Output

VARIABLE = "JOB_TERMINATION_LOG"
"""Names the file for the termination message."""
KUBERNETES = Path("/dev/termination-log")
"""Where a Pod's `terminationMessagePath` is, unless its manifest says otherwise."""
MAX_BYTES = 4095
"""Kubernetes shows 4,096."""
_ADVICE_BYTES = 1500
_CUT = "…"
_MEND = "mend the spec; `python -m job validate SPEC` looks at it again in a moment"
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Failure:
    """How a run failed, in words that hold no secret."""

    kind: str
    """The error's class."""
    message: str
    advice: str
    exit_code: int
    at: str
    """The last line of this program on the way to an error of somebody else: `job/table.py:51`."""

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Return an error's meaning; what has none is a defect."""
        told = meaning(error)
        at = "" if isinstance(error, JobError) else _place(error)
        if told is not None:
            advice = told.advice or (_MEND if isinstance(told, SpecProblems) else "")
            return cls(type(told).__name__, redact(str(told)), redact(advice), told.exit_code, at)
        kind = type(error).__name__
        advice = "please report it with the lines of the standard error; the same command may go on from here"
        return cls(kind, redact(f"a defect of the program: {kind}: {error}"), advice, JobError.exit_code, at)


def say(error: BaseException, output: "Output | None" = None) -> int:
    """Tell everybody how a run failed; returns its exit code.

    Without `output` there was no log yet: the event goes to the standard output.
    """
    failure = Failure.of(error)
    # Without a log yet, what has to be imported for one comes last: little time may be left.
    for channel in (
        *([lambda: log(error, output)] if output else []),
        lambda: explain(error),
        lambda: _leave_message(failure),
        *([] if output else [lambda: log(error, _output())]),
    ):
        _try(channel)
    return failure.exit_code


def log(error: BaseException, output: "Output") -> None:
    """Log `job.failed`, once: who is nearer to the error comes first, while the log still goes to a store."""
    if output.has_failed:
        return
    output.has_failed = True
    failure = Failure.of(error)
    # To be stopped is no fault of the run.
    tell = output.log.warning if failure.exit_code == Interrupted.exit_code else output.log.error
    where = {"at": failure.at} if failure.at else {}
    tell(
        "job.failed", error=failure.kind, message=failure.message, advice=failure.advice,
        exit_code=failure.exit_code, **where,
    )  # fmt: skip


def explain(error: BaseException) -> int:
    """Write an error for people to the standard error; returns its exit code."""
    failure, told = Failure.of(error), meaning(error)
    if told is None:
        # Frames and messages, never local variables: those may hold secrets.
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
    text = failure.message if isinstance(told, SpecProblems) else f"error: {failure.message}"
    sys.stderr.write(f"{text}\n  advice: {failure.advice}\n" if failure.advice else f"{text}\n")
    sys.stderr.flush()
    return failure.exit_code


def termination_message(failure: Failure) -> str:
    """Return a failure in less than 4,096 bytes of UTF-8, the first line for who reads no further."""
    first, *rest = map(printable, failure.message.splitlines() or [""])
    more = [f"advice: {printable(failure.advice)}"] if failure.advice else []
    more += [f"at: {failure.at}"] if failure.at else []
    tail = _cut("".join(f"\n{line}" for line in more), _ADVICE_BYTES)
    head = f"{failure.kind} (exit code {failure.exit_code}): {first}"
    room = MAX_BYTES - 1 - len(tail.encode())
    return _cut("\n".join([head, *rest]), room) + tail + "\n"


def _leave_message(failure: Failure) -> None:
    given = os.environ.get(VARIABLE)
    if not given and not KUBERNETES.exists():
        return
    # In place, as the file may be a mount; a pipe that nobody reads must not hold the process.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(given or KUBERNETES, flags, 0o644)
    try:
        os.write(file, termination_message(failure).encode())
    finally:
        os.close(file)


def _output() -> "Output":
    from job.logs import Output  # only a run that fails before it has a log pays for it here

    return Output()


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    if not ours:
        return ""
    path = Path(ours[-1].filename).relative_to(_PACKAGE.parent)
    return f"{path.as_posix()}:{ours[-1].lineno}"


def _cut(text: str, n_bytes: int) -> str:
    """Return a text, or as many of its characters as fit with an ellipsis, as UTF-8 of so many bytes."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= n_bytes:
        return data.decode()
    return data[: n_bytes - len(_CUT.encode())].decode(errors="ignore") + _CUT


def _try(channel: Callable[[], object]) -> None:
    with suppress(Exception):  # a closed pipe, a full disk: the other channels may work, and the code counts
        channel()
