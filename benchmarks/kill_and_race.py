"""Kill a job in a store anywhere, race it against itself, take its store away: what do readers see?

    python -m benchmarks.kill_and_race [--kills 10] [--races 20] [--stalls 6] [--only pull ...] [--folder DIR]

A SeaweedFS server is started on the loopback interface, with a dataset in its bucket; the output of every run
is in the bucket too. Where the moment of a kill is drawn, a proxy slows the requests, so that moments fall
between them. Leases run out after `--ttl` seconds; in the parts `down` and `dead` after 60, as users have it.

    pull, publish   kill -9 at random moments, one in each of equal parts of the stage's time; then the same
                    command, on the same disk and an empty one in turn, until it ends
    race            two attempts at once at one run, on two disks
    stall           an attempt is stopped (SIGSTOP) in publish for longer than its lease; another takes over
                    and ends or is at work when the first one wakes up
    stop            SIGTERM, and SIGKILL, in PPO's training; the next attempt has an empty disk
    down            the store answers 503 for 30 s, in the training and again while the results go up
    dead            the store answers 503 until the job ends; then it is back
    other           another spec under the same run id: the first run unfinished, then finished; an empty disk

Somebody reads the run all the time, past the proxy, trusting `_SUCCESS` alone: what is shown is verified.
Exit code 1 when anything is not as it should be.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from job.publish.published import open_run
from job.storage.manifest import Manifest
from job.storage.uris import open_store
from tests.e2e.attempts import TRY_AGAIN, Attempt, Bench, Reader, kill_after, moments, take_away
from tests.fault_proxy import Delay, Fault, open_proxy
from tests.s3_server import serve

REAL_TTL_S = 60.0
DOWN_S = 30.0
ENDS_WITHIN_S = 25.0
PUBLISH_S = 4.5
"""What publishing takes behind the slow proxy."""
STEPS = 25_000
TRAINING = tuple(
    f"--set={field}"
    for field in (
        f"finetune.total_timesteps={STEPS}", "finetune.n_steps=128", "finetune.seeds=1",
        "finetune.checkpoint_every=2500", "runtime.progress_every_s=0.5",
    )
)  # fmt: skip


@dataclass
class Scene:
    """What every part works with."""

    bench: Bench
    rng: random.Random
    kills: int
    races: int
    stalls: int
    problems: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def whole(self, *more: str) -> str:
        """Return the results' digest of an undisturbed run."""
        name = "whole" if not more else "whole-training"
        if name not in self.digests:
            out = self.bench.output(name)
            run = self.bench.start(out, self.bench.disk(), *more)
            assert run.end() == 0, run.stderr
            self.digests[name] = self.manifest(out).results_digest
        return self.digests[name]

    def manifest(self, out: str, run_id: str = "r") -> Manifest:
        """Return the manifest of a run that its marker shows."""
        run = open_run(open_store(out), f"runs/tiny/{run_id}")
        assert run is not None, f"{out}: nothing is shown"
        return run.manifest

    def reader(self, out: str, run_id: str = "r") -> Reader:
        """Return somebody who reads a run."""
        return Reader(open_store(out), f"runs/tiny/{run_id}", self.bench.folder / "reading")

    def row(self, *cells: object, problems: list[str]) -> None:
        """Print a line of a part's table."""
        self.problems += [f"{cells[0]}: {problem}" for problem in problems]
        print(*cells, "; ".join(problems) or "ok", sep=" | ", flush=True)

    def wrong_end(self, out: str, last: Attempt, *more: str) -> list[str]:
        """Return what is wrong with a run that should be like an undisturbed one."""
        if last.end() != 0:
            return [f"exit code {last.end()}: {last.stderr.strip()}"]
        same = self.manifest(out).results_digest == self.whole(*more)
        return [] if same else ["other results than an undisturbed run"]

    def wrong_race(self, out: str, run_id: str, attempts: tuple[Attempt, ...]) -> list[str]:
        """Return what is wrong where exactly one of several attempts should have published."""
        manifest = self.manifest(out, run_id)
        published = [event["attempt"] for one in attempts for event in one.named("run.published")]
        holders = {facts.key.split("/")[0] for facts in manifest.files.values()}
        problems = [] if len(published) == 1 else [f"{len(published)} published"]
        if published != [manifest.attempt] or holders != {f"attempt-{manifest.attempt}"}:
            problems.append(f"published {published}, the manifest says {manifest.attempt}, {holders}")
        codes = [one.end() for one in attempts]
        if 0 not in codes or not set(codes) <= {0, TRY_AGAIN}:
            problems.append(f"exit codes {codes}")
        return problems + ([] if manifest.results_digest == self.whole() else ["other results"])


def pull(scene: Scene) -> None:
    """Kill between `lease.acquired` and the end of the stage pull."""
    _kill(scene, "pull", {"event": "lease.acquired"}, {"event": "stage.finished", "stage": "pull"})


def publish(scene: Scene) -> None:
    """Kill between the end of the stage evaluate and the end of the job."""
    _kill(scene, "publish", {"event": "stage.finished", "stage": "evaluate"}, {"event": "job.finished"})


def _kill(scene: Scene, part: str, begin: dict[str, str], end: dict[str, str]) -> None:
    bench = scene.bench
    slow = Fault(Delay(1.0), "GetObject", "data/*", None), Fault(Delay(0.25), "*", "*/runs/*", None)
    with open_proxy(bench.server, *slow) as proxy:
        whole = bench.start(bench.output(f"{part}-whole"), bench.disk(), endpoint=proxy.endpoint)
        whole.wait_for(**begin)
        started = time.monotonic()
        whole.wait_for(**end)
        window = time.monotonic() - started
        assert whole.end() == 0, whole.stderr
        assert scene.manifest(bench.output(f"{part}-whole")).results_digest == scene.whole()
        print(f"{part}: {window:.1f} s undisturbed; results {scene.whole()[:12]}")
        _head(part, "killed after s", "its last event", "shown then", "next disk", "attempts", "done after s")
        for i, moment in enumerate(moments(0.0, window, scene.kills, scene.rng)):
            out, disk = bench.output(f"{part}-{i}"), bench.disk()
            reader = scene.reader(out)
            with reader.reading():
                first = bench.start(out, disk, endpoint=proxy.endpoint)
                first.wait_for(**begin)
                at = kill_after(first, moment)
                killed = time.monotonic()
                reader.look()
                shown = len(reader.seen)
                is_same = i % 2 == 0
                again = bench.until_done(out, disk if is_same else bench.disk())
            scene.row(
                part, f"{moment:.1f}", at, shown, "same" if is_same else "empty", len(again),
                f"{time.monotonic() - killed:.0f}",
                problems=reader.problems + scene.wrong_end(out, again[-1]),
            )  # fmt: skip


def race(scene: Scene) -> None:
    """Start two attempts at one run at once."""
    bench, out = scene.bench, scene.bench.output("race")
    disks = bench.disk(), bench.disk()
    _head("race", "apart s", "exit codes", "attempt", "the other one")
    for i in range(scene.races):
        run_id, apart = f"r{i}", scene.rng.uniform(0.0, 0.3)
        reader = scene.reader(out, run_id)
        with reader.reading():
            one = bench.start(out, disks[i % 2], run_id=run_id)
            time.sleep(apart)
            other = bench.start(out, disks[1 - i % 2], run_id=run_id)
            codes = one.end(), other.end()
        found = [a for a in (one, other) if a.named("job.already_done")]
        scene.row(
            "race", f"{apart:.2f}", codes, scene.manifest(out, run_id).attempt,
            "found it done" if found else "was refused",
            problems=reader.problems + scene.wrong_race(out, run_id, (one, other)),
        )  # fmt: skip
    status = bench.command("status", out, "--verify")
    scene.row(
        "race", "status --verify", status.returncode, problems=[status.stdout] * bool(status.returncode)
    )


def stall(scene: Scene) -> None:
    """Stop an attempt in publish until it has lost its lease, and wake it up."""
    bench = scene.bench
    _head("stall", "stopped after s", "its last event", "woken up when the other", "exit codes", "attempt")
    with open_proxy(bench.server, Fault(Delay(0.25), "*", "*/runs/*", None)) as proxy:
        for i, moment in enumerate(moments(0.0, PUBLISH_S, scene.stalls, scene.rng)):
            out, disk = bench.output(f"stall-{i}"), bench.disk()
            reader = scene.reader(out)
            with reader.reading():
                one = bench.start(out, bench.disk(), endpoint=proxy.endpoint)
                one.wait_for("stage.finished", stage="evaluate")
                time.sleep(moment)
                one.send(signal.SIGSTOP)
                at = one.last
                other = bench.start(out, disk, endpoint=proxy.endpoint)
                while not other.wait_for("lease.acquired") and other.end() == TRY_AGAIN:
                    other = bench.start(out, disk, endpoint=proxy.endpoint)
                if i % 2 == 0:
                    other.wait_for("stage.reused", stage="evaluate")
                    time.sleep(scene.rng.uniform(0.0, PUBLISH_S))
                else:
                    other.end()
                woken = other.last
                one.send(signal.SIGCONT)
                codes = one.end(), other.end()
            scene.row(
                "stall", f"{moment:.1f}", at, woken, codes, scene.manifest(out).attempt,
                problems=reader.problems + scene.wrong_race(out, "r", (one, other)),
            )  # fmt: skip


def stop(scene: Scene) -> None:
    """End an attempt in the middle of the training and go on with an empty disk."""
    bench = scene.bench
    whole = bench.start(bench.output("whole-training"), bench.disk(), *TRAINING)
    assert whole.end() == 0, whole.stderr
    took = whole.named("stage.finished", stage="finetune")[0]["seconds"]
    print(f"stop: {took:.0f} s undisturbed for {STEPS} steps")
    _head("stop", "signal", "code", "ended after s", "attempts", "steps", "then from", "s lost", "restored")
    for how in ("SIGTERM", "SIGKILL", "SIGTERM, store silent"):
        out = bench.output(f"stop-{len(how)}-{how[:7]}")
        with open_proxy(bench.server) as proxy:
            first = bench.start(out, bench.disk(), *TRAINING, endpoint=proxy.endpoint)
            first.wait_for("progress", what="training the policy")
            time.sleep(0.7 * took)
            if how.endswith("silent"):
                proxy.faults.append(Fault(Delay(2 * ENDS_WITHIN_S), times=None))
            asked = time.monotonic()
            first.send(signal.Signals[how[:7]])
            code, ended = first.end(), time.monotonic() - asked
        again = bench.until_done(out, bench.disk(), *TRAINING)
        steps, after = _steps(first), _steps(again[-1])
        # Progress is told every half second: the last steps before and the first after are known so well.
        lost_s = max(0.0, (steps[-1] - after[0]) / (STEPS / took)) + 1.0
        problems = scene.wrong_end(out, again[-1], *TRAINING)
        problems += [f"{lost_s:.0f} s of work are lost"] if lost_s > REAL_TTL_S else []
        if how != "SIGKILL":
            problems += [f"exit code {code}"] if code != 75 else []
            problems += ["ended late"] if ended > ENDS_WITHIN_S else []
        if how == "SIGTERM":
            problems += ["the lease was not released"] if len(again) > 1 else []
        restored = [
            one["what"].rsplit("/", 1)[0] + f" {one['files']}" for one in again[-1].named("store.restored")
        ]
        scene.row(
            "stop", how, code, f"{ended:.1f}", len(again), steps[-1], after[0], f"{lost_s:.0f}",
            ", ".join(restored), problems=problems,
        )  # fmt: skip


def down(scene: Scene) -> None:
    """Take the store away for a while, twice."""
    bench = scene.bench
    _head("down", "when", "refused", "warnings", "exit code")
    for when, event, facts in (
        ("in the training", "progress", {"what": "training the policy"}),
        ("before the results go up", "stage.finished", {"stage": "evaluate"}),
    ):
        out = bench.output(f"down-{event}")
        with open_proxy(bench.server) as proxy:
            job = bench.start(out, bench.disk(), *TRAINING, endpoint=proxy.endpoint, ttl_s=REAL_TTL_S)
            job.wait_for(event, **facts)
            refused = take_away(proxy, job, DOWN_S)
            code = job.end()
        told = len(job.named("store.retrying"))
        scene.row("down", when, refused, told, code, problems=scene.wrong_end(out, job, *TRAINING))


def dead(scene: Scene) -> None:
    """Take the store away until the job gives up; then it is back."""
    bench, out, disk = scene.bench, scene.bench.output("dead"), scene.bench.disk()
    _head("dead", "exit code", "gave up after s", "then", "attempts", "stages reused", "stages computed")
    with open_proxy(bench.server) as proxy:
        job = bench.start(out, disk, *TRAINING, endpoint=proxy.endpoint, ttl_s=REAL_TTL_S)
        job.wait_for("progress", what="training the policy")
        started = time.monotonic()
        take_away(proxy, job)
        code, seconds = job.end(), time.monotonic() - started
    again = bench.until_done(out, disk, *TRAINING, ttl_s=REAL_TTL_S)
    problems = [] if code == TRY_AGAIN and "advice:" in job.stderr else [f"exit code {code}, {job.stderr}"]
    scene.row(
        "dead", code, f"{seconds:.0f}", again[-1].end(), len(again), len(again[-1].named("stage.reused")),
        len(again[-1].named("stage.finished")),
        problems=problems + scene.wrong_end(out, again[-1], *TRAINING),
    )  # fmt: skip
    print("dead: it said:", " ".join(job.stderr.split()))


def other(scene: Scene) -> None:
    """Use the run id of another spec."""
    bench, out = scene.bench, scene.bench.output("other")
    _head("other", "the first run is", "disk", "exit code", "it said")
    first = bench.start(out, bench.disk())
    first.wait_for("stage.finished", stage="pull")
    kill_after(first, 0.0)
    for state in ("unfinished", "finished"):
        changed = bench.until_done(out, bench.disk(), "--set=seed=7")[-1]
        problems = [] if changed.end() == 2 and "--run-id" in changed.stderr else ["not refused with advice"]
        scene.row("other", state, "empty", changed.end(), changed.stderr.strip(), problems=problems)
        if state == "unfinished":
            again = bench.until_done(out, bench.disk())
            assert not (wrong := scene.wrong_end(out, again[-1])), wrong


def _steps(job: Attempt) -> list[int]:
    return [event["done"] for event in job.named("progress", what="training the policy")]


def _head(*cells: str) -> None:
    print("\n" + " | ".join(cells), flush=True)


PARTS = {part.__name__: part for part in (pull, publish, race, stall, stop, down, dead, other)}


def main() -> int:
    """Run the parts; returns 1 where anything is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="of pull, and of publish (default: 10)")
    parser.add_argument("--races", type=int, default=20, help="default: 20")
    parser.add_argument("--stalls", type=int, default=6, help="default: 6")
    parser.add_argument("--ttl", type=float, default=6.0, help="of a lease, in seconds (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument(
        "--folder", type=Path, help="for the server's data and the disks; a new one by default"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-and-race-", dir=options.folder))
    try:
        with serve(folder / "server") as server:
            os.environ.update(server.environment)
            bench = Bench(server, folder, options.ttl)
            scene = Scene(bench, random.Random(options.seed), options.kills, options.races, options.stalls)
            try:
                bench.fill()
                for name in options.only:
                    PARTS[name](scene)
            finally:
                bench.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n" + ("\n".join(scene.problems) or "everything is as it should be"))
    return bool(scene.problems)


if __name__ == "__main__":
    sys.exit(main())
