"""Waiting for an answer, of a store or of a person, such that a stop that is asked for ends the waiting."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from job.stopping import raise_if_stopped

TELL_EVERY_S = 10.0
_LOOK_S = 0.05

T = TypeVar("T")


def interruptibly(read: Callable[[], T], tell: Callable[[float], None] | None = None) -> T:
    """Return or raise what `read` does; raises `Interrupted` as soon as a stop is asked for.

    For what may wait for long and changes nothing: it is left behind in its thread. `tell` is told every ten
    seconds how many seconds it has been so far; what it raises ends the waiting too.
    """
    answers: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            answers.append(read())
        except BaseException as error:  # raised again below, in the thread that waits
            errors.append(error)
        finally:
            done.set()

    raise_if_stopped()
    threading.Thread(target=run, name="reading", daemon=True).start()
    started = told = time.monotonic()
    while not done.wait(_LOOK_S):
        raise_if_stopped()
        if tell is not None and time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            tell(told - started)
    if errors:
        raise errors[0]
    return answers[0]
