import base64
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from job.errors import InputError, IntegrityError
from job.finetune.env import ActionChoiceEnv, TableRewards
from job.finetune.policy import Policy
from job.finetune.ppo import build_model, read_zip
from job.spec.finetune import FinetuneSpec
from job.storage.tensor_file import read_tensors, write_tensors


def trained_like(world, hidden=(128, 64), seed=0):
    """Return PPO with lively random weights, and its policy: an untrained head is almost constant."""
    table = TableRewards(world.scores_NK, world.scores_NK, world.scores_NK)
    env = ActionChoiceEnv(world.observations_ND, len(world.actions), table, seed=0)
    model = build_model(FinetuneSpec(), [env], hidden_widths=hidden)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(values.shape, generator=generator) * 0.5
        for name, values in model.policy.state_dict().items()
    }
    model.policy.load_state_dict(state)
    arrays = {name: values.numpy() for name, values in state.items()}
    return model, Policy.from_state_dict(arrays, world.observer, world.actions)


@pytest.mark.parametrize("hidden", [(128, 64), (5,), (), (9, 8, 7)])
def test_it_chooses_as_stable_baselines_would(world, hidden):
    """The arg-max is that of PPO's deterministic prediction, and probabilities are its distribution's."""
    model, policy = trained_like(world, hidden)
    expected, _ = model.predict(world.observations_ND, deterministic=True)
    chosen = policy.choose(world.embeddings_NE, world.statistics_NS)
    assert policy.hidden_widths == hidden
    assert len(set(chosen.tolist())) > 3
    np.testing.assert_array_equal(chosen, expected)
    distribution = model.policy.get_distribution(torch.from_numpy(world.observations_ND)).distribution
    probabilities = policy.probabilities(world.embeddings_NE, world.statistics_NS)
    np.testing.assert_allclose(probabilities, distribution.probs.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_file_brings_the_policy_back(world, tmp_path):
    """A saved and loaded policy has the same names and the same bits."""
    _, policy = trained_like(world)
    policy.save(tmp_path / "policy.safetensors")
    loaded = Policy.load(tmp_path / "policy.safetensors")
    assert loaded.actions == world.actions
    assert loaded.observer.statistic_names == ("kind", "a", "b", "c")
    np.testing.assert_array_equal(
        loaded.probabilities(world.embeddings_NE, world.statistics_NS),
        policy.probabilities(world.embeddings_NE, world.statistics_NS),
    )


def test_a_state_dict_goes_into_ppo_and_back(world):
    """The state dict names PPO's own parameters, and taking it back out gives the same layers."""
    model, policy = trained_like(world)
    state = model.policy.state_dict()
    for name, values in policy.to_state_dict().items():
        np.testing.assert_array_equal(state.pop(name).numpy(), values)
    assert all("vf" in name or "value" in name for name in state)
    again = Policy.from_state_dict(policy.to_state_dict(), policy.observer, policy.actions)
    assert again.hidden_widths == policy.hidden_widths


def spoilt_weight(tensors, document):
    """Put NaN into the action head."""
    tensors["policy.action_net.bias"] = tensors["policy.action_net.bias"] * np.float32(np.nan)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t, d: d.update(version=2),
        lambda t, d: d.update(format="other"),
        lambda t, d: d.update(activation="relu"),
        lambda t, d: d.update(n_actions=11),
        lambda t, d: d.update(actions=d["actions"][:-1]),
        lambda t, d: d.update(observation_size=3),
        lambda t, d: d.update(hidden_widths=[64, 128]),
        lambda t, d: d.pop("statistic_names"),
        lambda t, d: d.update(statistic_names=None),
        lambda t, d: t.pop("policy.action_net.bias"),
        lambda t, d: t.pop("observer.centre"),
        lambda t, d: t.update({"policy.extra": np.zeros(1, np.float32)}),
        lambda t, d: t.update({"critic.weight": np.zeros(1, np.float32)}),
        lambda t, d: t.update({"policy.action_net.weight": np.zeros((12, 63), np.float32)}),
        spoilt_weight,
    ],
)
def test_a_file_that_contradicts_itself_is_refused(world, tmp_path, spoil):
    """Whatever does not fit in a policy file, IntegrityError names the file and nothing is loaded."""
    path = tmp_path / "policy.safetensors"
    trained_like(world)[1].save(path)
    tensors, document = read_tensors(path)
    spoil(tensors, document)
    write_tensors(path, tensors, document)
    with pytest.raises(IntegrityError, match=r"policy\.safetensors"):
        Policy.load(path)


def test_a_missing_policy_is_an_input_error(world, tmp_path):
    """A path without a file is the user's to mend."""
    with pytest.raises(InputError):
        Policy.load(tmp_path / "policy.safetensors")
    with pytest.raises(InputError):
        read_zip(tmp_path / "final_model.zip", world.observer, world.actions)


def test_it_says_why_it_does_not_fit(world):
    """Other actions, other statistics or another embedding: InputError names the first difference."""
    _, policy = trained_like(world)
    policy.check_fits(world.actions, ("kind", "a", "b", "c"), 12)
    with pytest.raises(InputError, match="position 1 it has 'action 1', not 'x'"):
        policy.check_fits(("action 0", "x", *world.actions[2:]), ("kind", "a", "b", "c"), 12)
    with pytest.raises(InputError, match="position 11 it has 'action 11', not nothing"):
        policy.check_fits(world.actions[:-1], ("kind", "a", "b", "c"), 12)
    with pytest.raises(InputError, match="statistics"):
        policy.check_fits(world.actions, ("kind", "a", "c", "b"), 12)
    with pytest.raises(InputError, match="12 numbers"):
        policy.check_fits(world.actions, ("kind", "a", "b", "c"), 13)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_zip_is_read_without_running_it(world, tmp_path):
    """Code hidden in an SB3 zip runs when PPO loads it, and does not when we read it."""
    model, policy = trained_like(world)
    model.save(tmp_path / "model.zip")
    trap = tmp_path / "trap"
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    payload = base64.b64encode(pickle.dumps(Touch(trap))).decode()
    data["lr_schedule"] = {":type:": "<class 'function'>", ":serialized:": payload}
    parts["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    read = read_zip(tmp_path / "evil.zip", world.observer, world.actions)
    assert not trap.exists()
    np.testing.assert_array_equal(read.logits(world.observations_ND), policy.logits(world.observations_ND))
    PPO.load(tmp_path / "evil.zip", device="cpu")
    assert trap.exists()


@pytest.mark.parametrize("kind", ["garbage", "empty", "pickle", "other actions"])
def test_a_zip_that_is_no_model_is_refused(world, tmp_path, kind):
    """Garbage, an empty archive, pickled weights, or a model of other actions: IntegrityError."""
    path = tmp_path / "model.zip"
    actions = world.actions
    model, _ = trained_like(world)
    match kind:
        case "garbage":
            path.write_bytes(b"not a zip")
        case "empty":
            zipfile.ZipFile(path, "w").close()
        case "pickle":
            buffer = io.BytesIO()
            torch.save({"x": Touch(tmp_path / "trap")}, buffer)
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("policy.pth", buffer.getvalue())
        case "other actions":
            model.save(path)
            actions = world.actions[:-1]
    with pytest.raises(IntegrityError, match=r"model\.zip"):
        read_zip(path, world.observer, actions)
    assert not (tmp_path / "trap").exists()
