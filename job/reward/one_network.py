"""Training one reward network: the epoch of least validation MSE is kept, an interruption costs seconds."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.errors import InvalidResult
from job.progress import Task
from job.reward.checkpoint import Checkpoint, TrainingState, training_key
from job.reward.examples import Example
from job.reward.losses import balance, image_loss
from job.reward.network import RewardNetwork


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
class TrainedNetwork:
    """The network of the best epoch, and `history[e]` of epoch e, epoch 0 being the start."""

    network: RewardNetwork
    history: list[dict[str, float]]
    best_epoch: int


def train_network(
    start: RewardNetwork,
    start_mse: float,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    *,
    settings: TrainingSettings,
    seed: int,
    device: str,
    checkpoint: Path | None,
    task: Task,
) -> TrainedNetwork:
    """Train a copy of `start`, whose MSE on `held_out` is `start_mse`, and keep the best epoch.

    What an interrupted call left in the file `checkpoint` is gone on from, to the same bits. Raises
    InvalidResult when training diverges, and whatever `task` raises.
    """
    state = _begun(start, start_mse, settings, seed)
    if device != "cpu":  # the order in which tensor cores want channels
        state.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept = _opened(checkpoint, start, examples, held_out, settings, seed, device, task)
    kept.restore(state)
    steps = steps_an_epoch(examples, settings.batch_size)
    task.advance(state.epochs_done * steps + state.steps_done)
    weights = balance([example.dice_M for example in examples])
    rate = _annealed(steps * settings.epochs)
    while state.epochs_done < settings.epochs:
        epoch = state.epochs_done + 1
        if state.steps_done == 0:
            state.order, state.squared = state.rng.permutation(len(examples)), []
        for batch in np.array_split(state.order, steps)[state.steps_done :]:
            _set_rate(state, settings.learning_rate * rate(state.epochs_done * steps + state.steps_done))
            state.optimizer.zero_grad()
            for i in batch:
                loss, mse = _image_loss(
                    state.network, examples[i], weights[i], settings.batch_size, state.rng, device
                )
                (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
                state.squared.append(mse)
            norm = float(torch.nn.utils.clip_grad_norm_(state.network.parameters(), 1.0))
            if not math.isfinite(norm):
                what = f"the gradient's norm is {norm} at step {state.steps_done + 1} of {steps}"
                raise _diverged(epoch, what, settings)
            state.optimizer.step()
            state.steps_done += 1
            kept.save_if_due(state)
            task.advance(1, train_mse=state.squared[-1])
        _end_epoch(state, mean_squared_error(state.network, held_out, device, task), settings)
    kept.save(state)
    best = state.best.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return TrainedNetwork(best, state.history, state.best_epoch)


def mean_squared_error(network: RewardNetwork, examples: Sequence[Example], device: str, task: Task) -> float:
    """Return the mean over images and actions of (predicted - true Dice) squared."""
    predicted, true = predictions(network, examples, device, task)
    return float(((predicted - true) ** 2).mean())


@torch.inference_mode()
def predictions(
    network: RewardNetwork, examples: Sequence[Example], device: str, task: Task
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return predicted and true Dice `[N, K]` of the actions' masks; raises what `task` raises."""
    predicted, true = [], []
    for example in examples:
        task.advance(0)
        scores_M = network(
            example.channels_CHW[None].to(device), example.coverage(slice(0, example.n_actions), device)[None]
        )[0]
        predicted.append(scores_M.double().cpu().numpy())
        true.append(example.dice_M[: example.n_actions])
    return np.stack(predicted), np.stack(true)


def steps_an_epoch(examples: Sequence[Example], batch_size: int) -> int:
    """Return the gradient steps of a pass over the images, each with all masks or `batch_size` of them."""
    images_a_step = max(1, batch_size // max((len(example.dice_M) for example in examples), default=1))
    return math.ceil(len(examples) / images_a_step)


def _begun(start: RewardNetwork, start_mse: float, settings: TrainingSettings, seed: int) -> TrainingState:
    network = copy.deepcopy(start).train()
    return TrainingState(
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), settings.learning_rate),
        rng=np.random.default_rng([seed, 1]),
        best=copy.deepcopy(start),
        history=[{"epoch": 0.0, "train_mse": math.nan, "validation_mse": start_mse}],
    )


def _opened(
    path: Path | None,
    start: RewardNetwork,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    device: str,
    task: Task,
) -> Checkpoint:
    if path is None:
        return Checkpoint(None, "")
    for example in (*examples, *held_out):
        task.advance(0)
        _ = example.digest  # kept by the example, which other networks share
    facts = {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "seed": seed,
        "device": device,
    }
    return Checkpoint(path, training_key(start, examples, held_out, facts))


def _set_rate(state: TrainingState, learning_rate: float) -> None:
    # torch's schedules hold the same numbers, and a state of their own that a resume would have to carry.
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate


def _end_epoch(state: TrainingState, validation_mse: float, settings: TrainingSettings) -> None:
    epoch = state.epochs_done + 1
    if not math.isfinite(validation_mse):
        raise _diverged(epoch, f"the validation MSE is {validation_mse}", settings)
    if validation_mse < state.history[state.best_epoch]["validation_mse"]:
        state.best, state.best_epoch = copy.deepcopy(state.network), epoch
    train_mse = float(np.mean(state.squared))
    state.history.append({"epoch": float(epoch), "train_mse": train_mse, "validation_mse": validation_mse})
    state.epochs_done, state.steps_done = epoch, 0


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


def _diverged(epoch: int, what: str, settings: TrainingSettings) -> InvalidResult:
    return InvalidResult(
        f"training the reward network diverged in epoch {epoch} of {settings.epochs}: {what}",
        advice=f"lower reward.network.learning_rate (now {settings.learning_rate:g})",
    )
