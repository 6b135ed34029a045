"""The real program: as a child process, or in this one."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from job import cli, stopping

ROOT = Path(__file__).parent.parent.parent
TINY = str(ROOT / "specs" / "tiny.json")
PATIENCE_S = 300.0
"""Until a child process is given up: nothing is measured by it, and a machine may be wanted by others too."""


@dataclass(frozen=True)
class Finished:
    """How the program ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]

    @property
    def run(self) -> Path:
        return Path(self.named("job.finished")[-1]["run_uri"])

    def stage(self, name: str) -> Path:
        """Return a stage's folder below the working directory; other tests may have left others beside it."""
        fingerprint = next(stage["fingerprint"] for stage in self.info["stages"] if stage["name"] == name)
        return Path("output", "stages", name, fingerprint)

    @property
    def info(self) -> dict[str, Any]:
        return json.loads((self.run / "training_info.json").read_text())


Job = Callable[..., Finished]


def run_job(*arguments: str, cwd: Path, python: tuple[str, ...] = (), site: Path | None = None) -> Finished:
    """Run `python -m job ARGUMENTS`; packages in the folder `site` are installed for it."""
    path = os.pathsep.join(map(str, filter(None, (ROOT, site))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *python, "-m", "job", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: str, cwd: Path) -> Finished:
    """Do in this process what `run_job` does: without seconds of imports, where no process is asked for.

    Libraries have as many threads as in this process, and only the test's own limit ends what hangs.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr),
        warnings.catch_warnings(), _torch_as_it_was(), _not_stopped(),
    ):  # fmt: skip
        warnings.simplefilter("default")
        code = cli.main(arguments)
    return Finished(code, stdout.getvalue(), stderr.getvalue())


def _not_stopped() -> contextlib.AbstractContextManager[object]:
    """What makes a process stop is kept until its end."""
    return mock.patch.multiple(
        stopping, _received=[], _failures=[], _limits=stopping._Limits(), _STARTED=time.monotonic()
    )


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[None]:
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
