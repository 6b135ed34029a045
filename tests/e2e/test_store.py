"""A run in a store: killed anywhere, raced, stopped, left without its store, it is seen whole or not at all.

The same in large, with more moments and other parts: benchmarks/kill_and_race.py.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from job.publish.published import PublishedRun, open_run
from job.storage import lease, s3_client
from job.storage.uris import open_store
from tests.e2e.attempts import TRY_AGAIN, Attempt, Bench, Reader, kill_after, moments, poll
from tests.fault_proxy import SLOW_DOWN, Delay, Fault, open_proxy
from tests.s3_server import Server

pytestmark = pytest.mark.timeout(600)  # each test is several runs, one after the other

TTL_S = 3.0
PULL_S, PUBLISH_S = 2.5, 2.0
"""What pull, with its imports, and publish take at least behind the slow proxy."""
COURSES = 3
"""Where this process got its turn so late that the training was over, another run is stopped."""
SLOW = (Fault(Delay(0.75), "GetObject", "data/*", None), Fault(Delay(0.15), "*", "*/runs/*", None))


@pytest.fixture(scope="module")
def bench(s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bucket with a dataset, in which an undisturbed run has ended: `warm`, on the disk of that name."""
    bench = Bench(s3_server, tmp_path_factory.mktemp("store"), TTL_S)
    try:
        bench.fill()
        warm = bench.start(bench.output("warm"), bench.folder / "warm", run_id="whole")
        assert warm.end() == 0, warm.stderr
        yield bench
    finally:
        bench.close()


@pytest.fixture(autouse=True)
def _of_the_server(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_client.forget()


def shown(bench: Bench, output: str, run_id: str = "r") -> PublishedRun:
    """Return what readers see of a run, which must be something."""
    run = open_run(open_store(bench.output(output)), f"runs/tiny/{run_id}")
    assert run is not None
    return run


def wait_for_the_lease(bench: Bench, output: str, run_id: str = "r") -> None:
    """Return when nobody is thought to work on a run: an attempt that starts before is told to try again."""

    def is_free() -> bool:
        found = lease.read(open_store(bench.output(output)), f"runs/tiny/{run_id}/lease.json")
        return found is None or not found.is_live

    poll(is_free)


def begun(attempt: Attempt, holds: Callable[[Attempt], bool]) -> Attempt:
    """Wait until an attempt is where it should be."""
    assert attempt.wait_until(partial(holds, attempt)), attempt.stderr
    return attempt


def holds_the_run(attempt: Attempt) -> bool:
    """It works on the run, and pull is next."""
    return bool(attempt.named("lease.acquired"))


def is_judged(attempt: Attempt) -> bool:
    """Publish is next: evaluate was computed, or found where an earlier attempt had brought it in time."""
    events = attempt.named("stage.finished", stage="evaluate") + attempt.named(
        "stage.reused", stage="evaluate"
    )
    return bool(events)


def kill(attempt: Attempt, after_s: float) -> None:
    """Kill an attempt, which must not have ended before."""
    last = kill_after(attempt, after_s)
    assert attempt.end() == -signal.SIGKILL, last


def reader_of(bench: Bench, output: str, run_id: str = "r") -> Reader:
    """Return somebody who trusts the marker alone."""
    return Reader(open_store(bench.output(output)), f"runs/tiny/{run_id}", bench.folder / "reading")


def test_killed_three_times_in_pull_a_run_ends_like_an_undisturbed_one(bench: Bench) -> None:
    """From nothing, the next disk the same one or empty: the same results, and nothing else is ever shown."""
    output, disk, reader = bench.output("cold"), bench.disk(), reader_of(bench, "cold")
    with open_proxy(bench.server, *SLOW) as proxy, reader.reading():
        start = partial(bench.start, output, endpoint=proxy.endpoint)
        for number, moment in enumerate(moments(0.0, PULL_S, 3, random.Random(4))):
            wait_for_the_lease(bench, "cold")
            kill(begun(start(disk), holds_the_run), moment)
            disk = disk if number % 2 else bench.disk()
        assert not reader.seen
        wait_for_the_lease(bench, "cold")
        last = bench.until_done(output, disk, endpoint=proxy.endpoint)[-1]
        assert last.end() == 0, last.stderr
    assert reader.problems == []
    assert len(reader.seen) == 1
    undisturbed = shown(bench, "warm", "whole").manifest
    assert shown(bench, "cold").manifest.results_digest == undisturbed.results_digest


def test_killed_three_times_in_publish_a_run_is_seen_whole_or_not_at_all(bench: Bench) -> None:
    """The stages are there already; files, manifest and marker are not."""
    output, disk, reader = bench.output("warm"), bench.folder / "warm", reader_of(bench, "warm", "killed")
    with open_proxy(bench.server, *SLOW) as proxy, reader.reading():
        start = partial(bench.start, output, run_id="killed", endpoint=proxy.endpoint)
        for number, moment in enumerate(moments(0.0, PUBLISH_S, 3, random.Random(4))):
            wait_for_the_lease(bench, "warm", "killed")
            kill(begun(start(disk), is_judged), moment)
            disk = disk if number % 2 else bench.disk()
        wait_for_the_lease(bench, "warm", "killed")
        last = bench.until_done(output, disk, run_id="killed", endpoint=proxy.endpoint)[-1]
        assert last.end() == 0, last.stderr
    assert reader.problems == []
    assert len(reader.seen) == 1
    undisturbed = shown(bench, "warm", "whole").manifest
    assert shown(bench, "warm", "killed").manifest.results_digest == undisturbed.results_digest


def test_of_two_attempts_at_once_exactly_one_publishes(bench: Bench) -> None:
    """The other one is told to try again, or finds the run done; the manifest is the winner's alone."""
    run_id = "raced"
    reader = reader_of(bench, "warm", run_id)
    with reader.reading():
        disks = bench.folder / "warm", bench.folder / "other"
        both = [bench.start(bench.output("warm"), disk, run_id=run_id) for disk in disks]
        codes = sorted(one.end() for one in both)
    assert reader.problems == []
    done = [one for one in both if one.named("job.already_done")]
    assert codes == ([0, 0] if done else [0, TRY_AGAIN])
    (published,) = [event for one in both for event in one.named("run.published")]
    manifest = shown(bench, "warm", run_id).manifest
    assert manifest.attempt == published["attempt"]
    assert {facts.key.split("/")[0] for facts in manifest.files.values()} == {f"attempt-{manifest.attempt}"}


def test_an_attempt_that_wakes_up_after_its_lease_ran_out_publishes_nothing(bench: Bench) -> None:
    """It was stopped while it published; another took over and ended: it notices before it writes."""
    reader = reader_of(bench, "warm", "stalled")
    slower = Fault(Delay(1.0), "PutObject", "*/stalled/attempt-1/*", None)
    with open_proxy(bench.server, slower, *SLOW) as proxy, reader.reading():
        out, disk = bench.output("warm"), bench.folder / "warm"
        one = bench.start(out, disk, run_id="stalled", endpoint=proxy.endpoint)
        assert one.wait_for("stage.reused", stage="evaluate")
        poll(lambda: proxy.count("PutObject", "*/stalled/attempt-1/*") > 0)
        one.send(signal.SIGSTOP)
        wait_for_the_lease(bench, "warm", "stalled")
        other = bench.until_done(out, bench.folder / "other", run_id="stalled")[-1]
        one.send(signal.SIGCONT)
        assert (one.end(), other.end()) == (TRY_AGAIN, 0), one.stderr
    assert reader.problems == []
    assert not one.named("run.published")
    assert "attempt 2" in one.stderr
    assert shown(bench, "warm", "stalled").manifest.attempt == 2


def test_sigterm_brings_the_work_to_the_store_and_lets_go_of_the_run(bench: Bench) -> None:
    """75 within 25 s; the next attempt, on an empty disk, waits for nobody and goes on with the training."""
    steps = 2_500
    longer = (
        f"--set=finetune.total_timesteps={steps}", "--set=finetune.n_steps=64", "--set=finetune.seeds=1",
        "--set=finetune.checkpoint_every=1000", "--set=runtime.progress_every_s=0.2",
    )  # fmt: skip
    training = {"what": "training the policy"}
    for number in range(COURSES):
        settings = (*longer, f"--set=finetune.learning_rate={1e-3 * (1 + number)}")  # not trained yet
        run_id = f"stopped-{number}"
        first = bench.start(bench.output("warm"), bench.folder / "warm", *settings, run_id=run_id)
        assert first.wait_until(lambda: any(one["done"] > 600 for one in first.named("progress", **training)))  # noqa: B023
        asked = time.monotonic()
        first.send(signal.SIGTERM)
        assert first.end() == 75, first.stderr
        assert time.monotonic() - asked < 25
        if not first.named("stage.finished", stage="finetune"):
            break

    again = bench.start(bench.output("warm"), bench.disk(), *settings, run_id=run_id)
    assert again.end() == 0, again.stderr
    assert again.named("lease.acquired") == again.named("lease.acquired", attempt=2, taken_over=False)
    assert [e["stage"] for e in again.named("stage.reused")] == ["pull", "table", "reward", "audit"]
    assert any(event["what"].startswith("work/finetune-") for event in again.named("store.restored"))
    done, then = (attempt.named("progress", **training) for attempt in (first, again))
    assert done[-1]["done"] < steps
    assert then[0]["done"] > 500


def test_a_store_that_is_down_for_a_while_stops_no_run(bench: Bench) -> None:
    """Results wait for it; what is published then is whole."""
    with open_proxy(bench.server) as proxy:
        job = bench.start(
            bench.output("warm"), bench.folder / "warm", run_id="down", endpoint=proxy.endpoint, ttl_s=60.0
        )
        assert job.wait_for("stage.reused", stage="pull")
        proxy.faults.append(Fault(SLOW_DOWN, times=None))
        poll(lambda: sum(seen.status == 503 for seen in list(proxy.seen)) >= 3)
        proxy.faults.clear()
        assert job.end() == 0, job.stderr
    assert shown(bench, "warm", "down").verify() == []


def test_another_spec_under_the_same_run_id_is_refused_on_an_empty_disk(bench: Bench) -> None:
    """Whether the first run is unfinished or finished: exit 2, with what to do."""
    first = bench.start(bench.output("warm"), bench.folder / "warm", run_id="named")
    assert first.wait_for("lease.acquired")
    kill(first, 0.0)
    others = {
        run_id: bench.start(bench.output("warm"), bench.disk(), "--set=seed=7", run_id=run_id)
        for run_id in ("named", "whole")
    }
    for run_id, other in others.items():
        assert other.end() == 2, (run_id, other.stderr)
        assert "leave out --run-id" in other.stderr


def test_the_log_in_the_store_tells_the_end(bench: Bench) -> None:
    """Who has only the store reads how the run ended."""
    store = open_store(bench.output("warm"))
    log = store.read("runs/tiny/whole/attempt-1/job.log.jsonl")[0].decode().splitlines()
    assert '"job.finished"' in log[-1]


def test_the_reader_of_these_tests_sees_a_run_that_is_not_whole(bench: Bench, tmp_path: Path) -> None:
    """A missing object and a run that goes away are problems to it."""
    server, prefix = bench.server, "torn/runs/tiny/r"
    source = "warm/runs/tiny/whole"
    client = server.client()
    for found in client.list_objects_v2(Bucket=server.bucket, Prefix=f"{source}/")["Contents"]:
        key = found["Key"].replace(source, prefix)
        client.copy_object(Bucket=server.bucket, Key=key, CopySource=f"{server.bucket}/{found['Key']}")
    reader = reader_of(bench, "torn")
    reader.look()
    assert reader.problems == []
    client.delete_object(Bucket=server.bucket, Key=f"{prefix}/attempt-1/report.md")
    torn = reader_of(bench, "torn")
    torn.look()
    assert torn.problems == ["report.md is missing"]
    client.delete_object(Bucket=server.bucket, Key=f"{prefix}/_SUCCESS")
    reader.look()
    assert reader.problems == ["a run that was shown is gone"]
