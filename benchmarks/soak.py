"""Stop and kill a run hundreds of times, anywhere: does it end as if nothing had happened?

    python -m benchmarks.soak --n 200 [--spec specs/tiny.json] [--set ...] [--store] [--journal FILE]

Runs are taken through all their stages, blow after blow: a SIGTERM and a kill -9 for each, in any order, at
moments within the stage that are drawn; then they are left in peace, and their results must be those of a run
that nothing happened to. Fewer blows than that are spread over all stages, one signal as often as the other.
With `--store` the output is in a real S3 server on the loopback interface, and every attempt begins with an
empty disk. What was done is kept in the journal: the same command goes on with it.

Printed are blows by stage and signal, exit codes, the time from SIGTERM to the end, and the work that kill -9
cost: seconds by the clock from the last thing that was kept (a checkpoint, a row, an upload) to the kill.
Exit code 1 where anything was not as it should be.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from job.spec.loading import load
from tests.e2e.attempts import Attempt, Bench
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
from tests.s3_server import serve

SIGNALS = ("SIGTERM", "SIGKILL")
TTL_S = 6.0
ONE_THREAD = "runtime.threads=1"


@dataclass
class Journal:
    """Everything that was done, a line each, in a file that a later call goes on with."""

    path: Path
    suffered: list[Suffered] = field(default_factory=list)
    ended: list[list[str]] = field(default_factory=list)
    """What was wrong with each run that was left in peace."""

    @classmethod
    def open(cls, path: Path, subject: str) -> "Journal":
        """Read what is there; it must be of the same subject."""
        journal = cls(path)
        lines = path.read_text().splitlines() if path.exists() else []
        if not lines:
            journal._add({"subject": subject})
        elif json.loads(lines[0]) != {"subject": subject}:
            sys.exit(f"{path} is the journal of something else: {lines[0]}")
        for line in map(json.loads, lines[1:]):
            if "ended" in line:
                journal.ended.append(line["ended"])
            else:
                journal.suffered.append(Suffered(**{**line, "problems": tuple(line["problems"])}))
        return journal

    def suffer(self, one: Suffered) -> None:
        """Note a blow."""
        self.suffered.append(one)
        self._add(asdict(one))

    def end(self, problems: list[str]) -> None:
        """Note the end of a run."""
        self.ended.append(problems)
        self._add({"ended": problems})

    @property
    def blows(self) -> list[Suffered]:
        """Those that found the run at work."""
        return [one for one in self.suffered if one.stage]

    def _add(self, line: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Place:
    """Where runs are made."""

    start: Callable[[str, Path | None], Attempt]
    """Starts an attempt at the run of a name; on a disk, or on an empty one of its own."""
    output: Callable[[str], str]
    path: str
    root: Path
    is_store: bool

    def course(self, name: str, undisturbed: Undisturbed) -> Course:
        """Return a run that nobody has begun."""
        disk = None if self.is_store else self.root / name
        return Course(lambda: self.start(name, disk), self.output(name), self.path, disk, undisturbed)

    def wrong(self, name: str) -> list[str]:
        """Return what is wrong with the files of a run that has ended."""
        if self.is_store:
            return []
        output = self.root / name / "output"
        torn = torn_lines(output / self.path / "job.log.jsonl")
        return [f"left behind: {one}" for one in left_behind(output)] + [f"torn: {one}" for one in torn]


@contextmanager
def local(spec: str, settings: Sequence[str], root: Path) -> Iterator[Place]:
    """Runs in folders."""

    def start(name: str, disk: Path | None) -> Attempt:
        return start_locally(spec, root / name, *settings)

    name = load(spec, overrides=list(settings)).spec.name
    yield Place(start, lambda run: str(root / run / "output"), f"runs/{name}/r", root, is_store=False)


@contextmanager
def in_store(spec: str, settings: Sequence[str], root: Path) -> Iterator[Place]:
    """Runs in a bucket, with a dataset beside them."""
    with serve(root / "server") as server:
        os.environ.update(server.environment)
        bench = Bench(server, root, TTL_S, spec=spec)
        try:
            bench.fill()
            name = load(spec, overrides=list(settings)).spec.name
            sets = [word for setting in settings for word in ("--set", setting)]

            def start(run: str, disk: Path | None) -> Attempt:
                return bench.start(bench.output(run), bench.disk(), *sets)

            yield Place(start, bench.output, f"runs/{name}/r", root, is_store=True)
        finally:
            bench.close()


def soak(place: Place, journal: Journal, n: int, seed: int) -> None:
    """Deal blows to run after run until there were n, each run to its end."""
    whole = place.start("whole", None if place.is_store else place.root / "whole")
    if whole.end() != 0:
        sys.exit(f"the undisturbed run failed: {whole.stderr}")
    undisturbed = Undisturbed.of(whole, place.output("whole"), place.path)
    say("undisturbed, s: " + ", ".join(f"{stage} {s:.1f}" for stage, s in undisturbed.seconds.items()))
    while len(journal.blows) < n:
        number = len(journal.ended)
        rng = random.Random(f"{seed} {number}")
        name, course = f"run-{number}", place.course(f"run-{number}", undisturbed)
        shutil.rmtree(place.root / name, ignore_errors=True)  # of a soak that was stopped itself
        for blow in blows_of_a_run(rng, n - len(journal.blows)):
            one = course.suffer(blow)
            journal.suffer(one)
            say(f"{len(journal.blows)}/{n} run {number}: {one.to_json()}")
        _, problems = course.finish()
        problems += place.wrong(name)
        journal.end(problems)
        say(f"run {number} ended: {'; '.join(problems) or 'like the undisturbed one'}")
        shutil.rmtree(place.root / name, ignore_errors=True)


def blows_of_a_run(rng: random.Random, most: int) -> list[Blow]:
    """Draw both signals for every stage, in the order of stages; of fewer blows each stage gets its share."""
    stages, turns = rng.sample(STAGES, len(STAGES)), (SIGNALS, SIGNALS[::-1])
    dealt = [(stage, turn[i % 2]) for turn in turns for i, stage in enumerate(stages)][:most]
    of_stage = {stage: [name for one, name in dealt if one == stage] for stage in STAGES}
    return [blow for stage in STAGES if of_stage[stage] for blow in drawn(rng, of_stage[stage], (stage,))]


def table(journal: Journal, seed: int) -> str:
    """Return what there is to report, in Markdown."""
    blows = journal.blows
    stops = [one.seconds for one in blows if one.signal == "SIGTERM"]
    rows = ["| stage | SIGTERM | to the exit, s: median, most | kill -9 | work lost, s: median, most |"]
    rows.append("|---|---|---|---|---|")
    for stage in (*STAGES, "all"):
        here = [one for one in blows if stage in (one.stage, "all")]
        exits = [one.seconds for one in here if one.signal == "SIGTERM"]
        lost = [one.lost_s for one in here if one.signal == "SIGKILL"]
        rows.append(f"| {stage} | {len(exits)} | {spread(exits)} | {len(lost)} | {spread(lost)} |")
    codes = Counter(one.exit_code for one in blows)
    equal = sum(not problems for problems in journal.ended)
    late = sum(one.stage != one.meant_for for one in blows)
    return "\n".join(
        [
            *rows,
            "",
            f"{len(blows)} blows (seed {seed}), {late} of them later than their stage; exit codes "
            + ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
            + f"; longest time to the exit after SIGTERM {max(stops, default=0.0):.1f} s.",
            f"Runs whose results were those of the undisturbed one: {equal}/{len(journal.ended)}.",
            *(f"- {problem}" for problem in problems_of(journal)),
        ]
    )


def problems_of(journal: Journal) -> list[str]:
    """Return everything that was not as it should be."""
    of_blows = [f"{one.to_json()}: {problem}" for one in journal.suffered for problem in one.problems]
    return of_blows + [problem for problems in journal.ended for problem in problems]


def spread(seconds: Sequence[float]) -> str:
    """Return median and maximum."""
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Soak; returns 1 where anything was not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=200, help="blows (default: 200)")
    parser.add_argument("--spec", default="specs/tiny.json")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as the job has it")
    parser.add_argument("--store", action="store_true", help="output in a store, every attempt's disk empty")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--journal", type=Path, help="file to go on with (default: a new one)")
    parser.add_argument("--folder", type=Path, help="for runs and disks; a new one by default")
    options = parser.parse_args()
    settings = [*options.set, ONE_THREAD]
    subject = json.dumps([options.spec, settings, options.store, options.seed])
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", dir=options.folder)))
        journal = Journal.open(options.journal or root / "journal.jsonl", subject)
        if len(journal.blows) < options.n:
            kind = in_store if options.store else local
            soak(stack.enter_context(kind(options.spec, settings, root)), journal, options.n, options.seed)
    print(table(journal, options.seed))
    return bool(problems_of(journal))


if __name__ == "__main__":
    sys.exit(main())
