"""Resume of the reward network's training, bit for bit: one safetensors file a network, nothing pickled.

Networks train side by side, so each has a file of its own: no thread waits for another's. The global
generators play no part in a training and are not kept.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from job.errors import IntegrityError
from job.reward.examples import Example
from job.reward.network import RewardNetwork
from job.storage.digests import tensors_digest
from job.storage.tensor_file import Tensors, read_tensors, write_tensors
from job.training_state import moments, part, restore_moments, with_prefix

FORMAT_VERSION = 1
SAVE_EVERY_S = 5.0
"""Writing 2 MB to a slow disk takes a tenth of a second; losing five seconds is no loss."""
FIGURES = ("epoch", "train_mse", "validation_mse")


@dataclass
class TrainingState:
    """One network's training between two gradient steps: all that the next steps depend on.

    `history` begins with epoch 0, the start. Of the running epoch are kept the order of its images, the steps
    done and each image's squared error so far.
    """

    network: RewardNetwork
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    best: RewardNetwork
    history: list[dict[str, float]]
    best_epoch: int = 0
    epochs_done: int = 0
    steps_done: int = 0
    order: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    squared: list[float] = field(default_factory=list)


class Checkpoint:
    """The file of one network's latest state; without a path nothing is kept.

    `key` names the training (`training_key`): the state of another one is not taken.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._key = key
        self._saved_at = time.monotonic()

    def restore(self, state: TrainingState) -> None:
        """Bring a training that is about to begin to the kept state; one that cannot be used is no error.

        Starting over is always right and costs time only.
        """
        if self._path is None:
            return
        try:
            tensors, document = read_tensors(self._path)
        except (FileNotFoundError, IntegrityError):
            return
        if document == self._document():
            _put_back(tensors, state)

    def save_if_due(self, state: TrainingState) -> None:
        """Keep the state unless one was kept less than `SAVE_EVERY_S` ago."""
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Keep the state in place of the one before."""
        if self._path is not None:
            write_tensors(self._path, _captured(state), self._document())
            self._saved_at = time.monotonic()

    def _document(self) -> dict[str, Any]:
        return {"version": FORMAT_VERSION, "key": self._key}


def training_key(
    start: RewardNetwork, examples: Sequence[Example], held_out: Sequence[Example], facts: Mapping[str, Any]
) -> str:
    """Return a digest that two trainings share only if they start alike, see the same and do the same.

    `facts` is whatever else the weights depend on.
    """
    weights = {name: tensor.cpu().numpy() for name, tensor in start.state_dict().items()}
    seen = [[example.digest for example in images] for images in (examples, held_out)]
    # Another version of torch may round otherwise, and half a training of each would be the bits of neither.
    return tensors_digest(weights, [torch.__version__, dict(facts), start.config.to_dict(), seen])


def _captured(state: TrainingState) -> Tensors:
    record = {
        "rng": state.rng.bit_generator.state,
        "best_epoch": state.best_epoch,
        "epochs_done": state.epochs_done,
        "steps_done": state.steps_done,
    }
    tensors: Tensors = {
        # A tensor and no part of the document: the file's digest covers tensors alone.
        "record": np.frombuffer(json.dumps(record).encode(), np.uint8),
        "history": np.array([[row[figure] for figure in FIGURES] for row in state.history]),
        "order": state.order.astype(np.int64),
        "squared": np.array(state.squared, np.float64),
    }
    for name, network in (("network", state.network), ("best", state.best)):
        tensors |= with_prefix(name, {key: v.cpu().numpy() for key, v in network.state_dict().items()})
    return tensors | with_prefix("optimizer", moments(state.optimizer))


def _put_back(tensors: Tensors, state: TrainingState) -> None:
    record = json.loads(tensors["record"].tobytes())
    state.rng.bit_generator.state = record["rng"]
    state.best_epoch = record["best_epoch"]
    state.epochs_done = record["epochs_done"]
    state.steps_done = record["steps_done"]
    state.history = [dict(zip(FIGURES, row, strict=True)) for row in tensors["history"].tolist()]
    state.order = tensors["order"].astype(np.intp)
    state.squared = tensors["squared"].tolist()
    for name, network in (("network", state.network), ("best", state.best)):
        network.load_state_dict({key: torch.from_numpy(v) for key, v in part(tensors, name).items()})
    restore_moments(state.optimizer, part(tensors, "optimizer"))
