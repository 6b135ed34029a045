"""Parts of a training's state as named arrays, for files that hold several: nothing is pickled."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def with_prefix(name: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return arrays under the names `name.<theirs>`."""
    return {f"{name}.{key}": values for key, values in arrays.items()}


def part(arrays: Mapping[str, NDArray[Any]], name: str) -> Arrays:
    """Return what `with_prefix` put under `name`, under its own names again."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}


def moments(optimizer: torch.optim.Optimizer) -> Arrays:
    """Return an optimiser's state as `<index>.<key>`; its settings are the caller's to set again."""
    return {
        f"{index}.{key}": values.cpu().numpy()
        for index, of_one in optimizer.state_dict()["state"].items()
        for key, values in of_one.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put back what `moments` returned."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, values in arrays.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = torch.from_numpy(np.array(values))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
