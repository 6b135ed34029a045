"""Training the reward network: cross-fitted by patient, the best epoch kept."""

import copy
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from job.device import one_thread
from job.errors import InputError, InvalidResult
from job.progress import SILENT, Progress, SharedTask
from job.reward.calibration import JudgeQuality, judge_quality
from job.reward.examples import Example, LabelledImages, prepare
from job.reward.network import NetworkJudge, RewardNetwork
from job.reward.one_network import (
    TrainedNetwork,
    TrainingSettings,
    mean_squared_error,
    predictions,
    steps_an_epoch,
    train_network,
)


@dataclass(frozen=True)
class RewardFit:
    """Trained networks: `final` for new images, `folds[fold_of[i]]` for training image i.

    `history[e]` tells of epoch e of the final network, epoch 0 being the start; `best_epoch` is the one that
    was kept (`fold_epochs` for the folds). `validation` describes `final` on the validation images.
    """

    final: RewardNetwork
    folds: list[RewardNetwork]
    fold_of: list[int]
    history: list[dict[str, float]]
    best_epoch: int
    fold_epochs: list[int]
    validation: JudgeQuality

    def judge_for(self, i: int, device: str = "cpu") -> NetworkJudge:
        """Return the judge of training image `i`: the network that has not seen its patient."""
        return NetworkJudge([self.folds[self.fold_of[i]]], device)

    def judge(self, device: str = "cpu") -> NetworkJudge:
        """Return the judge of every image that was not trained on."""
        return NetworkJudge([self.final], device)


def fit(
    train: LabelledImages,
    validation: LabelledImages,
    *,
    settings: TrainingSettings,
    start: RewardNetwork,
    seed: int,
    device: str = "cpu",
    progress: Progress = SILENT,
    memory_bytes: int = 2**30,
    scratch: Path | None = None,
) -> RewardFit:
    """Train a network on all training images, and one for each fold of patients on the other folds.

    Every network starts from `start` and keeps the epoch with the least validation MSE, the start itself
    being epoch 0: training cannot end worse than it began there. A fold's network learns nothing, not even
    its number of epochs, from the images of its fold. With `settings.epochs` 0 all are copies of `start`,
    which must not have seen the images. On a CPU, equal inputs give equal weights on any number of threads,
    and a call that goes on from what an interrupted one left in the folder `scratch` gives the same bits.

    Raises InputError without validation images or with fewer than two training patients, InvalidResult when
    training diverges, or when `start` answers with what is no number.
    """
    if not validation.images:
        raise InputError(
            "the reward network needs validation images: they decide which epoch is kept",
            advice="give the validation split at least one labelled image (data.split)",
        )
    with one_thread() as n_threads:
        return _fit(
            train, validation, settings, start, seed, device, progress, memory_bytes, scratch, n_threads
        )


def assign_folds(patients: Sequence[str], n_folds: int, seed: int) -> list[int]:
    """Deal patients into folds of about equal numbers of images: the fold of each image.

    Fewer patients than folds make as many folds as patients. Raises InputError for fewer than two patients.
    """
    names, counts = np.unique(np.asarray(patients, dtype=np.str_), return_counts=True)
    if len(names) < 2:
        raise InputError(
            f"cross-fitting the reward network needs training images of 2 patients, there are {len(names)}",
            advice="add training images of another patient, or check the data set's patient column",
        )
    order = np.random.default_rng([seed, len(names)]).permutation(len(names))
    sizes = [0] * min(n_folds, len(names))
    fold_of_patient: dict[str, int] = {}
    for patient in sorted(order, key=lambda p: -counts[p]):
        fold = int(np.argmin(sizes))
        sizes[fold] += int(counts[patient])
        fold_of_patient[str(names[patient])] = fold
    return [fold_of_patient[patient] for patient in patients]


def _fit(
    train: LabelledImages,
    validation: LabelledImages,
    settings: TrainingSettings,
    start: RewardNetwork,
    seed: int,
    device: str,
    progress: Progress,
    memory_bytes: int,
    scratch: Path | None,
    n_threads: int,
) -> RewardFit:
    grid, budget = start.config.max_side, memory_bytes // 2
    prepared = partial(
        prepare, max_side=grid, seed=seed, memory_bytes=budget, threads=n_threads, progress=progress
    )
    held_out = prepared(validation, groups=None)
    # An untrained network saw no image: nothing to cross-fit.
    fold_of, seen_by = [0] * len(train.images), [list[Example]()] * 2
    if settings.epochs:
        fold_of = assign_folds(train.patients, settings.folds, seed)
        examples = prepared(train, groups=fold_of)
        seen_by = [examples] + [
            [example for example, own in zip(examples, fold_of, strict=True) if own != fold]
            for fold in range(max(fold_of) + 1)
        ]
    start = copy.deepcopy(start).to(device)
    names = ["final", *(f"fold_{fold}" for fold in range(len(seen_by) - 1))]
    n_steps = settings.epochs * sum(steps_an_epoch(kept, settings.batch_size) for kept in seen_by)
    with progress.task("reward network", n_steps, "step") as task:
        shared = SharedTask(task)
        start_mse = mean_squared_error(start, held_out, device, shared)
        if not math.isfinite(start_mse):
            raise InvalidResult(
                f"the network that the reward's training starts from is of no use: its MSE is {start_mse}",
                advice="name another network as reward.network.uri, or leave it out",
            )

        def train_on(kept: Sequence[Example], name: str) -> TrainedNetwork:
            return train_network(
                start,
                start_mse,
                kept,
                held_out,
                settings=settings,
                seed=seed,
                device=device,
                checkpoint=scratch / f"{name}.safetensors" if scratch else None,
                task=shared,
            )

        trainings = [partial(train_on, *of_one) for of_one in zip(seen_by, names, strict=True)]
        final, *folds = _side_by_side(trainings, n_threads if device == "cpu" else 1)
        judged = predictions(copy.deepcopy(final.network).to(device), held_out, device, shared)
    return RewardFit(
        final=final.network,
        folds=[fold.network for fold in folds],
        fold_of=fold_of,
        history=final.history,
        best_epoch=final.best_epoch,
        fold_epochs=[fold.best_epoch for fold in folds],
        validation=judge_quality(*judged),
    )


def _side_by_side(trainings: Sequence[Callable[[], TrainedNetwork]], n_threads: int) -> list[TrainedNetwork]:
    """Train networks side by side, each on one core, rather than one after the other on all cores.

    Kernels this small gain little from a second core, and lose much where another process wants it: a step
    then took 0.10 s on two cores (0.5 s with OpenMP's default of spinning), 0.055 s on one. And so weights do
    not depend on the number of threads.
    """
    with ThreadPoolExecutor(n_threads) as pool:
        # Context variables carry what the log is bound to; a new thread starts without them.
        running = [pool.submit(copy_context().run, training) for training in trainings]
        try:
            return [one.result() for one in running]
        finally:
            pool.shutdown(cancel_futures=True)
