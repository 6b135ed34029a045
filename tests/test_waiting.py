"""Waiting that a stop ends."""

import signal
import threading

import pytest

from job import stopping
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
