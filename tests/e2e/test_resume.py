"""Killed anywhere, the same command goes on and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.child import ROOT, TINY, Finished, run_job

COMMAND = (TINY, "--set", "runtime.threads=1")


def stop_at(event: str, stage: str, number: signal.Signals, place: Path, *more: str) -> int:
    """Start the job, send the signal as soon as an event of the stage is logged, return the exit code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "job", *COMMAND, *more]
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for text in child.stdout:
            line = json.loads(text)
            if line["event"] == event and stage in (line.get("stage"), line.get("what")):
                child.send_signal(number)
                child.stdout.read()
                break
        else:
            raise AssertionError(f"the job ended before {event} of {stage}")
    return child.returncode


@pytest.mark.parametrize("stage", ["table", "reward", "finetune", "evaluate"])
def test_a_killed_run_goes_on_at_the_stage_that_it_died_in(
    stage: str, tiny: tuple[Path, Finished], tmp_path: Path
) -> None:
    """Finished stages are taken over, cached logits are not computed again, and the results are equal."""
    assert stop_at("stage.started", stage, signal.SIGKILL, tmp_path) == -signal.SIGKILL
    again = run_job(*COMMAND, cwd=tmp_path)
    assert again.code == 0, again.stderr
    stages = [result["name"] for result in tiny[1].info["stages"]]
    assert [e["stage"] for e in again.named("stage.reused")] == stages[: stages.index(stage)]
    assert again.info["results_digest"] == tiny[1].info["results_digest"]


def test_sigterm_saves_ppo_s_progress_and_ends_with_75(tmp_path: Path) -> None:
    """The stopped run has saved its rollouts; going on gives the policy of an uninterrupted run."""
    longer = ("--set", "finetune.total_timesteps=1600", "--set", "runtime.progress_every_s=0.001")
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = run_job(*COMMAND, *longer, cwd=tmp_path / "whole")
    assert whole.code == 0, whole.stderr
    assert stop_at("progress", "training the policy", signal.SIGTERM, tmp_path / "cut", *longer) == 75
    again = run_job(*COMMAND, *longer, cwd=tmp_path / "cut")
    assert again.code == 0, again.stderr
    assert again.info["results_digest"] == whole.info["results_digest"]
    policies = [(run.run / "policy.safetensors").read_bytes() for run in (whole, again)]
    assert policies[0] == policies[1]


def test_a_log_that_nobody_reads_stops_no_run(tmp_path: Path) -> None:
    """`python -m job ... | head -1`: the reader leaves, the work goes on, the log file has every line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "job", *COMMAND]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        run = Path(json.loads(child.stdout.readline())["run_uri"])
        child.stdout.close()
        assert child.wait(timeout=100) == 0
    assert (run / "_SUCCESS").is_file()
    events = [json.loads(line)["event"] for line in (run / "job.log.jsonl").read_text().splitlines()]
    assert events[-1] == "job.finished"
