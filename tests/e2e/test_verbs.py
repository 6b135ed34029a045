"""The verbs around a run: validate, plan, evaluate, predict, status, dataset."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.child import ROOT, TINY, Finished, Job


def test_a_wrong_spec_ends_with_2_and_names_the_line(tmp_path: Path, job: Job) -> None:
    """Every mistake at once, each with file, line, column, path and what to write."""
    spec = tmp_path / "x.json"
    spec.write_text('{\n  "name": "x",\n  "finetune": {"n_steps": "128", "learning_rat": 1e-3}\n}\n')
    done = job(str(spec))
    assert done.code == 2
    assert f'{spec}:3:27: finetune.n_steps: expected an integer, got "128"; write 128' in done.stderr
    assert "did you mean learning_rate" in done.stderr
    assert not (tmp_path / "output").exists()


def test_validate_speaks_json(tmp_path: Path, job: Job) -> None:
    """Machines get the same problems as an object."""
    spec = tmp_path / "x.json"
    spec.write_text('{"name": "x", "seed": NaN}')
    done = job("validate", str(spec), "--format", "json")
    assert done.code == 2
    answer = json.loads(done.stdout)
    assert answer["valid"] is False
    assert answer["problems"][0]["line"] == 1
    enough = ("--set", "finetune.total_timesteps=300")
    answer = json.loads(job("validate", TINY, *enough, "--format", "json").stdout)
    assert answer == {"valid": True, "problems": [], "warnings": []}


def test_validate_tells_what_is_unwise(job: Job) -> None:
    """Beside the answer, which stays: the spec is valid."""
    done = job("validate", TINY)
    assert (done.code, done.stdout) == (0, f"{TINY}: valid\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{TINY}: warning: finetune.total_timesteps 64 is under 50 per action")
    done = job("validate", TINY, "--format", "json")
    assert (done.code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["warnings"] == [line.removeprefix(f"{TINY}: warning: ")]


def test_missing_inputs_end_with_3_before_anything_is_written(tmp_path: Path, job: Job) -> None:
    """A folder that is not there is named, with the way to set it."""
    done = job(TINY, "--set", "data.uri=nowhere")
    assert done.code == 3
    assert "nowhere" in done.stderr
    assert "--set data.uri=PATH" in done.stderr
    assert not (tmp_path / "output").exists()


def test_plan_counts_actions_and_warns_of_too_few_steps(job: Job) -> None:
    """K, the rollouts, and that 64 steps for 6 actions are few."""
    done = job("plan", TINY)
    assert done.code == 0, done.stderr
    assert "K = 6: 2 prompts x 3 post-processings" in done.stdout
    assert "64 steps" in done.stdout
    assert "total_timesteps 64 is under 50 per action" in done.stdout


def test_a_candidate_that_somebody_edited_is_not_used(
    tiny: tuple[Path, Finished], tmp_path: Path, job: Job
) -> None:
    """Its file and its reward network are those of the manifest, or the verb ends with 4 and names them."""
    run = tiny[0] / "output" / "runs" / "tiny" / tiny[1].info["run_id"]
    pictures = next((tiny[0] / "output" / "stages" / "pull").glob("*/dataset"))
    for number, name in enumerate(("candidate.json", "reward/best_reward_net.safetensors")):
        copy = tmp_path / str(number)
        shutil.copytree(run, copy)
        content = (copy / name).read_bytes()
        last = b" " if name == "candidate.json" else bytes([content[-1] ^ 1])
        (copy / name).write_bytes(content[:-1] + last)
        done = job("evaluate", str(copy), "--data", str(pictures))
        assert done.code == 4, (name, done.stderr)
        assert f"{name} has other content" in done.stderr
    assert job("evaluate", str(run), "--data", str(pictures)).code == 0


def test_evaluate_measures_a_candidate_and_warns_of_images_it_knows(
    tiny: tuple[Path, Finished], tmp_path: Path, job: Job
) -> None:
    """The reference's first wish: Dice, IoU, recall and precision of a policy on a folder, up to a number."""
    fresh = tmp_path / "fresh"
    made = job("dataset", "make", str(fresh), "--train", "3", "--size", "64", "--seed", "9",
               "--validation", "0", "--test", "0")  # fmt: skip
    assert made.code == 0, made.stderr
    done = job("evaluate", str(tiny[1].run), "--data", str(fresh), "--max-samples", "2", "--format", "json")
    assert done.code == 0, done.stderr
    answer = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert answer["images"] == 2
    assert answer["seen_in_training"] == 0
    assert 0 <= answer["after"]["recall"]["mean"] <= 1
    known = tiny[0] / tiny[1].stage("pull") / "dataset"
    warned = job("evaluate", str(tiny[1].run), "--data", str(known))
    assert warned.code == 0, warned.stderr
    assert "10 of these images shaped the candidate" in warned.stdout


def test_predict_writes_masks_and_a_table(tiny: tuple[Path, Finished], tmp_path: Path, job: Job) -> None:
    """A mask an image at its own size, and its action, quality, interval and flag as CSV."""
    photo = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in" / "eye.png")
    done = job("predict", str(tiny[1].run), str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert done.code == 0, done.stderr
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["eye.png"]
    assert 0 <= float(rows[0]["low"]) <= float(rows[0]["quality"]) <= float(rows[0]["high"]) <= 1
    assert rows[0]["review"] in ("0", "1")
    with Image.open(tmp_path / "out" / "eye.png") as mask:
        assert mask.size == (90, 70)


def test_status_lists_runs(tiny: tuple[Path, Finished], job: Job) -> None:
    """A line a run with state, verdict and exit code; JSON on request."""
    done = job("status", cwd=tiny[0])
    assert done.code == 0
    assert tiny[1].run.name in done.stdout
    runs = [json.loads(line) for line in job("status", "--json", cwd=tiny[0]).stdout.splitlines()]
    ours = next(run for run in runs if run["run_id"] == tiny[1].run.name)
    assert (ours["state"], ours["exit_code"]) == ("finished", 0)


def test_help_and_validate_import_nothing_heavy(job: Job) -> None:
    """The command line answers without torch, numpy or matplotlib."""
    done = job("validate", TINY, python=("-X", "importtime"))
    assert done.code == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "pydantic" in imported
    assert not imported & {"torch", "numpy", "matplotlib", "structlog", "scipy"}


def test_two_attempts_at_one_run_do_not_meet(tiny: tuple[Path, Finished], job: Job) -> None:
    """While another process holds the run, the second leaves with 10 and says so."""
    import fcntl

    run = tiny[0] / "output" / "runs" / "tiny" / "held"
    run.mkdir(parents=True)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = job(TINY, "--set", "seed=5", "--run-id", "held", cwd=tiny[0])
    assert done.code == 10
    assert "another process" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(tmp_path: Path, closed: str) -> None:
    """As some supervisors start programs: the code counts, and no file of the job takes a stream's place."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JOB_TERMINATION_LOG": str(tmp_path / "words")}
    words = f"exec {sys.executable} -m job {TINY} --set data.uri={tmp_path}/nowhere {closed}"
    done = subprocess.run(["sh", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "words").read_text().startswith("InputError (exit code 3)")
    assert ("error:" in done.stderr) is ("2>" not in closed)
    assert ("job.failed" in done.stdout) is (">&-" not in closed.split())


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("/proc/nowhere", 3, "no folder can be made there"),
        ("spec.json/out", 3, "spec.json is a file, not a folder"),
    ],
)
def test_an_output_that_can_be_no_folder_is_refused(
    tmp_path: Path, job: Job, uri: str, code: int, words: str
) -> None:
    """It is named as the spec names it."""
    (tmp_path / "spec.json").write_text("{}")
    done = job(TINY, "--set", f"output.uri={uri}")
    assert done.code == code, done.stderr
    assert words in done.stderr


def test_started_without_arguments_it_says_how(job: Job) -> None:
    """A usage error ends with 2 within a moment."""
    started = time.monotonic()
    done = job()
    assert done.code == 2
    assert "usage" in done.stderr
    assert time.monotonic() - started < 30
