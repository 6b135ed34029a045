"""Reward networks in files: safetensors that describe themselves, checked before they are believed."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from job.errors import InputError, IntegrityError
from job.reward.network import REVISION, RewardNetwork, RewardNetworkConfig
from job.storage import strict_json
from job.storage.documents import open_plain
from job.storage.tensor_header import Header, TensorFacts, UnsafeFile, read_array, read_header

EMBEDDED = Path(__file__).with_name("embedded") / "model.safetensors"

_METADATA_KEY = "reward_network"
_MOST_BYTES = 64 * 2**20
_MOST_HEADER_BYTES = 2**20
_MOST_NUMBERS_A_LAYER = 2**26
"""Of what the widest layer makes of an image, 256 MiB; the network that ships stays below 3 million."""
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
    path.write_bytes(to_bytes(tensors, {_METADATA_KEY: json.dumps(about, sort_keys=True)}))


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
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_BYTES:
                raise UnsafeFile(f"it has {size:,} bytes, a reward network at most {_MOST_BYTES:,}")  # noqa: TRY301
            header = read_header(file, most_header_bytes=_MOST_HEADER_BYTES)
            config, dtype = _about(header)
            _check_shapes(header.tensors, config, dtype)
            tensors = {
                name: torch.from_numpy(read_array(file, facts)) for name, facts in header.tensors.items()
            }
        _check_values(tensors)
    except UnsafeFile as error:
        raise _refused(path, error) from error
    network = RewardNetwork(config)
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


def _about(header: Header) -> tuple[RewardNetworkConfig, str]:
    """Return configuration and dtype that the file claims."""
    if _METADATA_KEY not in header.metadata:
        raise UnsafeFile("its metadata do not call it a reward network")
    try:
        about = strict_json.parse(header.metadata[_METADATA_KEY])
        revision, dtype, fields = about["revision"], str(about["dtype"]), about["config"]
        if revision != REVISION:
            raise UnsafeFile(f"it is of revision {str(revision)[:20]}, this program reads {REVISION}")  # noqa: TRY301
        config = RewardNetworkConfig.from_dict(fields)
    except UnsafeFile:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UnsafeFile(f"its metadata cannot be read ({str(error)[:200]})") from error
    if max(config.widths) * config.max_side**2 > _MOST_NUMBERS_A_LAYER:
        raise UnsafeFile(f"a network of this size needs too much memory: {config}")
    return config, dtype


def _check_shapes(found: Mapping[str, TensorFacts], config: RewardNetworkConfig, dtype: str) -> None:
    """Compare the header with the network that the configuration describes, before any memory is taken."""
    with torch.device("meta"):
        wanted = RewardNetwork(config).state_dict()
    if found.keys() != wanted.keys():
        missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        raise UnsafeFile(f"tensors missing: {missing[:5] or 'none'}; unknown: {unknown[:5] or 'none'}")
    for name, facts in found.items():
        if facts.shape != tuple(wanted[name].shape):
            raise UnsafeFile(f"{name} has shape {list(facts.shape)}, not {list(wanted[name].shape)}")
        if facts.dtype != dtype or facts.dtype not in _DTYPES.values():
            raise UnsafeFile(f"{name} is {facts.dtype}, the file says {dtype[:20]}")


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not math.isfinite(float(tensor.to(torch.float32).abs().sum())):
            raise UnsafeFile(f"{name} holds values that are not finite")


def _refused(path: Path, why: UnsafeFile) -> IntegrityError:
    return IntegrityError(
        f"{path} is not a usable reward network: {why}",
        advice="name a best_reward_net.safetensors that this version wrote, or train a new network",
    )
