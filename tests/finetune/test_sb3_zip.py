"""The tensors of stable-baselines3 zips; `tests/hostile` has those that are hostile."""

import io
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from job.finetune import sb3_zip
from job.finetune.sb3_zip import read_policy_state


def test_the_policy_of_a_saved_model_comes_back(tmp_path: Path) -> None:
    """Every tensor of it, bit for bit."""
    model = PPO("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=8, batch_size=8, device="cpu")
    model.save(tmp_path / "model.zip")
    state = read_policy_state(tmp_path / "model.zip")
    assert state.keys() == model.policy.state_dict().keys()
    for name, values in model.policy.state_dict().items():
        np.testing.assert_array_equal(state[name], values.numpy())


def zip_of(path: Path, value: object) -> Path:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy.pth", buffer.getvalue())
    return path


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ([1], "no state dict"),
        ({1: torch.zeros(1)}, "no state dict"),
        ({"a": 1}, "more than plain tensors"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "more than plain tensors|more than tensors"),
        ({"a": torch.zeros(1, dtype=torch.complex64)}, "more than plain tensors"),
        ({"a": torch.zeros(1).expand(1 << 20)}, "more than plain tensors"),
    ],
)
def test_only_plain_tensors_by_name_are_taken(tmp_path: Path, value: object, complaint: str) -> None:
    """Tensors of another kind could claim more memory than the file has bytes."""
    with pytest.raises(ValueError, match=complaint):
        read_policy_state(zip_of(tmp_path / "m.zip", value))


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged by the sizes that the archives state, inside too, and by what really comes out."""
    path = zip_of(tmp_path / "m.zip", {"a": torch.zeros(50_000)})
    assert read_policy_state(path)["a"].shape == (50_000,)
    monkeypatch.setattr(sb3_zip, "MOST_BYTES", 100_000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_policy_state(path)
