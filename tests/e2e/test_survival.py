"""Stopped or killed anywhere, the same command goes on and ends as if nothing had happened.

The same with hundreds of blows: `make soak N=200`.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job.storage import s3_client
from tests.e2e.attempts import Bench
from tests.e2e.child import ROOT, TINY
from tests.e2e.survival import (
    STAGES,
    Blow,
    Course,
    Suffered,
    Undisturbed,
    drawn,
    left_behind,
    start_locally,
    torn_lines,
)
from tests.s3_server import Server

pytestmark = pytest.mark.timeout(900)  # two dozen attempts, one after the other

SEED = 5
PATH = "runs/tiny/r"
TTL_S = 3.0
COURSES = 3
"""Where a blow came too late for its stage, on a machine that became quicker, another run gets it."""
LONGER = (
    "runtime.threads=1", "data.synthetic.train=10", "data.synthetic.validation=10", "data.synthetic.test=12",
    "reward.network.epochs=2", "finetune.seeds=1", "finetune.total_timesteps=1600", "finetune.n_steps=32",
    "finetune.checkpoint_every=500",
)  # fmt: skip
"""Every stage takes long enough to be hit within."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Undisturbed]:
    """A run that nothing happens to: its folder, its digest and how long its stages take."""
    root = tmp_path_factory.mktemp("undisturbed")
    attempt = start_locally(TINY, root, *LONGER)
    assert attempt.end() == 0, attempt.stderr
    return root, Undisturbed.of(attempt, str(root / "output"), PATH)


def test_two_stops_and_a_kill_in_every_stage_change_nothing(
    undisturbed: tuple[Path, Undisturbed], tmp_path: Path
) -> None:
    """75 in time for each SIGTERM, then 0: equal results, policies and curves, nothing torn, nothing left."""
    whole, facts = undisturbed
    blows, suffered = drawn(random.Random(SEED), ("SIGTERM", "SIGTERM", "SIGKILL")), []
    for number in range(COURSES):
        root = tmp_path / str(number)
        start = partial(start_locally, TINY, root, *LONGER)
        course = Course(start, str(root / "output"), PATH, root, facts)
        fell = [course.suffer(blow) for blow in blows]
        run = root / "output" / PATH
        if not (run / "_SUCCESS").exists():
            with (run / "job.log.jsonl").open("ab") as log:
                log.write(b'{"event": "stage.st')  # what a kill in the middle of a line leaves
        last, problems = course.finish()
        tell(fell)
        assert problems + [problem for one in fell for problem in one.problems] == []
        assert last.named("job.finished")
        assert left_behind(root / "output") == []
        assert torn_lines(run / "job.log.jsonl") == []
        assert_computed_once(run / "job.log.jsonl")
        assert_same_training(run, whole / "output" / PATH)
        suffered += fell
        blows = late(blows, fell)
        if not blows:
            break
    assert blows == [], f"never in their stages: {blows}"
    in_stage = {stage: sorted(one.signal for one in suffered if one.stage == stage) for stage in STAGES}
    assert all(names.count("SIGTERM") >= 2 and "SIGKILL" in names for names in in_stage.values()), in_stage


def test_a_stage_goes_on_with_another_number_of_threads_and_says_so(tmp_path: Path) -> None:
    """A resume elsewhere may end with other bits: the record names every machine that worked on a stage."""
    longer = (
        "finetune.seeds=1",
        "finetune.total_timesteps=3200",
        "finetune.n_steps=32",
        "runtime.progress_every_s=0.01",
    )
    training = {"what": "training the policy"}
    for number in range(COURSES):
        root = tmp_path / str(number)
        first = start_locally(TINY, root, *longer, "runtime.threads=1")
        assert first.wait_until(lambda: any(one["done"] > 100 for one in first.named("progress", **training)))  # noqa: B023
        first.send(signal.SIGTERM)
        assert first.end() == 75, first.stderr
        if not first.named("stage.finished", stage="finetune"):
            break
    again = start_locally(TINY, root, *longer, "runtime.threads=2")
    assert again.end() == 0, again.stderr
    info = json.loads((root / "output" / PATH / "training_info.json").read_text())
    threads = {
        one["name"]: [machine.rpartition(": ")[2] for machine in one["machines"]] for one in info["stages"]
    }
    before = {stage: ["1"] for stage in STAGES[:4]}
    assert threads == {**before, "finetune": ["1", "2"], "evaluate": ["2"]}
    report = (root / "output" / PATH / "report.md").read_text()
    assert "threads: 1 (pull, table, reward, audit, finetune)" in report
    # Behind its first rollout of 32: of the three that were made, the last was not learned from yet.
    assert again.named("progress", **training)[0]["done"] >= 64


def test_a_log_that_nobody_reads_stops_no_run(tmp_path: Path) -> None:
    """`python -m job ... | head -1`: the reader leaves, the work goes on, the log file has every line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "job", TINY, "--set", "runtime.threads=1"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        run = Path(json.loads(child.stdout.readline())["run_uri"])
        child.stdout.close()
        assert child.wait(timeout=100) == 0
    assert (run / "_SUCCESS").is_file()
    events = [json.loads(line)["event"] for line in (run / "job.log.jsonl").read_text().splitlines()]
    assert events[-1] == "job.finished"


@pytest.fixture
def bench(
    s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Bench]:
    """A bucket with a dataset in the real server."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_client.forget()
    bench = Bench(s3_server, tmp_path, TTL_S)
    try:
        bench.fill()
        yield bench
    finally:
        bench.close()


def test_in_a_store_every_attempt_may_begin_with_an_empty_disk(bench: Bench) -> None:
    """A stop or a kill in every stage, the machine lost each time: equal results, published once, whole."""
    longer = ("--set=reward.network.epochs=2", "--set=finetune.total_timesteps=640")
    whole = bench.start(bench.output("whole"), bench.disk(), *longer)
    assert whole.end() == 0, whole.stderr
    facts = Undisturbed.of(whole, bench.output("whole"), PATH)
    rng = random.Random(SEED)
    blows = [
        blow
        for i, stage in enumerate(STAGES)
        for blow in drawn(rng, ("SIGKILL",) if i % 2 else ("SIGTERM",), (stage,))
    ]
    for number in range(COURSES):
        output = bench.output(f"survivor-{number}")
        course = Course(lambda: bench.start(output, bench.disk(), *longer), output, PATH, None, facts)  # noqa: B023
        fell = [course.suffer(blow) for blow in blows]
        last, problems = course.finish()
        tell(fell)
        assert problems + [problem for one in fell for problem in one.problems] == []
        assert len(last.named("run.published") + last.named("job.already_done")) == 1
        blows = late(blows, fell)
        if not blows:
            break
    assert blows == [], f"never in their stages: {blows}"


def late(blows: list[Blow], fell: list[Suffered]) -> list[Blow]:
    """Return the blows that came when their stage was over, a quarter as late."""
    return [
        Blow(blow.stage, blow.signal, blow.share / 4)
        for blow, one in zip(blows, fell, strict=True)
        if one.stage != blow.stage
    ]


def tell(fell: list[Suffered]) -> None:
    """Print what happened, so that a failure can be repeated."""
    lines = [f"seed {SEED}", *(one.to_json() for one in fell)]
    stops = [one.seconds for one in fell if one.signal == "SIGTERM" and one.stage]
    lost = [one.lost_s for one in fell if one.signal == "SIGKILL" and one.stage]
    lines.append(
        f"to the exit at most {max(stops, default=0)} s; a kill cost at most {max(lost, default=0)} s"
    )
    sys.stdout.write("\n".join([*lines, ""]))


def assert_computed_once(log: Path) -> None:
    """No attempt computed what another one had finished."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    finished = [one["stage"] for one in events if one["event"] == "stage.finished"]
    assert len(finished) == len(set(finished)), finished


def assert_same_training(run: Path, whole: Path) -> None:
    """The policy has the same bits, and its curves the same points, each once."""
    assert (run / "policy.safetensors").read_bytes() == (whole / "policy.safetensors").read_bytes()
    found, wanted = curves(run), curves(whole)
    assert found == wanted
    assert wanted["rollout/ep_rew_mean"], "no curve"
    for points in found.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return every TensorBoard point but the speed's."""
    events = EventAccumulator(str(run / "logs" / "PPO_1"))
    events.Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "time/fps"
    }
