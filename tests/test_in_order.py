"""Work on threads: results in order, memory within bounds, ends without a thread left behind."""

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from contextvars import ContextVar

import pytest

from job.in_order import Job, in_order

PATIENCE_S = 60


def jobs_of(todo: list[tuple[Callable[[], int], int]], asked: list[int]) -> Generator[Job[int], None, None]:
    for i, (do, weight) in enumerate(todo):
        asked.append(i)
        yield Job(do, weight)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_jobs(threads: int) -> None:
    """Even when the first job ends last."""
    others_done = threading.Barrier(min(threads, 3))
    todo: list[tuple[Callable[[], int], int]] = [(lambda i=i: i, 1) for i in range(50)]  # type: ignore[misc]
    for slow in range(min(threads, 3)):

        def wait(i: int = slow) -> int:
            others_done.wait(PATIENCE_S)
            return i

        todo[slow] = (wait, 1)
    assert list(in_order(jobs_of(todo, []), threads=threads, most=7)) == list(range(50))


def test_jobs_are_asked_for_in_the_caller_s_thread_and_done_in_others() -> None:
    """Whoever makes the jobs may use what belongs to one thread; a thread begins with what it is given."""
    asked_by, done_by, started = set(), set(), set()

    def jobs() -> Generator[Job[None], None, None]:
        for _ in range(9):
            asked_by.add(threading.current_thread())
            yield Job(lambda: done_by.add(threading.current_thread()), 1)

    def start() -> None:
        started.add(threading.current_thread())

    list(in_order(jobs(), threads=3, most=4, start=start))
    assert asked_by == {threading.current_thread()}
    assert done_by <= started
    assert not started & asked_by
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(("weight", "most", "ahead"), [(1, 4, 4), (2, 4, 2), (3, 5, 1), (9, 5, 1), (0, 5, 6)])
def test_what_is_waiting_weighs_no_more_than_allowed(weight: int, most: int, ahead: int) -> None:
    """But for one job, that is always taken on: a heavy one waits until it is alone."""
    free = threading.Event()
    asked: list[int] = []

    def wait() -> int:
        assert free.wait(PATIENCE_S)
        return 0

    todo = [(wait, weight)] + [(lambda: 1, weight)] * 5
    done = in_order(jobs_of(todo, asked), threads=2, most=most)
    with closing(done):
        first: list[int] = []
        taker = threading.Thread(target=lambda: first.append(next(done)))
        taker.start()
        while len(asked) < ahead:
            assert taker.is_alive()
        free.set()
        taker.join(PATIENCE_S)
        assert first == [0]
        assert len(asked) in (ahead, ahead + 1)  # the job may end before the last is asked for
        assert list(done) == [1] * 5


def test_an_error_is_raised_in_its_turn_and_the_others_are_told() -> None:
    """Results before it come first; running jobs are told and waited for, those that wait never begin."""
    told: list[BaseException] = []
    is_told, runs = threading.Event(), threading.Event()
    begun: list[int] = []

    def fail() -> int:
        assert runs.wait(PATIENCE_S)
        raise OSError("disk full")

    def long() -> int:
        runs.set()
        assert is_told.wait(PATIENCE_S)
        begun.append(2)
        return 2

    def never() -> int:
        begun.append(3)
        return 3

    def stop(error: BaseException) -> None:
        told.append(error)
        is_told.set()

    todo = [(lambda: 0, 1), (fail, 1), (long, 1), (never, 1)]
    before = threading.active_count()
    done = in_order(jobs_of(todo, []), threads=2, most=9, stop=stop)
    assert next(done) == 0
    with pytest.raises(OSError, match="disk full"):
        next(done)
    assert [str(error) for error in told] == ["disk full"]
    assert begun == [2]
    assert threading.active_count() == before


@pytest.mark.parametrize("at", ["asking", "taking"])
def test_whatever_ends_it_early_ends_the_jobs(at: str) -> None:
    """An error where jobs are made, or a caller who wants no more; what makes the jobs is closed too."""
    is_told, is_closed = threading.Event(), threading.Event()

    def long() -> int:
        assert is_told.wait(PATIENCE_S)
        return 0

    def jobs() -> Generator[Job[int], None, None]:
        try:
            yield Job(lambda: 7, 1)
            yield Job(long, 1)
            if at == "asking":
                raise ValueError("no such image")
            yield Job(long, 99)
        finally:
            is_closed.set()

    before = threading.active_count()
    done = in_order(jobs(), threads=2, most=9, stop=lambda error: is_told.set())
    assert next(done) == 7
    if at == "asking":
        with pytest.raises(ValueError, match="no such image"):
            list(done)
    else:
        done.close()
    assert is_told.is_set()
    assert is_closed.is_set()
    assert threading.active_count() == before


def test_a_job_sees_the_context_of_whoever_asked_for_it() -> None:
    """What the log is bound to is there in every thread."""
    bound: ContextVar[str] = ContextVar("bound", default="nothing")
    bound.set("run 7")
    jobs = (Job(bound.get, 1) for _ in range(3))
    assert list(in_order(jobs, threads=2, most=2)) == ["run 7"] * 3


def test_no_jobs_are_no_results() -> None:
    """Nor is it an error to be closed before the beginning."""
    assert list(in_order(jobs_of([], []), threads=2, most=1)) == []
    in_order(jobs_of([(lambda: 1, 1)], []), threads=2, most=1).close()
