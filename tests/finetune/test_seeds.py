import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.save_util import load_from_zip_file

from job.errors import Interrupted
from job.finetune.env import TableRewards
from job.finetune.policy import Policy
from job.finetune.seeds import Validation, median_index, train_seeds
from job.progress import SILENT
from job.spec.finetune import FinetuneSpec

SMALL = {
    "total_timesteps": 64,
    "n_steps": 16,
    "batch_size": 16,
    "n_epochs": 2,
    "checkpoint_every": 40,
    "learning_rate": 0.01,
    "init": "random",
    "net_arch": {"pi": [8, 8], "vf": [8]},
}


def validation_of(world):
    """Return new images of the world, two a patient but for the last."""
    rows = slice(world.n_train, world.n_train + 9)
    patients = [f"p{i // 2}" for i in range(9)]
    return Validation(world.observations_ND[rows], world.scores_NK[rows], patients)


def train(world, folder, settings=None, **arguments):
    """Call train_seeds on the world's training images."""
    scores_NK = world.train_scores_NK
    defaults = {
        "seed": 5,
        "observer": world.observer,
        "actions": world.actions,
        "observations_ND": world.observations_ND[: world.n_train],
        "outcome": TableRewards(scores_NK, scores_NK, scores_NK),
        "prior_K": scores_NK.mean(axis=0),
        "folder": folder,
        "resume_folder": folder.with_name(folder.name + " resume"),
        "start": None,
        "validation": validation_of(world),
        "progress": SILENT,
    }
    return train_seeds(FinetuneSpec.model_validate(SMALL | (settings or {})), **(defaults | arguments))


def files(folder):
    """Return the relative paths of a folder's files, with one name for event files."""
    found = (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return sorted(name.partition(".tfevents")[0] for name in found)


def assert_same_bits(one, two):
    """Compare two policies by bits."""
    wanted = two.to_state_dict()
    for name, values in one.to_state_dict().items():
        np.testing.assert_array_equal(values, wanted[name])


@pytest.mark.parametrize("n_seeds", [1, 3, 4])
def test_the_candidate_is_the_seed_of_median_validation_dice(world, tmp_path, n_seeds):
    """Every seed is a training of its own; the (lower) median of Dice over patients is the candidate."""
    done = train(world, tmp_path / "all", {"seeds": n_seeds})
    assert [one.seed for one in done.seeds] == list(range(5, 5 + n_seeds))
    validation = validation_of(world)
    dice = []
    for i, one in enumerate(done.seeds):
        alone = world.train(
            tmp_path / str(i), SMALL, seed=one.seed, outcome=TableRewards(*[world.train_scores_NK] * 3)
        )
        assert_same_bits(done.policies[i], alone.policy)
        chances = torch.distributions.Categorical(
            logits=torch.from_numpy(alone.policy.logits(validation.observations_VD)).double()
        )
        assert one.entropy == pytest.approx(float(chances.entropy().mean()) / math.log(12))
        chosen = alone.policy.logits(validation.observations_VD).argmax(axis=1).tolist()
        of_patient = {}
        for row, (patient, action) in enumerate(zip(validation.patients, chosen, strict=True)):
            of_patient.setdefault(patient, []).append(validation.dice_VK[row, action])
        dice.append(np.mean([np.mean(values) for values in of_patient.values()]))
        assert one.validation_dice == pytest.approx(dice[-1])
    if n_seeds > 1:
        assert len(set(dice)) > 1
    [candidate] = [i for i, one in enumerate(done.seeds) if one.ships]
    assert sum(value < dice[candidate] for value in dice) <= (n_seeds - 1) // 2
    assert sum(value > dice[candidate] for value in dice) <= n_seeds // 2
    assert_same_bits(done.result.policy, done.policies[candidate])


def test_files_of_the_candidate_lie_at_the_root(world, tmp_path):
    """The root holds what one training writes, of the candidate; others keep policy and logs alone."""
    folder = tmp_path / "out"
    (folder / "seeds" / "99").mkdir(parents=True)
    done = train(world, folder, {"seeds": 3})
    others = [one.seed for one in done.seeds if not one.ships]
    assert files(folder) == sorted(
        [
            "checkpoints/sa2va_rl_40_steps.zip",
            "final_model.zip",
            "logs/PPO_1/events.out",
            "policy.safetensors",
            *(f"seeds/{one}/logs/PPO_1/events.out" for one in others),
            *(f"seeds/{one}/policy.safetensors" for one in others),
        ]
    )
    assert done.result.checkpoints == ["checkpoints/sa2va_rl_40_steps.zip"]
    assert_same_bits(Policy.load(folder / "policy.safetensors"), done.result.policy)
    _, parameters, _ = load_from_zip_file(folder / "final_model.zip", load_data=False)
    weight = parameters["policy"]["action_net.weight"].numpy()
    np.testing.assert_array_equal(weight, done.result.policy.layers[-1].weight)
    for one, policy in zip(done.seeds, done.policies, strict=True):
        if not one.ships:
            kept = Policy.load(folder / "seeds" / str(one.seed) / "policy.safetensors")
            assert_same_bits(kept, policy)


@pytest.mark.parametrize("settings", [{"seeds": 1}, {"seeds": 3, "total_timesteps": 0, "init": "prior"}])
def test_one_training_has_no_folder_of_seeds(world, tmp_path, settings):
    """A single seed, or no step to take, gives one entry, which ships, and the files of one training."""
    done = train(world, tmp_path / "out", settings)
    assert [(one.seed, one.ships) for one in done.seeds] == [(5, True)]
    assert len(done.policies) == 1
    assert not (tmp_path / "out" / "seeds").exists()
    assert (tmp_path / "out" / "policy.safetensors").exists()


@pytest.mark.parametrize("stops", [(10,), (64,), (70,), (128, 40), (192,)])
def test_an_interrupted_call_ends_with_the_same_bits(world, tmp_path, stops_at, stops):
    """Stopped in any training or between two: equal policies and figures; no finished rollout is repeated."""
    expected = train(world, tmp_path / "whole", {"seeds": 3})
    scores_NK = world.train_scores_NK
    source, asked = TableRewards(scores_NK, scores_NK, scores_NK), []

    def outcome(image, action):
        asked.append(image)
        return source(image, action)

    resume_folder = tmp_path / "resume"
    for attempt, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            train(
                world, tmp_path / f"lost {attempt}", {"seeds": 3},
                resume_folder=resume_folder, progress=stops_at(stop),
            )  # fmt: skip
    asked.clear()
    done = train(world, tmp_path / "last", {"seeds": 3}, resume_folder=resume_folder, outcome=outcome)
    finished_rollouts = (max(stops) - 1) // 32
    assert len(asked) <= 192 - 32 * finished_rollouts
    assert done.seeds == expected.seeds
    for one, two in zip(done.policies, expected.policies, strict=True):
        assert_same_bits(one, two)
    assert files(tmp_path / "last") == files(tmp_path / "whole")


def test_progress_names_the_seed(world, tmp_path):
    """With several seeds each task says whose it is; with one it does not."""

    class Names:
        def __init__(self):
            self.names = []

        def task(self, what, total, unit):
            self.names.append(what)
            return SILENT.task(what, total, unit)

    several, one = Names(), Names()
    train(world, tmp_path / "several", {"seeds": 2}, progress=several)
    train(world, tmp_path / "one", {"seeds": 1}, progress=one)
    assert several.names == ["training the policy, seed 5", "training the policy, seed 6"]
    assert one.names == ["training the policy"]


@given(st.lists(st.integers(0, 4).map(float), min_size=1, max_size=9))
def test_the_median_is_the_lower_one_and_the_first_among_equals(values):
    """At most half of the values lie above it, fewer than half below, and no earlier value equals it."""
    index = median_index(values)
    assert sum(value < values[index] for value in values) <= (len(values) - 1) // 2
    assert sum(value > values[index] for value in values) <= len(values) // 2
    assert values[index] not in values[:index]


def test_one_action_has_no_entropy_to_share(make_world, tmp_path):
    """With a single action the share is not a number: a policy has nothing to be sure of."""
    world = make_world(0, 0.0, n_actions=1)
    done = train(world, tmp_path / "out", {"seeds": 1})
    assert math.isnan(done.seeds[0].entropy)
