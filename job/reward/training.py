"""Training the reward network: cross-fitted by patient, the best epoch kept."""

import copy
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.device import one_thread
from job.errors import InputError, InvalidResult, JobError
from job.progress import SILENT, Progress, Task
from job.reward.calibration import JudgeQuality, judge_quality
from job.reward.examples import Example, LabelledImages, prepare
from job.reward.losses import balance, image_loss
from job.reward.network import NetworkJudge, RewardNetwork


class TrainingSettings(Protocol):
    """What `fit` reads of the spec's `reward.network`."""

    @property
    def epochs(self) -> int:
        """Passes over the training images; 0 trains nothing."""

    @property
    def batch_size(self) -> int:
        """Masks a gradient step."""

    @property
    def learning_rate(self) -> float:
        """Adam's step size."""

    @property
    def folds(self) -> int:
        """Parts that cross-fitting splits the patients into."""


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
) -> RewardFit:
    """Train a network on all training images, and one for each fold of patients on the other folds.

    Every network starts from `start` and keeps the epoch with the least validation MSE, the start itself
    being epoch 0: training cannot end worse than it began there. A fold's network learns nothing, not even
    its number of epochs, from the images of its fold. With `settings.epochs` 0 all are copies of `start`,
    which must not have seen the images. On a CPU, equal inputs give equal weights on any number of threads.

    Raises InputError without validation images or with fewer than two training patients, InvalidResult when
    training diverges.
    """
    if not validation.images:
        raise InputError(
            "the reward network needs validation images: they decide which epoch is kept",
            advice="give the validation split at least one labelled image (data.split)",
        )
    with one_thread() as n_threads:
        return _fit(train, validation, settings, start, seed, device, progress, memory_bytes, n_threads)


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
    n_threads: int,
) -> RewardFit:
    grid, budget = start.config.max_side, memory_bytes // 2
    held_out = prepare(validation, grid, None, seed=seed, memory_bytes=budget, progress=progress)
    # An untrained network saw no image: nothing to cross-fit.
    fold_of, seen_by = [0] * len(train.images), [list[Example]()] * 2
    if settings.epochs:
        fold_of = assign_folds(train.patients, settings.folds, seed)
        examples = prepare(train, grid, fold_of, seed=seed, memory_bytes=budget, progress=progress)
        seen_by = [examples] + [
            [example for example, own in zip(examples, fold_of, strict=True) if own != fold]
            for fold in range(max(fold_of) + 1)
        ]
    start = copy.deepcopy(start).to(device)
    start_mse = _mse(start, held_out, device)
    n_steps = settings.epochs * sum(_steps_an_epoch(kept, settings.batch_size) for kept in seen_by)
    with progress.task("reward network", n_steps, "step") as task:
        shared = _SharedTask(task)

        def train_on(kept: Sequence[Example]) -> _Trained:
            return _train(
                start, start_mse, kept, held_out, settings=settings, seed=seed, device=device, task=shared
            )

        final, *folds = _side_by_side(train_on, seen_by, n_threads if device == "cpu" else 1)
    return RewardFit(
        final=final.network,
        folds=[fold.network for fold in folds],
        fold_of=fold_of,
        history=final.history,
        best_epoch=final.best_epoch,
        fold_epochs=[fold.best_epoch for fold in folds],
        validation=judge_quality(*_predictions(copy.deepcopy(final.network).to(device), held_out, device)),
    )


@dataclass(frozen=True)
class _Trained:
    network: RewardNetwork
    history: list[dict[str, float]]
    best_epoch: int


def _side_by_side(
    train_on: Callable[[Sequence[Example]], _Trained], seen_by: Sequence[Sequence[Example]], n_threads: int
) -> list[_Trained]:
    """Train networks side by side, each on one core, rather than one after the other on all cores.

    Kernels this small gain little from a second core, and lose much where another process wants it: a step
    then took 0.10 s on two cores (0.5 s with OpenMP's default of spinning), 0.055 s on one. And so weights do
    not depend on the number of threads.
    """
    with ThreadPoolExecutor(n_threads) as pool:
        # Context variables carry what the log is bound to; a new thread starts without them.
        running = [pool.submit(copy_context().run, train_on, kept) for kept in seen_by]
        try:
            return [one.result() for one in running]
        finally:
            pool.shutdown(cancel_futures=True)


class _SharedTask:
    """A task that threads advance in turn; once it has raised for one, it raises for all."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = Lock()
        self._raised: JobError | None = None

    def advance(self, steps: int = 1, **figures: float) -> None:
        with self._lock:
            if self._raised is not None:
                raise self._raised
            try:
                self._task.advance(steps, **figures)
            except JobError as error:
                self._raised = error
                raise


def _train(
    start: RewardNetwork,
    start_mse: float,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    *,
    settings: TrainingSettings,
    seed: int,
    device: str,
    task: Task,
) -> _Trained:
    network = copy.deepcopy(start).train()
    best, best_mse, best_epoch = copy.deepcopy(start), start_mse, 0
    history = [{"epoch": 0.0, "train_mse": math.nan, "validation_mse": best_mse}]
    rng = np.random.default_rng([seed, 1])
    weights = balance([example.dice_M for example in examples])
    steps = _steps_an_epoch(examples, settings.batch_size)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _annealed(steps * settings.epochs))
    for epoch in range(1, settings.epochs + 1):
        squared = []
        for batch in np.array_split(rng.permutation(len(examples)), steps):
            optimizer.zero_grad()
            for i in batch:
                loss, mse = _image_loss(network, examples[i], weights[i], settings.batch_size, rng, device)
                (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
                squared.append(mse)
            if not math.isfinite(norm := float(torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0))):
                raise _diverged(epoch, norm, settings)
            optimizer.step()
            schedule.step()
            task.advance(1, train_mse=squared[-1])
        validation_mse = _mse(network, held_out, device)
        train_mse = float(np.mean(squared))
        history.append({"epoch": float(epoch), "train_mse": train_mse, "validation_mse": validation_mse})
        if not math.isfinite(validation_mse):
            raise _diverged(epoch, validation_mse, settings)
        if validation_mse < best_mse:
            best, best_mse, best_epoch = copy.deepcopy(network), validation_mse, epoch
    return _Trained(best.to("cpu").eval(), history, best_epoch)


def _image_loss(
    network: RewardNetwork,
    example: Example,
    weights_M: NDArray[np.float64],
    n_masks: int,
    rng: np.random.Generator,
    device: str,
) -> tuple[Tensor, float]:
    """Return `image_loss` of an example, turned or mirrored, with `n_masks` of its masks or all."""
    drawn = rng.permutation(len(example.dice_M))[:n_masks]
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def turned(x: Tensor) -> Tensor:
        return torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))[None].to(device)

    def numbers(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values[drawn]).to(torch.float32)[None].to(device)

    return image_loss(
        network,
        turned(example.channels_CHW),
        turned(example.truth_HW),
        turned(example.coverage(drawn)),
        numbers(example.dice_M),
        numbers(weights_M),
    )


def _steps_an_epoch(examples: Sequence[Example], batch_size: int) -> int:
    """Return the gradient steps of a pass over the images, each with all masks or `batch_size` of them."""
    images_a_step = max(1, batch_size // max((len(example.dice_M) for example in examples), default=1))
    return math.ceil(len(examples) / images_a_step)


def _annealed(n_steps: int) -> Callable[[int], float]:
    """Rise for a fifth of the steps, then fall as a cosine to a twentieth.

    Adam's first steps are as long as its last, whatever the gradient: at full rate they undo what a
    pretrained network knows (validation MSE .0021 -> .0027 after an epoch on 20 images, against .0022).
    """
    n_rising = max(1, n_steps // 5)

    def rate(step: int) -> float:
        falling = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, n_steps))))
        return min(1.0, (step + 1) / n_rising) * falling

    return rate


def _diverged(epoch: int, value: float, settings: TrainingSettings) -> InvalidResult:
    return InvalidResult(
        f"training the reward network diverged in epoch {epoch}: got {value}",
        advice=f"lower reward.network.learning_rate (now {settings.learning_rate:g})",
    )


def _mse(network: RewardNetwork, examples: Sequence[Example], device: str) -> float:
    predicted, true = _predictions(network, examples, device)
    return float(((predicted - true) ** 2).mean())


@torch.inference_mode()
def _predictions(
    network: RewardNetwork, examples: Sequence[Example], device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return predicted and true Dice `[N, K]` of the actions' masks."""
    predicted, true = [], []
    for example in examples:
        scores_M = network(
            example.channels_CHW[None].to(device), example.coverage(slice(0, example.n_actions), device)[None]
        )[0]
        predicted.append(scores_M.double().cpu().numpy())
        true.append(example.dice_M[: example.n_actions])
    return np.stack(predicted), np.stack(true)
