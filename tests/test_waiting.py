"""Waiting that a stop ends."""

import signal
import threading

import pytest

from job import stopping, waiting
from job.errors import Interrupted
from job.waiting import interruptibly


@pytest.fixture(autouse=True)
def flag(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    flag: list[int] = []
    monkeypatch.setattr(stopping, "_received", flag)
    return flag


def test_an_answer_or_an_error_comes_through() -> None:
    """As if it had been called here."""

    def fail() -> int:
        raise KeyError("x")

    assert interruptibly(lambda: 42) == 42
    with pytest.raises(KeyError, match="x"):
        interruptibly(fail)


def test_who_waits_for_long_is_told_and_may_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, with the seconds so far; what is raised then ends the waiting."""
    monkeypatch.setattr(waiting, "TELL_EVERY_S", 0.1)
    silent, told = threading.Event(), list[float]()

    def tell(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        interruptibly(lambda: silent.wait(60.0), tell)
    assert told == sorted(told)
    assert told[0] >= 0.1
    silent.set()
    assert interruptibly(lambda: silent.wait(60.0), tell)
    assert len(told) == 3


def test_a_stop_leaves_behind_what_gives_no_answer(flag: list[int]) -> None:
    """A silent store holds nobody, and is not asked at all when the stop came before."""
    silent, asked = threading.Event(), threading.Event()

    def read() -> bool:
        asked.set()
        flag.append(signal.SIGTERM)
        return silent.wait(60.0)

    with pytest.raises(Interrupted):
        interruptibly(read)
    asked.clear()
    with pytest.raises(Interrupted):
        interruptibly(read)
    assert not asked.is_set()
    silent.set()
