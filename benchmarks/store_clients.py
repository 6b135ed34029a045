"""The clients that `benchmarks/store_speed.py` compares, each in a process of its own that is watched.

    python -m benchmarks.store_clients CLIENT THREADS up|down FOLDER s3://BUCKET/PREFIX

moves the files of FOLDER, or all objects below the prefix, and prints as JSON the seconds and the processor
seconds from the first request until the files are here, the seconds from then until what the client digests
is verified, from then until what it flushes is flushed, and the folder where the files lie. Imports and the
making of boto3's client are not counted. The server comes from the environment, as for the job.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config

from job.logs import Output
from job.progress import SILENT
from job.storage import packs, s3_client
from job.storage.fetch import Fetcher, listing
from job.storage.local import sha256_file
from job.storage.s3 import S3Store
from job.storage.store import Upload
from job.storage.uris import split_s3

MIB = 1 << 20
PART = 64 * MIB
"""Of raw boto3 and rclone: larger parts cost them less processor time than their defaults."""
SHARD = 64 * MIB
AFTER_THREADS = 8
LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class Moved:
    """Where files lie, and what waits until they have been verified and flushed to the disk."""

    folder: Path
    verify: Callable[[], None] = lambda: None
    settle: Callable[[], None] = lambda: None


def ours(threads: int, direction: str, folder: Path, uri: str) -> Moved:
    """Move files as the job does.

    Up: digested. Down: listed and shown as a folder of an empty cache; what is a shard is unpacked. Digested
    and held against a list of digests, if there is one, at the latest by `verify`; flushed by `settle`.
    """
    if direction == "up":
        S3Store(*split_s3(uri)).upload([Upload(path, path.name) for path in _files(folder)])
        return Moved(folder)
    with Path(os.devnull).open("w") as nowhere:
        log = Output(level="error", stream=nowhere).log
        fetcher = Fetcher(folder, max_bytes=1 << 40, progress=SILENT, log=log)
        return Moved(fetcher.bring(listing(uri, unpack=True)), fetcher.verify, fetcher.settle)


def shards(threads: int, direction: str, folder: Path, uri: str) -> Moved:
    """Pack files into tar archives of `SHARD` bytes and bring those to the store."""
    with packs.staging(folder) as place:
        archives = []
        for number, names in enumerate(_groups(folder)):
            archives.append(place / f"{number:04d}.tar")
            packs.pack(folder, names, archives[-1])
        S3Store(*split_s3(uri)).upload([Upload(archive, archive.name) for archive in archives])
    return Moved(folder)


def manager(threads: int, direction: str, folder: Path, uri: str) -> Moved:
    """Move files by boto3's own transfer manager."""
    bucket, prefix = split_s3(uri)
    config = TransferConfig(
        multipart_threshold=PART,
        multipart_chunksize=PART,
        max_concurrency=threads,
        io_chunksize=4 * MIB,
        preferred_transfer_client="classic",
    )
    client = _boto3(threads)
    keys = [] if direction == "up" else [key for key, _ in _objects(client, bucket, prefix)]
    with create_transfer_manager(client, config) as transfers:
        if direction == "up":
            moved = [transfers.upload(str(path), bucket, f"{prefix}/{path.name}") for path in _files(folder)]
        else:
            moved = [transfers.download(bucket, key, str(folder / Path(key).name)) for key in keys]
        for one in moved:
            one.result()
    return Moved(folder)


def direct(threads: int, direction: str, folder: Path, uri: str) -> Moved:
    """Move files by boto3's single requests in threads; large ones, down alone, in ranges."""
    bucket, prefix = split_s3(uri)
    client = _boto3(threads)

    def put(path: Path) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())

    def get(key: str) -> None:
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        (folder / Path(key).name).write_bytes(body.read())

    def get_range(key: str, start: int) -> None:
        body = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + PART - 1}")["Body"]
        with (folder / Path(key).name).open("r+b") as file:
            file.seek(start)
            while block := body.read(MIB):
                file.write(block)

    jobs: list[Callable[[], None]] = []
    if direction == "up":
        jobs += [lambda path=path: put(path) for path in _files(folder)]  # type: ignore[misc]
    else:
        for key, size in _objects(client, bucket, prefix):
            if size <= PART:
                jobs.append(lambda key=key: get(key))  # type: ignore[misc]
                continue
            (folder / Path(key).name).touch()
            jobs += [lambda key=key, start=start: get_range(key, start) for start in range(0, size, PART)]  # type: ignore[misc]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()
    return Moved(folder)


CLIENTS = {one.__name__: one for one in (ours, shards, manager, direct)}


def rclone_command(rclone: str, threads: int, direction: str, folder: Path, uri: str) -> list[str]:
    """Return rclone's command line, without the checks and extra requests that it makes by default."""
    there = f"bench:{uri.removeprefix('s3://')}"
    return [
        rclone, "copy", "-q", *((str(folder), there) if direction == "up" else (there, str(folder))),
        f"--transfers={threads}", "--checkers=8", "--ignore-checksum", "--no-check-dest",
        "--no-update-modtime", "--buffer-size=1M", f"--s3-upload-concurrency={threads}",
        "--s3-chunk-size=64M", "--s3-upload-cutoff=64M", "--s3-disable-checksum", "--s3-no-head",
        "--s3-no-check-bucket", "--s3-use-unsigned-payload=true", f"--multi-thread-streams={threads}",
        "--multi-thread-cutoff=128M", "--multi-thread-chunk-size=64M",
    ]  # fmt: skip


def rclone_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that describe the server to rclone, from those that describe it to boto3."""
    remote = {
        "TYPE": "s3",
        "PROVIDER": "SeaweedFS",
        "ACCESS_KEY_ID": environment["AWS_ACCESS_KEY_ID"],
        "SECRET_ACCESS_KEY": environment["AWS_SECRET_ACCESS_KEY"],
        "ENDPOINT": environment["AWS_ENDPOINT_URL_S3"],
        "REGION": environment["AWS_REGION"],
    }
    named = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in remote.items()}
    return {"RCLONE_CONFIG": os.devnull, **named}


def watched(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float, int, str]:
    """Run a command on an idle disk; returns seconds, processor seconds, peak RSS and what it printed."""
    os.sync()
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        child = subprocess.Popen(command, env=environment, stdout=output)
        peak = 0
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, _peak_rss(child.pid))
            time.sleep(LOOK_EVERY_S)
        took = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        if child.returncode:
            sys.exit(f"exit status {child.returncode}: {' '.join(command)}")
        output.seek(0)
        return took, ended[2].ru_utime + ended[2].ru_stime, peak, output.read()


def digest_and_flush(folder: Path, *, flush: bool) -> float:
    """Digest all files of a folder and, if asked, flush them to the disk; returns the seconds it took.

    A file is digested while it is flushed, and no step waits for a future of its own, which costs as much as
    a small file: the work that another client leaves undone is done as fast as can be.
    """
    began = time.perf_counter()
    actions: list[Callable[[Path], object]] = [_flush, sha256_file] if flush else [sha256_file]
    steps = [(action, path) for path in _files(folder) for action in actions]
    left = iter(steps)

    def work() -> None:
        for action, path in left:
            action(path)

    threads = min(AFTER_THREADS, len(steps))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
    return time.perf_counter() - began


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _peak_rss(pid: int) -> int:
    # Of the process's own program: what wait4 says counts the fork of this one, too.
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


@cache
def _boto3(threads: int) -> Any:
    config = Config(
        max_pool_connections=max(threads, 10),
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", config=config)


def _objects(client: Any, bucket: str, prefix: str) -> list[tuple[str, int]]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [(one["Key"], one["Size"]) for page in pages for one in page["Contents"]]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _groups(folder: Path) -> Iterable[list[str]]:
    group: list[str] = []
    size = 0
    for path in _files(folder):
        group.append(path.name)
        size += path.stat().st_size
        if size >= SHARD:
            yield group
            group, size = [], 0
    if group:
        yield group


def main() -> None:
    """Run one client once."""
    name, threads, direction, folder, uri = sys.argv[1:]
    if name in ("manager", "direct"):
        _boto3(int(threads))
    else:
        s3_client.client()
    began, processor_began = time.perf_counter(), time.process_time()
    moved = CLIENTS[name](int(threads), direction, Path(folder), uri)
    here = time.perf_counter()
    processor_s = time.process_time() - processor_began
    moved.verify()
    verified = time.perf_counter()
    moved.settle()
    facts = {
        "seconds": here - began,
        "processor_seconds": processor_s,
        "verify_s": verified - here,
        "settle_s": time.perf_counter() - verified,
        "folder": str(moved.folder),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
