"""Reward networks in files: safetensors that describe themselves, checked before they are believed."""

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from job.errors import InputError, IntegrityError
from job.reward.network import REVISION, RewardNetwork, RewardNetworkConfig

EMBEDDED = Path(__file__).with_name("embedded") / "model.safetensors"

_METADATA_KEY = "reward_network"
_MOST_BYTES = 64 * 2**20
_DTYPES = {torch.float32: "F32", torch.float16: "F16"}


def save(network: RewardNetwork, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write weights as `dtype` (float32 or float16); configuration and revision go into the metadata."""
    if dtype not in _DTYPES:
        raise ValueError(f"a reward network is saved as float32 or float16, not {dtype}")
    tensors = {
        name: value.detach().cpu().to(dtype).contiguous() for name, value in network.state_dict().items()
    }
    about = {"revision": REVISION, "dtype": _DTYPES[dtype], "config": network.config.to_dict()}
    # One entry: safetensors writes several in an order of chance, and equal networks must have equal digests.
    save_file(tensors, path, {_METADATA_KEY: json.dumps(about, sort_keys=True)})


def save_state_dict(network: RewardNetwork, path: Path) -> None:
    """Write the plain state dict with `torch.save`, as the reference's tools read it (`weights_only=True`).

    For others to read: this program loads safetensors alone.
    """
    torch.save({name: value.detach().cpu() for name, value in network.state_dict().items()}, path)


def load(path: Path) -> RewardNetwork:
    """Read a network that `save` wrote; weights are float32 afterwards.

    Raises InputError when there is no such file, IntegrityError for a file that is anything but a complete
    network of this revision: no pickle, no unknown, missing, misshapen, mistyped or non-finite tensor.
    """
    if not path.is_file():
        raise InputError(
            f"no reward network at {path}",
            advice="reward.network.uri must name a run, or the best_reward_net.safetensors that it wrote",
        )
    if path.stat().st_size > _MOST_BYTES:
        raise _refused(path, f"it has {path.stat().st_size} bytes, a reward network at most {_MOST_BYTES}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise _refused(path, f"it is not a safetensors file ({error})") from error
    config, dtype = _about(path, metadata)
    network = RewardNetwork(config)
    _check_tensors(path, tensors, network.state_dict(), dtype)
    network.load_state_dict({name: value.to(torch.float32) for name, value in tensors.items()})
    return network.eval()


def load_embedded() -> RewardNetwork:
    """Read the network that ships with the program, pretrained on synthetic images that no spec uses."""
    return load(EMBEDDED)


def scratch(seed: int, config: RewardNetworkConfig | None = None) -> RewardNetwork:
    """Return an untrained network; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RewardNetwork(config or RewardNetworkConfig())


def _about(path: Path, metadata: dict[str, str]) -> tuple[RewardNetworkConfig, str]:
    """Return configuration and dtype that the file claims."""
    if _METADATA_KEY not in metadata:
        raise _refused(path, "its metadata do not call it a reward network")
    try:
        about = json.loads(metadata[_METADATA_KEY])
        revision, dtype = about["revision"], str(about["dtype"])
        if revision != REVISION:
            raise _refused(path, f"it is of revision {revision}, this program reads {REVISION}")
        return RewardNetworkConfig.from_dict(about["config"]), dtype
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, f"its metadata cannot be read ({error})") from error


def _check_tensors(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor], dtype: str) -> None:
    if found.keys() != wanted.keys():
        missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        raise _refused(path, f"tensors missing: {missing or 'none'}; unknown: {unknown or 'none'}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise _refused(path, f"{name} has shape {list(tensor.shape)}, not {list(wanted[name].shape)}")
        if _DTYPES.get(tensor.dtype, "unknown") != dtype:
            raise _refused(path, f"{name} is {tensor.dtype}, the file says {dtype}")
        if not math.isfinite(float(tensor.to(torch.float32).abs().sum())):
            raise _refused(path, f"{name} holds values that are not finite")


def _refused(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is not a usable reward network: {why}",
        advice="name a best_reward_net.safetensors that this version wrote, or train a new network",
    )
