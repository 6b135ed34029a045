import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from job.errors import Interrupted
from job.finetune import exact
from job.finetune.choosers import best_fixed
from job.finetune.exact import train_exact
from job.progress import SILENT
from job.spec.finetune import FinetuneSpec


class Watcher:
    """A Progress that notes the figures of every update."""

    def __init__(self):
        self.totals = []
        self.figures = []

    def task(self, what, total, unit):
        """Note the task."""
        self.totals.append(total)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def advance(self, steps=1, **figures):
        """Note the update."""
        self.figures.append(figures)


def solve(world, **arguments):
    """Solve on the world's training images, with a small network from the prior unless told otherwise."""
    rewards_NK = arguments.get("rewards_NK", world.train_scores_NK)
    prior_K = rewards_NK.mean(axis=0) if len(rewards_NK) else None
    defaults = {
        "settings": FinetuneSpec.model_validate({"net_arch": {"pi": [16, 8]}}),
        "seed": 3,
        "observer": world.observer,
        "actions": world.actions,
        "observations_ND": world.observations_ND[: world.n_train],
        "rewards_NK": rewards_NK,
        "prior_K": prior_K,
        "progress": SILENT,
    } | arguments
    return train_exact(defaults.pop("settings"), **defaults)


def noisy(world, seed):
    """Return the world with rewards that are mostly noise."""
    noise_NK = np.random.default_rng(seed).normal(0, 0.03, world.scores_NK.shape)
    return type(world)(world.scores_NK + noise_NK, world.embeddings_NE, world.statistics_NS, world.n_train)


def uplift(world, policy):
    """Return the mean score of new images under the policy, less that of the best fixed action."""
    new = np.arange(world.n_train, len(world.scores_NK))
    chosen = policy.choose(world.embeddings_NE[new], world.statistics_NS[new])
    fixed = best_fixed(world.train_scores_NK)
    return float((world.scores_NK[new, chosen] - world.scores_NK[new, fixed]).mean())


@pytest.mark.parametrize("start", [{}, {"prior_K": None}])
def test_it_finds_what_depends_on_the_image(make_world, start):
    """From the prior and from random, most of the oracle's gain over the best fixed action on new images."""
    found, possible = [], []
    for seed in range(1, 5):
        world = make_world(seed, 0.03)
        found.append(uplift(world, solve(world, **start)))
        new_NK = world.scores_NK[world.n_train :]
        possible.append((new_NK.max(axis=1) - new_NK[:, best_fixed(world.train_scores_NK)]).mean())
    assert np.mean(found) > 0.8 * np.mean(possible)


def test_it_stays_at_the_best_fixed_action_where_there_is_noise_alone(make_world):
    """Left-out patients keep it from learning noise, though on training images there is much to gain."""
    worlds = [noisy(make_world(100 + seed, 0.0), seed) for seed in range(12)]
    tempting = [w.train_scores_NK.max(axis=1).mean() - w.train_scores_NK.mean(axis=0).max() for w in worlds]
    assert np.mean(tempting) > 0.01
    assert np.mean([uplift(world, solve(world)) for world in worlds]) > -0.001


def test_it_climbs_the_expected_reward_of_all_actions(make_world):
    """Its weights are those of an ordinary network that was updated as often on the objective as written."""
    world, watcher = make_world(1, 0.03), Watcher()
    settings = FinetuneSpec.model_validate({"net_arch": {"pi": [6]}, "ent_coef": 0.1})
    policy = solve(world, settings=settings, progress=watcher)
    start = solve(world, settings=settings, patients=["one"] * world.n_train)
    hidden, head = (torch.nn.Linear(*layer.weight.T.shape) for layer in start.layers)
    with torch.no_grad():
        for linear, layer in zip((hidden, head), start.layers, strict=True):
            linear.weight.copy_(torch.from_numpy(layer.weight))
            linear.bias.copy_(torch.from_numpy(layer.bias))
    network = torch.nn.Sequential(hidden, torch.nn.Tanh(), head)
    rewards_NK = world.train_scores_NK
    centred = rewards_NK - rewards_NK.mean(axis=1, keepdims=True)
    standard_NK = torch.from_numpy((centred / centred.std()).astype(np.float32))
    observed = torch.from_numpy(world.observations_ND[: world.n_train])
    left_out = [figures["left_out_reward"] for figures in watcher.figures]
    n_updates = int(np.argmax(left_out)) + 1
    assert watcher.totals == [len(left_out)]
    optimiser = torch.optim.Adam(network.parameters(), lr=exact.LEARNING_RATE)
    for _ in range(n_updates):
        chances = torch.distributions.Categorical(logits=network(observed))
        objective = (chances.probs * standard_NK).sum(dim=1) + 0.1 * chances.entropy()
        optimiser.zero_grad()
        (-objective.mean()).backward()
        optimiser.step()
    wanted_NK = network(observed).detach().numpy()
    found_NK = policy.logits(world.observations_ND[: world.n_train])
    np.testing.assert_allclose(found_NK, wanted_NK, atol=2e-3)
    assert np.abs(found_NK - start.logits(world.observations_ND[: world.n_train])).max() > 0.1
    greedy = rewards_NK[np.arange(world.n_train), found_NK.argmax(axis=1)].mean()
    assert watcher.figures[n_updates - 1]["reward"] == pytest.approx(greedy)


def test_images_of_a_patient_do_not_vouch_for_each_other(make_world):
    """Noise that two images of a patient share is learnt where they count as two, not as one patient's."""
    world = noisy(make_world(101, 0.0), 1)
    twice = np.repeat(np.arange(10), 2)
    doubled = {
        "observations_ND": world.observations_ND[twice],
        "rewards_NK": world.scores_NK[twice],
    }
    of_patients = solve(world, **doubled, patients=[f"p{i}" for i in twice])
    of_images = solve(world, **doubled)
    start = solve(world, **doubled, patients=["one"] * 20)
    observed = world.observations_ND[:10]
    np.testing.assert_array_equal(of_patients.logits(observed), start.logits(observed))
    assert np.abs(of_images.logits(observed) - start.logits(observed)).max() > 0.1


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=30), st.integers(0, 5))
def test_folds_part_no_patient_and_are_of_equal_size(patients, seed):
    """All images of a patient are left out together; folds differ by at most one patient."""
    fold_N = exact._folds(patients, seed)
    fold_of = dict(zip(patients, fold_N.tolist(), strict=True))
    assert [fold_of[patient] for patient in patients] == fold_N.tolist()
    sizes = [list(fold_of.values()).count(fold) for fold in range(min(exact.FOLDS, len(fold_of)))]
    assert sum(sizes) == len(fold_of)
    assert max(sizes) - min(sizes) <= 1


def test_it_stays_at_its_start_where_nobody_can_be_left_out(world):
    """Two patients are too few to learn from: the most probable action is the best fixed one."""
    policy = solve(world, patients=["a", "b"] * 10)
    assert set(policy.logits(world.observations_ND).argmax(axis=1)) == {best_fixed(world.train_scores_NK)}
    one = solve(
        world, observations_ND=world.observations_ND[:1], rewards_NK=world.train_scores_NK[:1], patients=None
    )
    assert set(one.logits(world.observations_ND).argmax(axis=1)) == {best_fixed(world.train_scores_NK[:1])}


def test_equal_rewards_teach_nothing(world):
    """A table without differences gives a finite policy that stays at its start."""
    flat_NK = np.full_like(world.train_scores_NK, 0.7)
    policy = solve(world, rewards_NK=flat_NK)
    start = solve(world, rewards_NK=flat_NK, patients=["one"] * world.n_train)
    np.testing.assert_array_equal(policy.logits(world.observations_ND), start.logits(world.observations_ND))


def test_units_of_the_reward_do_not_matter(make_world):
    """Rewards of four times the size give the same policy."""
    world = make_world(1, 0.03)
    one, four = solve(world), solve(world, rewards_NK=4 * world.train_scores_NK)
    np.testing.assert_array_equal(one.logits(world.observations_ND), four.logits(world.observations_ND))


def test_equal_arguments_give_equal_bits_and_the_globals_stay_untouched(make_world):
    """The policy depends on its arguments alone; generators and thread count are as they were."""
    world = make_world(1, 0.03)
    torch.set_num_threads(2)
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = solve(world), solve(world), solve(world, seed=4)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
    assert torch.get_num_threads() == 2
    assert one.hidden_widths == (16, 8)
    for name, values in one.to_state_dict().items():
        np.testing.assert_array_equal(values, two.to_state_dict()[name])
    assert any((values != other.to_state_dict()[name]).any() for name, values in one.to_state_dict().items())


def test_a_stop_request_ends_it(world, stops_at):
    """What progress raises comes through."""
    with pytest.raises(Interrupted):
        solve(world, progress=stops_at(5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rewards_NK": np.full((20, 12), np.nan), "prior_K": None},
        {"rewards_NK": np.zeros((20, 11)), "prior_K": None},
        {"prior_K": np.zeros(11)},
        {"prior_K": np.full(12, np.inf)},
        {"patients": ["a"]},
        {"observations_ND": np.zeros((20, 3), np.float32)},
        {"observations_ND": np.zeros((0, 8), np.float32), "rewards_NK": np.zeros((0, 12))},
    ],
)
def test_what_does_not_fit_is_refused(world, wrong):
    """Shapes that disagree and numbers that are not finite are the caller's mistake."""
    with pytest.raises(ValueError):
        solve(world, **wrong)
