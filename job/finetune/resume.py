"""Exact resume of PPO: everything that a rollout boundary needs, in one safetensors file.

stable-baselines3 can go on exactly only between rollouts, and its own zip lacks the random states and the
environments. Nothing here is pickled.
"""

import hashlib
import json
import random
import shutil
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO

from job.errors import IntegrityError
from job.finetune.curves import Row, append_row, read_rows
from job.finetune.env import ActionChoiceEnv
from job.storage.tensor_file import Tensors, read_tensors, write_tensors
from job.training_state import moments, part, restore_moments, with_prefix

FORMAT_VERSION = 1
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class ResumePoint:
    """A rollout boundary that was read back: state for `restore`, curves, and the recorder's own record."""

    tensors: Tensors
    document: dict[str, Any]
    rows: list[Row]

    @property
    def record(self) -> dict[str, Any]:
        """What the caller gave to `save`."""
        record: dict[str, Any] = self.document["record"]
        return record


class ResumeFolder:
    """A folder that holds the latest rollout boundary of one training, and its checkpoints.

    `identity` names the training (settings, seed, observations): a boundary of another one is not taken. It
    cannot see the rewards, which are the caller's: a folder must never serve two different reward sources.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.path = folder
        self._state = folder / "training.safetensors"
        self._history = folder / "history.jsonl"
        self._identity = identity

    def save(
        self, model: PPO, envs: Sequence[ActionChoiceEnv], row: Row, n_rows: int, record: dict[str, Any]
    ) -> None:
        """Keep the boundary after rollout `n_rows`, its row of curves and a JSON `record` of the caller's."""
        # The row goes first: rows beyond the state's count are forgotten, a state beyond its rows is void.
        append_row(self._history, row)
        tensors, document = _captured(model, envs)
        document |= {
            "version": FORMAT_VERSION,
            "identity": self._identity,
            "n_rows": n_rows,
            "record": record,
        }
        # Losing a boundary costs a rollout; waiting for the disk at each would cost a tenth of the training.
        write_tensors(self._state, tensors, document, flush=False)

    def load(self) -> ResumePoint | None:
        """Return the latest boundary; None, with the folder emptied, when there is none that can be used.

        Starting over is always right and costs time only, so a damaged or foreign state is no error.
        """
        try:
            tensors, document = read_tensors(self._state)
            point = ResumePoint(tensors, document, read_rows(self._history, document["n_rows"]))
            same_training = (document["version"], document["identity"]) == (FORMAT_VERSION, self._identity)
            if same_training and all((self.path / name).is_file() for name in point.record["checkpoints"]):
                return point
        except (FileNotFoundError, IntegrityError, KeyError, ValueError):
            pass
        self._state.unlink(missing_ok=True)
        self._history.unlink(missing_ok=True)
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)
        return None


def identity_of(
    settings: dict[str, Any], seed: int, actions: Sequence[str], *arrays: NDArray[Any] | None
) -> str:
    """Return a digest that two trainings share only if they start alike."""
    digest = hashlib.sha256(json.dumps([settings, seed, list(actions)], sort_keys=True).encode())
    for values in arrays:
        digest.update(b"none" if values is None else f"{values.dtype} {values.shape}".encode())
        digest.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def restore(point: ResumePoint, model: PPO, envs: Sequence[ActionChoiceEnv]) -> None:
    """Bring a newly built model, its environments and the global generators to the boundary."""
    tensors, document = point.tensors, point.document
    model.policy.load_state_dict(
        {name: torch.from_numpy(values) for name, values in part(tensors, "policy").items()}
    )
    restore_moments(model.policy.optimizer, part(tensors, "optimiser"))
    model.num_timesteps = document["num_timesteps"]
    model._n_updates = document["n_updates"]
    model._last_obs = tensors["last_observations"]
    model._last_episode_starts = tensors["last_episode_starts"]
    model.ep_info_buffer = deque(
        ({"r": reward, "l": length} for reward, length in document["episodes"]),
        maxlen=model._stats_window_size,
    )
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    for e, env in enumerate(envs):
        env.restore(document["envs"][e], tensors[f"walk.{e}"])
    version, gauss = document["python_random"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss))
    np.random.set_state(  # noqa: NPY002 (SB3 draws its minibatches from the global generator)
        ("MT19937", tensors["random.numpy"], *document["numpy_random"])
    )
    torch.set_rng_state(torch.from_numpy(tensors["random.torch"]))


def _captured(model: PPO, envs: Sequence[ActionChoiceEnv]) -> tuple[Tensors, dict[str, Any]]:
    assert model._last_obs is not None
    assert model._last_episode_starts is not None
    assert model.ep_info_buffer is not None
    python_version, python_state, python_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (as above)
    tensors: Tensors = {
        "last_observations": np.asarray(model._last_obs),
        "last_episode_starts": model._last_episode_starts,
        "random.python": np.array(python_state, dtype=np.int64),
        "random.numpy": numpy_state["state"]["key"],
        "random.torch": torch.get_rng_state().numpy(),
    }
    for name, values in model.policy.state_dict().items():
        tensors[f"policy.{name}"] = values.numpy()
    tensors |= with_prefix("optimiser", moments(model.policy.optimizer))
    env_documents = []
    for e, env in enumerate(envs):
        env_document, tensors[f"walk.{e}"] = env.state()
        env_documents.append(env_document)
    document = {
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "episodes": [[float(episode["r"]), episode["l"]] for episode in model.ep_info_buffer],
        "envs": env_documents,
        "python_random": [python_version, python_gauss],
        "numpy_random": [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
    }
    return tensors, document
