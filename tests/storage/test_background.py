"""Work in threads that nobody waits for yet."""

import threading
import time

import pytest

from job.storage.background import Background


def test_jobs_are_done_side_by_side_but_not_too_many() -> None:
    """Each once, in the order given; what it returns or raises is for whoever asks."""
    begun: list[int] = []
    running = threading.Semaphore(3)
    together = threading.Barrier(3)

    def job(number: int) -> int:
        assert running.acquire(blocking=False)
        begun.append(number)
        together.wait(10)
        running.release()
        if number == 4:
            raise KeyError(number)
        return number * number

    background = Background("test", 3)
    futures = [background.submit(lambda number=number: job(number)) for number in range(9)]  # type: ignore[misc]
    assert [future.result(10) for future in futures if future is not futures[4]] == [
        0, 1, 4, 9, 25, 36, 49, 64
    ]  # fmt: skip
    with pytest.raises(KeyError):
        futures[4].result(10)
    assert sorted(begun) == list(range(9))
    assert set(begun[:3]) == {0, 1, 2}


def test_a_long_job_does_not_hold_up_the_next() -> None:
    """There is a thread for it as long as there may be one more."""
    may_end = threading.Event()
    background = Background("test", 2)
    long = background.submit(lambda: may_end.wait(10))
    assert background.submit(lambda: "short").result(10) == "short"
    may_end.set()
    assert long.result(10)


def test_nothing_begins_while_it_is_held() -> None:
    """Everything begins when the last hold ends; no thread is left when all is done."""
    background = Background("held", 2)
    with background.held():
        with background.held():
            future = background.submit(lambda: 1)
        time.sleep(0.05)
        assert not future.done()
    assert future.result(10) == 1
    deadline = time.monotonic() + 10
    while any(thread.name == "held" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
