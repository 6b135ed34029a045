"""A disk that runs full anywhere: exit 10 with one message, nothing spoilt, and the same command goes on.

Small disks are real ones (tmpfs). The job runs in this process, so that they are full at a stage's start.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from job import cli
from job.publish.published import open_run
from job.storage.local import UNFINISHED
from job.storage.uris import open_store
from tests.e2e.child import PATIENCE_S, ROOT, TINY, Finished, run_here

pytestmark = pytest.mark.timeout(600)  # a test is several runs, one after the other

MB = 1 << 20
PAGE = 4096
STAGES = ("pull", "table", "reward", "audit", "finetune", "evaluate", "publish")


@dataclass(frozen=True)
class Disk:
    """A small disk of its own, on which some files may stand for other people's."""

    path: Path

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all space but so many bytes."""
        taken = self.free - leave // PAGE * PAGE
        if taken > 0:
            with (self.path / "others").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, taken)

    def empty(self) -> None:
        """Give back what `fill` took."""
        (self.path / "others").unlink(missing_ok=True)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Mount disks of so many bytes."""
    mounted: list[Path] = []

    def make(name: str, n_bytes: int = 24 * MB) -> Disk:
        path = tmp_path / name
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "none", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk needs the right to mount a tmpfs (run as root): {done.stderr.strip()}")
        mounted.append(path)
        return Disk(path)

    yield make
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Watched(io.StringIO):
    """A standard output that does something as soon as an event is told."""

    def __init__(self, when: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self._when = when

    def write(self, text: str) -> int:
        for line in text.splitlines():
            event = json.loads(line)
            self.events.append(event)
            self._when(event)
        return len(text)


@dataclass(frozen=True)
class Ended:
    """How a run in this process ended."""

    code: int
    events: list[dict[str, Any]]
    stderr: str

    def named(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]


def run(output: Path, *more: str, when: Callable[[dict[str, Any]], None] = lambda event: None) -> Ended:
    """Run specs/tiny.json to `output`."""
    told, errors = Watched(when), io.StringIO()
    words = [TINY, "--set", "runtime.threads=1", "--set", f"output.uri={output}", *more]
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(errors):
        code = cli.main(words)
    return Ended(code, told.events, errors.getvalue())


def begins(stage: str) -> Callable[[dict[str, Any]], bool]:
    """Return whether an event says that a stage begins; publish is told by the end of evaluate."""
    if stage == "publish":
        return lambda event: (
            event["event"] in ("stage.finished", "stage.reused") and event["stage"] == "evaluate"
        )
    return lambda event: event["event"] == "stage.started" and event["stage"] == stage


def written(run_of: Finished, place: Path, stage: str) -> int:
    """Return what a stage of an undisturbed run has left on the disk, in bytes."""
    folder = place / (run_of.run if stage == "publish" else run_of.stage(stage))
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def require_one_readable_message(ended: Ended, disk: Disk) -> None:
    """The end of a run on a full disk: exit 10, the place, what is free there and what to do."""
    assert ended.code == 10, ended.stderr
    error, advice = ended.stderr.splitlines()
    assert re.search(
        rf"^error: {disk.path}/\S+: the disk is full \(too little is free: [\d,]+ bytes\)$", error
    )
    assert advice.startswith(f"  advice: free space on the disk of {disk.path}")
    (failed,) = ended.named("job.failed")
    assert failed["exit_code"] == 10
    assert failed["message"] in error


def require_like_undisturbed(ended: Ended, output: Path, undisturbed: Finished) -> None:
    """The run is whole for readers, with equal results; its log has whole lines, its folder no leavings."""
    assert ended.code == 0, ended.stderr
    run_of = open_run(open_store(str(output)), f"runs/tiny/{ended.named('job.started')[-1]['run_id']}")
    assert run_of is not None
    assert run_of.verify() == []
    assert run_of.manifest.results_digest == undisturbed.info["results_digest"]
    log = Path(ended.named("job.finished")[-1]["run_uri"], "job.log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["event"] == "job.finished"
    assert all(json.loads(line)["event"] for line in log)
    assert not list(output.rglob("*.partial"))
    assert not list(output.rglob(f"*{UNFINISHED}"))


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["at-once", "halfway"])
def test_a_run_goes_on_wherever_the_disk_was_full(
    share: float, tiny: tuple[Path, Finished], make_disk: Callable[..., Disk]
) -> None:
    """In each stage in turn, at its beginning and after half of what it writes; log and status are on it too.

    In the end the results are those of a run that nothing disturbed.
    """
    disk, output = make_disk("disk"), Path()
    for stage in STAGES:
        begun, left = begins(stage), int(share * written(tiny[1], tiny[0], stage))
        output = disk.path / "output"
        ended = run(output, when=lambda event, b=begun, n=left: disk.fill(max(PAGE, n)) if b(event) else None)
        require_one_readable_message(ended, disk)
        before = [one["stage"] for one in ended.events if one["event"] in ("stage.finished", "stage.reused")]
        assert before == list(STAGES[: STAGES.index(stage)])
        disk.empty()
    require_like_undisturbed(run(output), output, tiny[1])


def test_a_full_disk_of_the_cache_is_named(
    tiny: tuple[Path, Finished], make_disk: Callable[..., Disk], tmp_path: Path
) -> None:
    """The output has room: rows and logits lie elsewhere, and that disk is the one to look at."""
    disk, output = make_disk("cache"), tmp_path / "output"
    begun, cache = begins("table"), f"cache.uri={disk.path}/deep"
    fill = 10 * PAGE
    ended = run(output, "--set", cache, when=lambda event: disk.fill(fill) if begun(event) else None)
    require_one_readable_message(ended, disk)
    disk.empty()
    require_like_undisturbed(run(output, "--set", cache), output, tiny[1])


def test_with_the_output_in_a_store_the_disk_of_the_working_copy_is_named(
    tiny: tuple[Path, Finished], make_disk: Callable[..., Disk], s3_prefix: str, tmp_path: Path
) -> None:
    """What is on it and in the store serves the next attempt, on a larger disk."""
    disk = make_disk("disk", 5 * MB)
    places = ("--set", f"output.uri={s3_prefix}", "--set", f"cache.uri={disk.path}")
    first = run_here(TINY, "--set", "runtime.threads=1", *places, cwd=tmp_path)
    require_one_readable_message(Ended(first.code, first.events, first.stderr), disk)
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk.path)], check=True)
    again = run_here(TINY, "--set", "runtime.threads=1", *places, cwd=tmp_path)
    assert again.code == 0, again.stderr
    run_of = open_run(open_store(s3_prefix), f"runs/tiny/{again.named('job.started')[-1]['run_id']}")
    assert run_of is not None
    assert run_of.verify() == []
    assert run_of.manifest.results_digest == tiny[1].info["results_digest"]


def test_full_disks_beside_the_output_stop_no_run(
    tiny: tuple[Path, Finished], make_disk: Callable[..., Disk], tmp_path: Path
) -> None:
    """The folder for temporary files, shared memory, and the disk that the standard output goes to."""
    disk = make_disk("others", PAGE)
    disk.fill()
    words = [sys.executable, "-m", "job", TINY, "--set", "runtime.threads=1"]
    shell = f'mount -t tmpfs -o size={PAGE} none /dev/shm && exec "$@" > {disk.path}/stdout'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(disk.path)}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, "sh", *words],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert disk.free == 0
    (run_folder,) = (tmp_path / "output/runs/tiny").iterdir()
    info = json.loads((run_folder / "training_info.json").read_text())
    assert info["results_digest"] == tiny[1].info["results_digest"]
    assert '"job.finished"' in (run_folder / "job.log.jsonl").read_text()
