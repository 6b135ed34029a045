"""Resume of a phase, bit for bit: weights, optimiser, looks and figures in one safetensors file.

What is random is drawn from generators of (seed, step), so that there is no random state to keep.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from job.errors import IntegrityError
from job.segmenters.trainable import Trainable
from job.storage.tensor_file import Tensors, read_tensors, write_tensors
from job.training_state import Arrays, moments, part, restore_moments, with_prefix
from job.tuning.guards import Looks

FORMAT_VERSION = 1
FILE = "phase.safetensors"


@dataclass
class State:
    """A phase between two steps: all that the next ones depend on but model and optimiser.

    `sums` are of the `n_summed` steps since the last look; `own` is what the phase keeps for itself.
    """

    best: dict[str, Tensor]
    step: int = 0
    looks: Looks = field(default_factory=Looks)
    curve: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    n_summed: int = 0
    ended: str | None = None


class PhaseFile:
    """The file of a phase's latest state; `key` names the phase, the state of another one is not taken."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path, self._document = folder / FILE, {"version": FORMAT_VERSION, "key": key}

    def save(self, state: State, model: Trainable, optimizer: torch.optim.Optimizer, own: Arrays) -> None:
        """Keep a state in place of the one before; `own` is what the phase keeps for itself."""
        record = {
            "step": state.step, "curve": state.curve, "sums": state.sums, "n_summed": state.n_summed,
            "ended": state.ended, "kl": state.looks.kl, "worth": state.looks.worth,
        }  # fmt: skip
        tensors: Tensors = {
            # A tensor and no part of the document: the file's digest covers tensors alone.
            "record": np.frombuffer(json.dumps(record).encode(), np.uint8),
            "gold": np.array(state.looks.gold),
            "proxy": np.array(state.looks.proxy),
        }
        tensors |= with_prefix("model", _arrays(model.state()))
        tensors |= with_prefix("best", _arrays(state.best))
        tensors |= with_prefix("optimiser", moments(optimizer)) | with_prefix("own", own)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self._path, tensors, self._document)

    def load(self, state: State, model: Trainable, optimizer: torch.optim.Optimizer) -> Arrays | None:
        """Bring a phase that is about to begin to the kept state; return what it had kept for itself.

        None where nothing can be used: starting over is always right and costs time only. Of a file that
        should be there and cannot be read it warns.
        """
        try:
            tensors, document = read_tensors(self._path)
        except FileNotFoundError:
            return None
        except IntegrityError as error:
            message = f"{error}; the phase begins at step 0"
            structlog.get_logger().warning("job.warning", message=message)
            return None
        if document != self._document:
            return None
        record: dict[str, Any] = json.loads(tensors["record"].tobytes())
        state.looks = Looks(
            list(tensors["gold"]),
            list(tensors["proxy"]),
            record.pop("kl"),
            record.pop("worth"),
            state.looks.slack,
        )
        for name, value in record.items():
            setattr(state, name, value)
        state.best = _tensors(part(tensors, "best"))
        model.load_state(_tensors(part(tensors, "model")))
        restore_moments(optimizer, part(tensors, "optimiser"))
        return part(tensors, "own")


def _arrays(state: dict[str, Tensor]) -> Arrays:
    return {name: values.numpy() for name, values in state.items()}


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}
