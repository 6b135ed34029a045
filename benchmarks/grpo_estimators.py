"""Estimators of grpo's gradient at equal time: true Dice on validation patients, and on test ones if asked.

    python benchmarks/grpo_estimators.py FOLDER --train 01 02 ... --validation 09 10 [--test 11 12 13 14]
        [--seconds 120] [--seeds 1] [--only window4 mask ...]

`FOLDER` is a dataset folder (docs/data.md). Each estimator trains for the same seconds of processor time from
the embedded checkpoint, with Dice as reward; supervised training is the yardstick. Steps are counted out
beforehand, so that the learning rate falls to its end in each.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
import torch

from job.data.dataset import Dataset, read_folder
from job.data.on_demand import OnDemand
from job.logs import Log
from job.progress import SILENT_TASK
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet, open_trainable
from job.spec.actions import DEFAULT_PROMPTS
from job.spec.tuning import GrpoSpec, SftSpec
from job.tuning.gold import patients_scores
from job.tuning.grpo import train_grpo
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom
from job.tuning.sft import train_sft

ESTIMATORS: dict[str, Mapping[str, Any]] = {
    "sft": {"algorithm": "sft"},
    "mask": {"credit": "mask"},
    "mask, antithetic": {"credit": "mask", "antithetic": True},
    "window 32": {"window": 32},
    "window 16": {"window": 16},
    "window 16, antithetic": {"window": 16, "antithetic": True},
    "window 4": {"window": 4},
    "window 4, antithetic": {"window": 4, "antithetic": True},
    "window 4, 2 updates": {"window": 4, "updates": 2},
    "window 1": {"window": 1},
}
TRIAL_STEPS = 6


def main() -> None:
    """Train every estimator with every seed, and print a row each."""
    options = _options()
    torch.set_num_threads(options.threads)
    data = _data(options, options.validation)
    for name in options.only or ESTIMATORS:
        found = []
        for seed in range(options.seeds):
            common = {"batch_size": options.batch_size, "crop": options.crop, "learning_rate": options.lr}
            settings = {"algorithm": "grpo", **common, **ESTIMATORS[name]}
            step_s = _step_s(settings, data)
            steps = max(TRIAL_STEPS, int(options.seconds / step_s))
            started = time.process_time()
            model, result = _train(
                {**settings, "steps": steps, "validate_every": max(1, steps // 4)}, data, seed
            )
            row = f"{name:<24} seed {seed}  {steps:>5} steps of {step_s:.2f} s  {result.ended:<15}"
            row += f"validation {result.start_gold:.4f} -> {result.best_gold:.4f}"
            if options.test:
                test = patients_scores(model, _data(options, options.test), SILENT_TASK, ["dice"])["dice"]
                row += f"  test {test.mean():.4f}"
            print(f"{row}  ({time.process_time() - started:.0f} s with looks)", flush=True)
            found.append(result.best_gold)
        print(f"{name:<24} mean    validation {statistics.mean(found):.4f}", flush=True)


def _train(
    settings: Mapping[str, Any], data: PhaseData, seed: int
) -> tuple[TrainablePromptableUNet, PhaseResult]:
    model = open_trainable(EMBEDDED_CHECKPOINT, "cpu")
    with tempfile.TemporaryDirectory() as name:
        room = PhaseRoom(seed=seed, device="cpu", log=_silent(), resume_folder=Path(name))
        if settings["algorithm"] == "sft":
            return model, train_sft(SftSpec.model_validate(settings), model, data, room)
        return model, train_grpo(GrpoSpec.model_validate(settings), model, data, room)


def _step_s(settings: Mapping[str, Any], data: PhaseData) -> float:
    """Return the processor time of a step, looks left out: those are the same for all."""
    spent = []
    for steps in (1, 1 + TRIAL_STEPS):
        started = time.process_time()
        _train({**settings, "steps": steps, "validate_every": 1_000}, data, 0)
        spent.append(time.process_time() - started)
    return (spent[1] - spent[0]) / TRIAL_STEPS


def _data(options: argparse.Namespace, judged_by: Sequence[str]) -> PhaseData:
    dataset = Dataset(read_folder(options.folder), options.width)
    train, judges = (
        [sample for sample in dataset.samples if sample.patient in patients]
        for patients in (options.train, judged_by)
    )
    return PhaseData(
        prompt=DEFAULT_PROMPTS[0],
        labelled=OnDemand(len(train), lambda i: dataset.load(train[i])),
        unlabelled=[],
        validation=OnDemand(len(judges), lambda i: dataset.load(judges[i])),
        validation_patients=[sample.patient for sample in judges],
    )


def _silent() -> Log:
    log: Log = structlog.wrap_logger(None, processors=[_drop], wrapper_class=structlog.stdlib.BoundLogger)
    return log


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", nargs="+", required=True, help="patients")
    parser.add_argument("--validation", nargs="+", required=True, help="patients")
    parser.add_argument("--test", nargs="+", help="patients; once, when everything is chosen")
    parser.add_argument("--only", nargs="+", choices=list(ESTIMATORS))
    parser.add_argument("--seconds", type=float, default=120, help="of processor time, a training")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
