"""Memory that runs out in the middle of a job: exit 10 with advice, and the same command goes on."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from job.publish.published import open_run
from job.storage.uris import open_store
from tests.e2e.child import PATIENCE_S, ROOT, TINY, Finished, run_here

pytestmark = [
    pytest.mark.timeout(600),  # a test is several runs, one after the other
    pytest.mark.skipif(
        sys.platform != "linux", reason="limits of another process are set by Linux's prlimit"
    ),
]
COMMAND = (TINY, "--set", "runtime.threads=1")
SHORT_OF_MEMORY = str(Path(__file__).with_name("short_of_memory.py"))
MOMENTS = (
    ({"event": "segmenter.loaded"}, []),
    ({"event": "stage.started", "stage": "reward"}, ["pull"]),
)
"""When memory becomes short, and the stages that the attempt before had finished."""


def run_without_more_memory(since: Mapping[str, object], place: Path) -> Finished:
    """Run the job, which gets hardly more address space than it has from an event, or an import, on."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SHORT_OF_MEMORY, json.dumps(since), *COMMAND]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_a_run_goes_on_where_memory_ran_out(tiny: tuple[Path, Finished], tmp_path: Path) -> None:
    """In table and in reward: one message with what to change; stages before are kept, results are equal."""
    for since, finished_before in MOMENTS:
        ended = run_without_more_memory(since, tmp_path)
        assert ended.code == 10, (since, ended.code, ended.stderr)
        error, advice = ended.stderr.splitlines()
        assert error.startswith("error: out of memory: ")
        assert "resources.limits.memory" in advice
        assert "data.width" in advice
        (failed,) = ended.named("job.failed")
        assert failed["exit_code"] == 10
        assert [event["stage"] for event in ended.named("stage.reused")] == finished_before
    again = run_here(*COMMAND, cwd=tmp_path)
    assert again.code == 0, again.stderr
    assert [event["stage"] for event in again.named("stage.reused")][:2] == ["pull", "table"]
    assert again.info["results_digest"] == tiny[1].info["results_digest"]
    run_of = open_run(open_store(str(tmp_path / "output")), f"runs/tiny/{again.info['run_id']}")
    assert run_of is not None
    assert run_of.verify() == []


@pytest.mark.parametrize(
    ("module", "megabytes", "library"), [("numpy", 10, "numpy|openblas"), ("torch", 100, "torch")]
)
def test_too_little_memory_for_the_libraries_is_no_defect(
    module: str, megabytes: int, library: str, tmp_path: Path
) -> None:
    """The imports themselves fail, of numpy or of torch: exit 10 and advice, no traceback."""
    done = run_without_more_memory({"import": module, "megabytes": megabytes}, tmp_path)
    assert done.code == 10, done.stderr
    error, advice = done.stderr.splitlines()
    assert error.startswith("error: out of memory: ")
    assert re.search(library, error), error
    assert "failed to map" in error
    assert "resources.limits.memory" in advice
