"""The policy as it ships: observer, network and action names in one file that needs neither torch nor PPO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.errors import InputError, IntegrityError
from job.finetune.observation import Features, Observations, Observer
from job.storage.tensor_file import read_tensors, write_tensors

FORMAT = "segmenter-rl-policy"
FORMAT_VERSION = 1

Weights = NDArray[np.float32]
StateDict = dict[str, Weights]

_MOST_BYTES = 16 << 20
"""Of a policy's file: 64 observations and 512 actions through two layers of 1,024 take 6 MB."""
_HIDDEN = "mlp_extractor.policy_net"
_HEAD = "action_net"


@dataclass(frozen=True)
class Layer:
    """An affine layer: `weight` float32 `[out, in]`, `bias` float32 `[out]`."""

    weight: Weights
    bias: Weights


@dataclass(frozen=True)
class Policy:
    """A tanh network that maps an image's observation to one of K actions.

    `actions` are the K actions' labels, in order; `layers` are the hidden layers and, last, the action head.
    Raises ValueError when shapes do not chain from the observer's D to K, or a weight is not finite float32.
    """

    observer: Observer
    layers: tuple[Layer, ...]
    actions: tuple[str, ...]

    def __post_init__(self) -> None:
        width = self.observer.size
        for position, layer in enumerate(self.layers):
            if layer.weight.ndim != 2 or layer.weight.shape[1] != width:
                raise ValueError(f"layer {position} is {layer.weight.shape}, and {width} numbers go in")
            width = len(layer.weight)
            if layer.bias.shape != (width,):
                raise ValueError(f"layer {position} has {width} outputs and a bias {layer.bias.shape}")
            for values in (layer.weight, layer.bias):
                if values.dtype != np.float32 or not np.isfinite(values).all():
                    raise ValueError(f"layer {position} is not made of finite float32 numbers")
        if not self.layers or width != len(self.actions):
            raise ValueError(
                f"the network ends in {width} numbers, and there are {len(self.actions)} actions"
            )

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers, `net_arch.pi` of the training."""
        return tuple(len(layer.bias) for layer in self.layers[:-1])

    def choose(self, embeddings_NE: Features, statistics_NS: Features) -> NDArray[np.int64]:
        """Choose the most probable action of each image, `[N]`; of equals the first."""
        logits_NK = self.logits(self.observer.observe(embeddings_NE, statistics_NS))
        return np.asarray(logits_NK.argmax(axis=1))

    def probabilities(self, embeddings_NE: Features, statistics_NS: Features) -> NDArray[np.float64]:
        """Return the probability of each action, `[N, K]`."""
        logits_NK = self.logits(self.observer.observe(embeddings_NE, statistics_NS)).astype(np.float64)
        odds_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
        return np.asarray(odds_NK / odds_NK.sum(axis=1, keepdims=True))

    def logits(self, observations_ND: Observations) -> Weights:
        """Return unnormalised log-probabilities of observations made by `observer`: float32 `[N, K]`."""
        values = observations_ND
        for layer in self.layers[:-1]:
            values = np.tanh(values @ layer.weight.T + layer.bias)
        return values @ self.layers[-1].weight.T + self.layers[-1].bias

    def check_fits(self, actions: Sequence[str], statistic_names: Sequence[str], embedding_size: int) -> None:
        """Raise InputError unless it chooses among just these actions from just these features."""
        advice = "Use the actions and the segmenter that the policy was trained with, or train a policy anew."
        if self.actions != tuple(actions):
            raise InputError(
                f"the policy chooses among {len(self.actions)} actions, not the spec's {len(actions)}:"
                f" {_first_difference(self.actions, actions)}",
                advice=advice,
            )
        if self.observer.statistic_names != tuple(statistic_names):
            raise InputError(
                "the policy observes other image statistics:"
                f" {_first_difference(self.observer.statistic_names, statistic_names)}",
                advice=advice,
            )
        if self.observer.embedding_size != embedding_size:
            raise InputError(
                f"the policy expects embeddings of {self.observer.embedding_size} numbers,"
                f" the segmenter gives {embedding_size}",
                advice=advice,
            )

    def save(self, path: Path) -> None:
        """Write the policy as one safetensors file, in one step."""
        tensors = {f"observer.{name}": values for name, values in self.observer.to_tensors().items()}
        tensors |= {f"policy.{name}": values for name, values in self.to_state_dict().items()}
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "observation_size": self.observer.size,
            "hidden_widths": self.hidden_widths,
            "activation": "tanh",
            "n_actions": len(self.actions),
            "actions": self.actions,
            "statistic_names": self.observer.statistic_names,
        }
        write_tensors(path, tensors, document)

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read what `save` wrote; InputError when it is missing, IntegrityError when it is damaged."""
        try:
            tensors, document = read_tensors(path, most_bytes=_MOST_BYTES)
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: no policy there", advice="Point to a policy.safetensors that a finished run wrote."
            ) from error
        try:
            return _rebuilt(tensors, document)
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"{path}: not a policy of this program: {error}",
                advice="Fetch an undamaged copy of the file.",
            ) from error

    def to_state_dict(self) -> StateDict:
        """Return the actor's part of an SB3 ActorCriticPolicy state dict; tanh layers stand between."""
        names = [f"{_HIDDEN}.{2 * i}" for i in range(len(self.layers) - 1)] + [_HEAD]
        state: StateDict = {}
        for name, layer in zip(names, self.layers, strict=True):
            state |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
        return state

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, NDArray[Any]], observer: Observer, actions: Sequence[str]
    ) -> "Policy":
        """Take the actor out of an SB3 ActorCriticPolicy state dict of arrays; the critic is left behind.

        Raises ValueError when a layer is missing or does not fit the observer and the actions.
        """
        n_hidden = sum(name.startswith(f"{_HIDDEN}.") and name.endswith(".weight") for name in state)
        names = [f"{_HIDDEN}.{2 * i}" for i in range(n_hidden)] + [_HEAD]
        missing = [name for name in names if not {f"{name}.weight", f"{name}.bias"} <= set(state)]
        if missing:
            raise ValueError(f"the state dict lacks {', '.join(missing)}")
        layers = tuple(Layer(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names)
        return cls(observer, layers, tuple(actions))


def _rebuilt(tensors: Mapping[str, NDArray[Any]], document: Mapping[str, Any]) -> Policy:
    if (document["format"], document["version"]) != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"format {document['format']!r}, version {document['version']!r}")
    if document["activation"] != "tanh":
        raise ValueError(f"activation {document['activation']!r}")
    parts: dict[str, dict[str, NDArray[Any]]] = {"observer": {}, "policy": {}}
    for name, values in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise ValueError(f"unknown tensor {name!r}")
        parts[part][rest] = values
    observer = Observer.from_tensors(parts["observer"], document["statistic_names"])
    policy = Policy.from_state_dict(parts["policy"], observer, document["actions"])
    found = (observer.size, list(policy.hidden_widths), len(policy.actions), set(policy.to_state_dict()))
    promised = (
        document["observation_size"],
        document["hidden_widths"],
        document["n_actions"],
        set(parts["policy"]),
    )
    if found != promised:
        raise ValueError(f"the tensors say {found[:3]}, the document {promised[:3]}")
    return policy


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    for position in range(max(len(ours), len(theirs))):
        mine = repr(ours[position]) if position < len(ours) else "nothing"
        other = repr(theirs[position]) if position < len(theirs) else "nothing"
        if mine != other:
            return f"at position {position} it has {mine}, not {other}"
    return "no difference"
