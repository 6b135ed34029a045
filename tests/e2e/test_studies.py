"""Sweeps, folds, further datasets and comparisons, with the real program."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.attempts import Attempt
from tests.e2e.child import ROOT, TINY, Finished, Job, run_here

ONE_THREAD = ("--set", "runtime.threads=1", "--set", "finetune.seeds=1")
COUNTS = ("--train", "4", "--validation", "3", "--test", "3", "--size", "64")


def mean_dice(info: dict[str, Any], candidate: str) -> float:
    """Return a candidate's mean test Dice."""
    row = next(row for row in info["results"]["ladder"] if row["candidate"] == candidate)
    return float(row["test"]["dice"]["mean"])


def test_a_sweep_trains_its_points_and_judges_the_best_alone(tmp_path: Path, job: Job) -> None:
    """Points share all but PPO; the one of best validation Dice is what the spec alone would have run."""
    grid = '{"finetune.learning_rate": [1e-6, 3e-2], "finetune.init": ["random"]}'
    done = job(TINY, *ONE_THREAD, "--set", f"sweep={grid}", cwd=tmp_path)
    assert done.code == 0, done.stderr
    points = done.info["sweep"]
    assert [point["values"]["finetune.learning_rate"] for point in points] == [1e-6, 3e-2]
    assert points[1]["reused"] == ["pull", "table", "reward", "audit"]
    dice = [point["validation_dice"]["mean"] for point in points]
    best = int(np.argmax(dice))
    assert [point["chosen"] for point in points] == [i == best for i in range(2)]
    assert [e["stage"] for e in done.named("stage.finished")].count("evaluate") == 1
    rate = points[best]["values"]["finetune.learning_rate"]
    settings = ("--set", f"finetune.learning_rate={rate}", "--set", "finetune.init=random")
    alone = job(TINY, *ONE_THREAD, *settings, cwd=tmp_path)
    assert not alone.named("stage.finished")
    assert alone.info["results_digest"] == done.info["results_digest"]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A finished run of three folds over ten photographs."""
    place = tmp_path_factory.mktemp("folds")
    assert run_here("dataset", "make", "data", *COUNTS, cwd=place).code == 0
    done = run_here(TINY, *FOLDS, cwd=place)
    assert done.code == 0, done.stderr
    return place, done


PHASES = [
    {"algorithm": "ppo", "total_timesteps": 64, "n_steps": 16, "batch_size": 16, "seeds": 1},
    {"algorithm": "sft", "steps": 4, "crop": 64, "batch_size": 2, "validate_every": 2},
]
FOLDS = (
    "--set",
    "runtime.threads=1",
    "--set",
    f"finetune={json.dumps(PHASES)}",
    "--set",
    "data.uri=data",
    "--set",
    'data.split={"kind":"folds","k":3}',
)


def test_status_names_the_fold_in_which_a_run_was_stopped(folded: tuple[Path, Finished]) -> None:
    """A fold is no run of its own to it."""
    place = folded[0]
    command = [sys.executable, "-m", "job", TINY, *FOLDS, "--set", "output.uri=stopped"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    attempt = Attempt(command, environment, place / "stderr", cwd=place)
    assert attempt.wait_for("stage.started", stage="table"), attempt.stderr
    attempt.send(signal.SIGTERM)
    assert attempt.end() == 75, attempt.stderr
    run = json.loads(run_here("status", "stopped", "--json", cwd=place).stdout)
    assert (run["state"], run["exit_code"]) == ("interrupted", 75)
    assert re.fullmatch("fold [123] of 3: [a-z]+", run["stage"])


def test_folds_test_every_image_once_and_are_judged_together(folded: tuple[Path, Finished]) -> None:
    """The joined figures are those of the folds' own records, over all patients."""
    info = folded[1].info
    images = [image["name"] for image in info["results"]["images"]]
    assert len(images) == len(set(images)) == 10
    folds = [
        json.loads((folded[1].run / fold["run"] / "training_info.json").read_text()) for fold in info["folds"]
    ]
    tested = [{image["patient"] for image in fold["results"]["images"]} for fold in folds]
    assert sum(len(patients) for patients in tested) == len(set.union(*tested))
    dice_after = [image["after"]["dice"] for fold in folds for image in fold["results"]["images"]]
    assert mean_dice(info, "selected") == pytest.approx(np.mean(dice_after))
    assert info["results"]["verdict"]["vs_noop"]["n_patients"] == 10
    assert not (folded[1].run / "candidate.json").exists()


def test_folds_tell_how_each_trained_its_weights(folded: tuple[Path, Finished]) -> None:
    """As their own records do; what the phase is worth stands in the joined ladder, and in the report."""
    info, run = folded[1].info, folded[1].run
    for fold in info["folds"]:
        (phase,) = fold["weights"]
        assert [phase] == json.loads((run / fold["run"] / "training_info.json").read_text())["weights"]
    sft = next(row for row in info["results"]["ladder"] if row["candidate"] == "sft")
    assert sft["vs_noop"]["n_patients"] == 10
    report = (run / "report.md").read_text()
    assert "Over all folds, against today on test images: Supervised fine-tuning " in report
    # A row for how each went, and one for what taught it.
    rows = re.findall(r"^\| \**Supervised fine-tuning, fold ([123])\b", report, re.MULTILINE)
    assert rows == ["1", "2", "3"] * 2


def test_the_log_says_in_which_fold_something_happened(folded: tuple[Path, Finished]) -> None:
    lines = (folded[1].run / "job.log.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    stages = {(event["stage"], event.get("fold")) for event in events if event["event"] == "stage.finished"}
    assert stages >= {("table", fold) for fold in (1, 2, 3)}
    assert all("fold" not in event for event in events if event["event"] == "job.finished")


def test_a_finished_run_of_folds_is_not_run_again(folded: tuple[Path, Finished], job: Job) -> None:
    """The same command answers from the manifest; without the marker it is published from its stages."""
    again = job(TINY, *FOLDS, cwd=folded[0])
    assert again.code == 0
    assert again.named("job.already_done")
    (folded[1].run / "_SUCCESS").unlink()
    mended = job(TINY, *FOLDS, cwd=folded[0])
    assert mended.code == 0
    assert not mended.named("stage.finished")
    assert mended.info["results_digest"] == folded[1].info["results_digest"]


def test_folds_score_an_image_once(folded: tuple[Path, Finished]) -> None:
    """From the second fold on the table's rows are found, whichever side their image was on."""
    tables = folded[1].named("table.summary")
    assert tables[0]["rows_reused"] == 0
    # Fold 1 learned from and chose on some, and tested the others: none is new afterwards.
    assert all(table["rows_reused"] == table["images"] > 0 for table in tables[1:])


def test_a_further_dataset_is_judged_as_evaluate_judges_it(tmp_path: Path, job: Job) -> None:
    """What ships scores on `evaluate.datasets` what the verb `evaluate` finds on the same folder."""
    assert job("dataset", "make", "elsewhere", *COUNTS, "--seed", "7", cwd=tmp_path).code == 0
    datasets = '[{"name": "elsewhere", "uri": "elsewhere"}]'
    done = job(TINY, *ONE_THREAD, "--set", f"evaluate.datasets={datasets}", cwd=tmp_path)
    assert done.code == 0, done.stderr
    (other,) = done.info["results"]["other_datasets"]
    assert (other["name"], other["images"]) == ("elsewhere", 10)
    ships = next(row for row in other["ladder"] if row["ships"])
    measured = job("evaluate", str(done.run), "--data", "elsewhere", "--format", "json", cwd=tmp_path)
    assert measured.code == 0, measured.stderr
    assert json.loads(measured.stdout)["after"]["dice"]["mean"] == pytest.approx(
        ships["test"]["dice"]["mean"]
    )


def test_two_runs_are_compared_on_the_same_images(tiny: tuple[Path, Finished], job: Job) -> None:
    """The verb pairs the runs' test images, says what differs in the specs and writes a page."""
    other = job(TINY, "--set", "runtime.threads=1", "--set", "finetune.ent_coef=0.05", cwd=tiny[0])
    assert other.code == 0, other.stderr
    done = job("compare", str(tiny[1].run), str(other.run), "--format", "json", cwd=tiny[0])
    assert done.code == 0, done.stderr
    assert "ent_coef" in done.stdout
    assert (tiny[0] / "compare.html").read_text().startswith("<!doctype html>")
    assert job("compare", str(tiny[1].run), cwd=tiny[0]).code == 2
