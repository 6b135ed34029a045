"""Of several attempts at one run, exactly one works on it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from job.errors import Denied, IntegrityError, JobError, StoreFailure, TryAgain
from job.storage import lease
from job.storage.lease import Lease, hold, read
from job.storage.local_store import LocalStore
from job.storage.store import ObjectStore
from job.storage.uris import open_store
from tests.storage.mirrored import Clock, Told, Watch, Watched

KEY = "runs/x/1/lease.json"
NEVER = 1e6


class World:
    """A store whose clock and failures the test rules, and attempts at one run."""

    def __init__(self, store: ObjectStore) -> None:
        self.watch, self.told, self.clock = Watch(), Told(), Clock()
        self.store = Watched(store, self.watch)
        self.lost: list[JobError] = []
        self.facts: dict[str, Any] = {"stage": "table"}

    def attempt(self, holder: str, **changes: Any) -> AbstractContextManager[Lease]:
        arguments: dict[str, Any] = {
            "holder": holder, "facts": lambda: self.facts, "on_lost": self.lost.append, "log": self.told.log,
            "renew_s": NEVER, "clock": self.clock,
        }  # fmt: skip
        return hold(self.store, KEY, **(arguments | changes))

    def seen(self) -> lease.LeaseRecord:
        found = read(self.store, KEY)
        assert found is not None
        return found


@pytest.fixture(params=["local", "s3"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "local":
        return World(LocalStore(tmp_path))
    return World(open_store(request.getfixturevalue("s3_prefix")))


@pytest.fixture
def local(tmp_path: Path) -> World:
    return World(LocalStore(tmp_path))


def test_a_live_lease_keeps_others_out_and_says_who_holds_it(world: World) -> None:
    """Whoever comes second learns whom to wait for, and may take over at once when the first lets go."""
    assert read(world.store, KEY) is None
    with world.attempt("a") as held:
        assert (held.attempt, held.taken_over) == (1, False)
        seen = world.seen()
        assert (seen.holder, seen.attempt, seen.released, seen.is_live) == ("a", 1, False, True)
        assert seen.facts == {"stage": "table"}
        with pytest.raises(TryAgain, match=r"a, attempt 1, at the stage table") as caught, world.attempt("b"):
            pytest.fail("two hold it")
        assert "60 s" in caught.value.advice
        held.check()
        held.finish(state="finished", exit_code=0)
        held.finish(state="nonsense")
    seen = world.seen()
    assert (seen.released, seen.is_live) == (True, False)
    assert seen.facts == {"stage": "table", "state": "finished", "exit_code": 0}
    with world.attempt("b") as held:
        assert (held.attempt, held.taken_over) == (2, False)
    assert [event["attempt"] for event in world.told.events("lease.acquired")] == [1, 2]
    assert world.lost == []


def test_a_silent_holder_loses_its_lease_and_learns_of_it(world: World) -> None:
    """By the store's clock; the old one may neither publish nor let go of what is no longer its own."""
    with world.attempt("a") as old:
        world.watch.later_s = 58.0
        with pytest.raises(TryAgain), world.attempt("b"):
            pytest.fail("two hold it")
        world.watch.later_s = 62.0
        with world.attempt("b") as new:
            assert (new.attempt, new.taken_over) == (2, True)
            with pytest.raises(TryAgain, match="went to b, attempt 2"):
                old.check()
            with pytest.raises(TryAgain, match="went to b"):
                old.check()
            old.finish(state="finished")
            assert (world.seen().holder, world.seen().released) == ("b", False)
            new.check()
    assert world.seen().facts == {"stage": "table"}


def test_renewal_tells_what_the_work_does_and_keeps_the_lease_young(local: World) -> None:
    """Facts add up: what the work no longer says stays."""
    with local.attempt("a") as held:
        before = local.seen().etag
        local.facts = {"progress": "table 3/10", "eta_s": float("nan")}
        held.renew()
        seen = local.seen()
        assert seen.etag != before
        assert seen.facts == {"stage": "table", "progress": "table 3/10", "eta_s": None}
        assert seen.age_s < 5


def test_the_background_renews(local: World) -> None:
    """The thread does what `renew` does, until the block ends."""
    renewed = threading.Event()
    local.watch.hook = lambda operation, key: renewed.set() if operation == "replace" else None
    with local.attempt("a", renew_s=0.01):
        assert renewed.wait(10)
    assert local.seen().released
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_a_lost_renewal_stops_the_work(local: World) -> None:
    """The thread tells once; nothing is renewed after that."""
    with local.attempt("a") as old:
        local.watch.later_s = 62.0
        with local.attempt("b"):
            old.renew()
            assert [type(error) for error in local.lost] == [TryAgain]
            asked = len(local.watch.asked)
            old.renew()
            assert len(local.watch.asked) == asked
            assert len(local.lost) == 1


def failing(error: Exception) -> Callable[[str, str], None]:
    def hook(operation: str, key: str) -> None:
        if operation == "replace":
            raise error

    return hook


@pytest.mark.parametrize("error", [StoreFailure("down"), Denied("no"), RuntimeError("a defect")])
def test_a_store_that_fails_longer_than_the_lease_lasts_loses_it(local: World, error: Exception) -> None:
    """We cannot know who holds it then; a shorter failure is borne and told of."""
    with local.attempt("a") as held:
        local.watch.hook = failing(error)
        local.clock.now += 59
        held.renew()
        assert local.lost == []
        assert [event["what"] for event in local.told.events("store.retrying")] == ["lease"]
        local.clock.now += 2
        held.renew()
        assert "60 s" in str(local.lost[0])


def test_a_failure_that_ends_in_time_is_forgotten(local: World) -> None:
    """The lease lasts from the renewal that succeeded."""
    with local.attempt("a") as held:
        local.watch.hook = failing(StoreFailure("down"))
        local.clock.now += 50
        held.renew()
        local.watch.hook = lambda operation, key: None
        held.renew()
        local.watch.hook = failing(StoreFailure("down"))
        local.clock.now += 50
        held.renew()
        assert local.lost == []


def test_a_renewal_whose_answer_was_lost_is_our_own(local: World) -> None:
    """The store did as asked, the answer never came: the next renewal finds another version of its own."""
    with local.attempt("a") as held:
        lost = iter([True])

        def hook(operation: str, key: str) -> None:
            if operation == "replace" and next(lost, False):
                local.store.store.replace(key, local.store.store.read(key)[0] + b" ", held.etag)
                raise StoreFailure("no answer")

        local.watch.hook = hook
        held.renew()
        held.renew()
        held.check()
        assert local.lost == []


def test_an_exception_lets_go_with_what_is_known(local: World) -> None:
    """The next attempt need not wait; a store that fails at the end hides no error."""

    def die(hook: Callable[[str, str], None]) -> None:
        with local.attempt("a"):
            local.facts, local.watch.hook = {"state": "failed"}, hook
            raise KeyError

    with pytest.raises(KeyError):
        die(lambda operation, key: None)
    assert (local.seen().released, local.seen().facts) == (True, {"stage": "table", "state": "failed"})
    with pytest.raises(KeyError):
        die(failing(StoreFailure("down")))
    assert not local.seen().released


def test_a_lease_that_is_removed_is_lost(world: World) -> None:
    """Somebody removed the run below us."""
    with world.attempt("a") as held:
        world.store.delete([KEY])
        held.renew()
        assert "removed" in str(world.lost[0])


def test_an_empty_lease_runs_out_and_the_next_attempt_has_a_number_of_its_own(world: World) -> None:
    """A process was killed between the head and the body of its renewal, and the store kept that."""
    world.store.write(KEY, b"")
    for number in (1, 12, 9):
        world.store.write(f"runs/x/1/attempt-{number}/job.log.jsonl", b"{}")
    with pytest.raises(TryAgain, match="connection was cut, attempt 12"), world.attempt("b"):
        pass
    world.watch.later_s = 61.0
    with world.attempt("b") as held:
        assert (held.attempt, held.taken_over) == (13, True)
        assert world.seen().holder == "b"


@pytest.mark.parametrize("text", ["{}", '{"holder": "a", "attempt": 0}', "[1]"])
def test_another_file_in_its_place_is_named(local: World, text: str) -> None:
    """It is neither a free run nor somebody's."""
    local.store.write(KEY, text.encode())
    with pytest.raises(IntegrityError, match=r"lease\.json"):
        read(local.store, KEY)


def test_without_conditional_writes_the_last_writer_stays(local: World) -> None:
    """The other one sees it when it looks again, and the user is told that this is not sure."""

    def overwrite(holder: bytes) -> None:
        local.store.write(KEY, local.store.read(KEY)[0].replace(b'"a"', holder))

    with local.attempt("a", conditional=False, wait=lambda _: None) as held:
        assert "cannot be told apart" in local.told.events("job.warning")[0]["message"]
        held.check()
        overwrite(b'"b"')
        held.renew()
        assert "went to b" in str(local.lost[0])
    local.store.delete([KEY])
    with (
        pytest.raises(TryAgain, match="worked on by c"),
        local.attempt("a", conditional=False, wait=lambda _: overwrite(b'"c"')),
    ):
        pytest.fail("the other one stays")


def race(world: World, names: str, **changes: Any) -> list[int]:
    """Let a thread a name go for the lease at once; returns the attempts' numbers of who got it.

    Whoever has it keeps it until all others have been turned away.
    """
    start, turned_away = threading.Barrier(len(names)), threading.Semaphore(0)
    inside: list[int] = []

    def go(name: str) -> None:
        start.wait()
        try:
            with world.attempt(name, **changes) as held:
                inside.append(held.attempt)
                for _ in names[1:]:
                    assert turned_away.acquire(timeout=20), "two hold it"
        except TryAgain:
            turned_away.release()

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(go, names))
    return inside


def test_of_racing_attempts_exactly_one_holds_it(world: World) -> None:
    """Twenty rounds of four: one each, and every number is higher than all before."""
    assert [race(world, "abcd") for _ in range(20)] == [[number] for number in range(1, 21)]


def test_of_those_who_take_over_exactly_one_does(local: World) -> None:
    """A lease that ran out is as contested as one that was never there."""
    with local.attempt("dead"):
        local.watch.later_s = 62.0
        # Theirs last a day: by the store's clock, which is ahead, the new one would look silent as well.
        assert race(local, "abcd", ttl_s=86_400.0) == [2]
