"""Files of reward networks: what was saved comes back, anything else is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from job.errors import InputError, IntegrityError
from job.reward.network import RewardNetworkConfig
from job.reward.network_file import EMBEDDED, load, load_embedded, save, save_state_dict, scratch

Tensors = dict[str, torch.Tensor]
About = dict[str, Any]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_network_comes_back(dtype: torch.dtype, tmp_path: Path, small: RewardNetworkConfig) -> None:
    """Configuration and weights survive, rounded to the file's precision, ready to score in float32."""
    network = scratch(5, small)
    save(network, tmp_path / "net.safetensors", dtype=dtype)
    loaded = load(tmp_path / "net.safetensors")
    assert loaded.config == small
    assert not loaded.training
    for name, value in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], value.to(dtype).float())


def test_equal_networks_give_equal_files(tmp_path: Path, small: RewardNetworkConfig) -> None:
    """A file holds no time and no order of chance, so its digest can be compared."""
    for name in ("a", "b"):
        save(scratch(5, small), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_scratch_networks_follow_their_seed_alone(small: RewardNetworkConfig) -> None:
    """Equal seeds give equal weights, and PyTorch's own generator is left as it was."""
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first, second, other = scratch(0, small), scratch(0, small), scratch(1, small)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [network.state_dict()["encoder.0.conv1.weight"] for network in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_state_dict_is_readable_without_trust(tmp_path: Path, small: RewardNetworkConfig) -> None:
    """The reference's `.pth` is a plain state dict that `weights_only=True` accepts."""
    network = scratch(5, small)
    save_state_dict(network, tmp_path / "net.pth")
    loaded = torch.load(tmp_path / "net.pth", weights_only=True)
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


def test_a_pickle_is_refused(tmp_path: Path, small: RewardNetworkConfig) -> None:
    """A `.pth` could hold code: it is not opened, whatever it is called."""
    save_state_dict(scratch(5, small), tmp_path / "net.safetensors")
    with pytest.raises(IntegrityError, match=r"torch.save writes it, which can run code"):
        load(tmp_path / "net.safetensors")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    """The message names the place, the advice the field."""
    with pytest.raises(InputError, match=r"no reward network at .*nowhere") as caught:
        load(tmp_path / "nowhere.safetensors")
    assert "reward.network.uri" in caught.value.advice


def _without_one(tensors: Tensors, about: About) -> None:
    tensors.pop("style.bias")


def _with_another(tensors: Tensors, about: About) -> None:
    tensors["extra"] = torch.zeros(1)


def _misshapen(tensors: Tensors, about: About) -> None:
    tensors["style.bias"] = torch.zeros(3)


def _mistyped(tensors: Tensors, about: About) -> None:
    tensors["style.bias"] = tensors["style.bias"].double()


def _mixed(tensors: Tensors, about: About) -> None:
    tensors["style.bias"] = tensors["style.bias"].half()


def _not_finite(tensors: Tensors, about: About) -> None:
    tensors["style.bias"][0] = torch.nan


def _of_another_revision(tensors: Tensors, about: About) -> None:
    about["revision"] = 999


def _without_configuration(tensors: Tensors, about: About) -> None:
    about.pop("config")


def _with_unknown_field(tensors: Tensors, about: About) -> None:
    about["config"]["layers"] = 3


def _huge(tensors: Tensors, about: About) -> None:
    about["config"]["widths"] = [4, 10**9]


def _of_another_shape(tensors: Tensors, about: About) -> None:
    about["config"]["widths"] = [8, 8]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_without_one, r"missing: \['style.bias'\]"),
        (_with_another, r"unknown: \['extra'\]"),
        (_misshapen, r"style.bias has shape \[3\], not \[2\]"),
        (_mistyped, "style.bias is F64"),
        (_mixed, "style.bias is F16, the file says F32"),
        (_not_finite, "style.bias holds values that are not finite"),
        (_of_another_revision, "revision 999"),
        (_without_configuration, "metadata cannot be read"),
        (_with_unknown_field, "metadata cannot be read"),
        (_huge, "metadata cannot be read"),
        (_of_another_shape, "has shape"),
    ],
)
def test_what_is_not_exactly_a_network_is_refused(
    spoil: Callable[[Tensors, About], None], complaint: str, tmp_path: Path, small: RewardNetworkConfig
) -> None:
    """Each defect ends with an IntegrityError that names file and defect."""
    path = tmp_path / "net.safetensors"
    save(scratch(5, small), path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        about = json.loads(file.metadata()["reward_network"])
    spoil(tensors, about)
    save_file(tensors, path, {"reward_network": json.dumps(about)})
    with pytest.raises(IntegrityError, match=complaint) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert caught.value.advice


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"reward_network": "{"}, {"reward_network": "[]"}]
)
def test_other_safetensors_are_refused(
    metadata: dict[str, str] | None, tmp_path: Path, small: RewardNetworkConfig
) -> None:
    """The right tensors without the right metadata could mean anything."""
    save_file(dict(scratch(5, small).state_dict()), tmp_path / "net.safetensors", metadata)
    with pytest.raises(IntegrityError, match="metadata"):
        load(tmp_path / "net.safetensors")


def test_a_cut_off_file_is_refused(tmp_path: Path, small: RewardNetworkConfig) -> None:
    """Half a download is not half a network."""
    path = tmp_path / "net.safetensors"
    save(scratch(5, small), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="it is cut short"):
        load(path)


def test_the_embedded_network_is_small_and_loads() -> None:
    """It is at most 300 KB, so that all embedded weights stay below 1 MB."""
    assert EMBEDDED.stat().st_size <= 300_000
    assert load_embedded().config == RewardNetworkConfig()
