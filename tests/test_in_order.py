"""Results in the order of the work, memory within bounds, an end whatever happens."""

from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import closing
from threading import Event, Lock
from typing import Any
from unittest.mock import Mock

import pytest

from job.errors import Interrupted
from job.in_order import Begun, each, in_order, nothing_to_do, then
from job.progress import Task


class Work:
    """Futures that the test ends itself, and how many of them were begun."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.futures: list[Future[int]] = [Future() for _ in weights]
        self.begun = 0
        self.is_closed = False
        self._weights = weights

    def items(self) -> Generator[Begun[int], None, None]:
        """Begin one after the other."""
        try:
            for future, weight in zip(self.futures, self._weights, strict=True):
                self.begun += 1
                yield Begun(future, weight)
        finally:
            self.is_closed = True


def test_results_come_in_the_order_of_the_work() -> None:
    """Whoever ends first."""
    work = Work([1] * 9)
    for i in (8, 3, 0, 1, 7, 2, 6, 4, 5):
        work.futures[i].set_result(i)
    assert list(in_order(work.items(), most=4)) == list(range(9))
    assert work.is_closed


@pytest.mark.parametrize(
    ("weights", "most", "ahead"),
    [([1] * 9, 4, 4), ([2] * 9, 4, 2), ([3] * 9, 5, 1), ([9] * 9, 5, 1), ([0] * 9, 5, 9), ([1, 9, 1], 5, 2)],
)
def test_what_is_begun_weighs_no_more_than_allowed(weights: list[int], most: int, ahead: int) -> None:
    """With one like the last; a heavy one is alone."""
    work = Work(weights)
    looks: list[int] = []

    def look() -> None:
        looks.append(work.begun)
        for i, future in enumerate(work.futures):
            if not future.done():
                future.set_result(i)

    assert list(in_order(work.items(), most=most, look=look)) == list(range(len(weights)))
    assert looks == [ahead]


def test_a_result_that_is_there_is_taken_before_more_is_begun() -> None:
    """What was made is kept as it is made, not when memory is full."""
    work = Work([1] * 3)
    work.futures[0].set_result(0)
    with closing(in_order(work.items(), most=9)) as found:
        assert next(found) == 0
        assert work.begun == 1


def test_an_error_comes_in_its_turn() -> None:
    """After the results before it; then no more is begun."""
    work = Work([1] * 5)
    work.futures[0].set_result(0)
    work.futures[2].set_result(2)
    work.futures[1].set_exception(OSError("disk full"))
    found = in_order(work.items(), most=9)
    assert next(found) == 0
    with pytest.raises(OSError, match="disk full"):
        next(found)
    assert work.begun == 2
    assert work.is_closed


def test_whoever_waits_looks_for_a_stop() -> None:
    """Nobody waits for a result that may never come."""
    work = Work([1])

    def look() -> None:
        raise Interrupted("stop requested")

    with pytest.raises(Interrupted):
        next(in_order(work.items(), most=9, look=look))
    assert work.is_closed


def test_whoever_wants_no_more_closes_the_work() -> None:
    """Also before the first result."""
    work = Work([1, 1])
    work.futures[0].set_result(0)
    found = in_order(work.items(), most=9)
    assert next(found) == 0
    found.close()
    assert work.is_closed
    assert list(in_order((nothing_to_do(i) for i in range(3)), most=0)) == [0, 1, 2]


class Worked:
    """Counts how many have begun."""

    def __init__(self) -> None:
        self.lock, self.begun = Lock(), 0

    def __call__(self, i: int, n_bytes: int, task: Task) -> int:
        with self.lock:
            self.begun += 1
        return i


def each_of(work: Worked, sizes: Sequence[int], task: Any) -> Generator[int, None, None]:
    """Work on as many as there are sizes, with four threads."""
    items = enumerate(sizes)
    return each(work, items, n_bytes=lambda i, size: size, threads=4, is_large=False, task=task)


@pytest.mark.parametrize(("n_bytes", "most"), [(30, 3), (60, 1), (1000, 1)])
def test_what_is_begun_at_once_fits_into_a_third_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, n_bytes: int, most: int
) -> None:
    """However large one is, it has its turn; results come in order, and each is counted once."""
    monkeypatch.setattr("job.in_order.available_memory", lambda: 300)
    begun: list[int] = []
    steps: list[int] = []
    is_full = Event()

    def look(n: int = 1, **figures: float) -> None:
        steps.append(n)
        is_full.set()  # who waits for a result begins no more

    def items() -> Generator[tuple[int], None, None]:
        for i in range(50):
            begun.append(i)
            yield (i,)

    def work(i: int, task: Task) -> int:
        assert is_full.wait(60)
        return i

    found = each(work, items(), n_bytes=lambda i: n_bytes, threads=4, is_large=False, task=Mock(advance=look))
    assert next(found) == 0
    assert len(begun) == most
    assert list(found) == list(range(1, 50))
    assert sum(steps) == 50


def test_a_stop_is_noticed_between_any_two() -> None:
    """A thousand small ones are not all begun before the first is taken, and none after a stop."""

    class Stops:
        def advance(self, steps: int = 1, **figures: float) -> None:
            if steps:
                raise Interrupted("stop requested")

    work = Worked()
    found = each_of(work, [1] * 1000, Stops())
    assert next(found) == 0
    with pytest.raises(Interrupted):
        next(found)
    assert work.begun < 50


def test_work_that_follows_begins_with_what_it_needs() -> None:
    """Not before, and its result is the whole's."""
    first: Future[int] = Future()
    second: Future[str] = Future()
    asked: list[int] = []
    whole = then(first, lambda found: asked.append(found) or second)  # type: ignore[func-returns-value]
    assert not asked
    first.set_result(3)
    assert asked == [3]
    assert not whole.done()
    second.set_result("three")
    assert whole.result() == "three"


def test_errors_of_both_and_of_the_begin_between_are_the_wholes() -> None:
    """Also of work that was cancelled: who waits is never left waiting."""
    first: Future[int] = Future()
    whole = then(first, Mock(side_effect=AssertionError("begun")))
    first.set_exception(OSError("the first"))
    with pytest.raises(OSError, match="the first"):
        whole.result(timeout=0)
    done: Future[int] = Future()
    done.set_result(1)
    with pytest.raises(ValueError, match="between"):
        then(done, Mock(side_effect=ValueError("between"))).result(timeout=0)
    second: Future[int] = Future()
    whole = then(done, lambda _: second)
    second.set_exception(OSError("the second"))
    with pytest.raises(OSError, match="the second"):
        whole.result(timeout=0)
    cancelled: Future[int] = Future()
    whole = then(cancelled, Mock(side_effect=AssertionError("begun")))
    cancelled.cancel()
    with pytest.raises(CancelledError):
        whole.result(timeout=0)
