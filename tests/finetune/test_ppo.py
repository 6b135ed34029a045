import random

import numpy as np
import pytest
import torch
from stable_baselines3.common.save_util import load_from_zip_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from job.actions import ActionSpace, PostProcess, apply, apply_all
from job.errors import InvalidResult, SpecError
from job.finetune.choosers import best_fixed
from job.finetune.env import Outcome, TableRewards
from job.finetune.policy import Policy
from job.finetune.ppo import prior_logits, read_zip

TAGS = {
    *(f"custom/{name}" for name in ("gt_dice", "reward_net_score", "best_reward")),
    *(f"rollout/{name}" for name in ("ep_rew_mean", "ep_len_mean")),
    *(
        f"train/{name}"
        for name in (
            *("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss"),
            *("explained_variance", "clip_range", "learning_rate"),
        )
    ),
    "time/fps",
}


def scalars(folder):
    """Read every scalar of a TensorBoard folder back: tag -> [(step, value)]."""
    events = EventAccumulator(str(folder / "logs" / "PPO_1"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_everything_is_written_under_its_name(world, tmp_path):
    """Steps are whole rollouts; final model, policy, checkpoints and curves have the reference's names."""
    result = world.train(tmp_path, {"total_timesteps": 70})
    assert result.total_timesteps == 96
    assert result.checkpoints == ["checkpoints/sa2va_rl_40_steps.zip", "checkpoints/sa2va_rl_80_steps.zip"]
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    events = {name for name in written if name.startswith("logs/PPO_1/events.out.tfevents.")}
    resume = {name for name in written if name.startswith("resume/")}
    assert len(events) == 1
    assert written - events - resume == {"final_model.zip", "policy.safetensors", *result.checkpoints}
    for policy in (
        Policy.load(tmp_path / "policy.safetensors"),
        read_zip(tmp_path / "final_model.zip", world.observer, world.actions),
    ):
        np.testing.assert_array_equal(
            policy.logits(world.observations_ND), result.policy.logits(world.observations_ND)
        )


def test_curves_have_the_documented_tags_and_the_iterations_figures(world, tmp_path):
    """TensorBoard shows each documented tag once a rollout, with the figures that iterations carry."""
    calls = []

    def outcome(image, action):
        calls.append(Outcome(float(world.scores_NK[image, action]), image / 100, action / 100))
        return calls[-1]

    result = world.train(tmp_path, outcome=outcome)
    curves = scalars(tmp_path)
    assert set(curves) == TAGS
    assert [i["timesteps"] for i in result.iterations] == [32, 64, 96]
    names = {"ep_rew_mean": "rollout/ep_rew_mean", "gt_dice": "custom/gt_dice", "fps": "time/fps"}
    names |= {name: f"custom/{name}" for name in ("reward_net_score", "best_reward")}
    names |= {
        name: f"train/{name}"
        for name in ("explained_variance", "value_loss", "policy_gradient_loss", "approx_kl", "clip_fraction")
    }
    for name, tag in names.items():
        assert curves[tag] == [
            (i["timesteps"], pytest.approx(i[name], rel=1e-5, abs=1e-7)) for i in result.iterations
        ]
    for rollout, iteration in enumerate(result.iterations):
        of_rollout = calls[32 * rollout : 32 * rollout + 32]
        assert iteration["gt_dice"] == pytest.approx(np.mean([o.gt_dice for o in of_rollout]))
        assert iteration["reward_net_score"] == pytest.approx(np.mean([o.reward_net for o in of_rollout]))
        assert iteration["best_reward"] == max(o.reward for o in calls[: 32 * rollout + 32])
        assert iteration["ep_rew_mean"] == pytest.approx(
            np.mean([o.reward for o in calls[: 32 * rollout + 32]][-100:]), abs=1e-6
        )
    assert 0 < result.iterations[0]["entropy"] < np.log(12)


def test_unlabelled_images_leave_dice_out_and_nothing_else(world, tmp_path):
    """Images without a truth count in reward and score; with no truth at all Dice is NaN and has no curve."""
    scores_NK = world.train_scores_NK
    nothing_NK = np.full_like(scores_NK, np.nan)
    result = world.train(tmp_path, outcome=TableRewards(scores_NK, nothing_NK, scores_NK))
    assert np.isnan([i["gt_dice"] for i in result.iterations]).all()
    assert np.isfinite([i["reward_net_score"] for i in result.iterations]).all()
    assert set(scalars(tmp_path)) == TAGS - {"custom/gt_dice"}


@pytest.mark.parametrize(
    ("n_envs", "every", "expected"),
    [(2, 40, [40, 80]), (3, 20, [21, 42, 60, 81]), (4, 2, list(range(4, 97, 4))), (1, 1000, [])],
)
def test_checkpoints_are_named_for_the_step_at_which_they_were_made(world, tmp_path, n_envs, every, expected):
    """The first step at or after each multiple gives a checkpoint, whatever the number of environments."""
    n_steps = 96 // n_envs
    result = world.train(tmp_path, {"n_envs": n_envs, "n_steps": n_steps, "checkpoint_every": every})
    names = [f"checkpoints/sa2va_rl_{step}_steps.zip" for step in expected]
    assert result.checkpoints == names
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*")) == sorted(
        name.split("/")[1] for name in names
    )


def test_the_prior_sets_the_action_heads_bias_and_nothing_else(world, tmp_path):
    """Untrained, `prior` chooses the best fixed action; its other weights are those of `random`."""
    prior_K = world.train_scores_NK.mean(axis=0)
    with_prior = world.train(tmp_path / "prior", {"total_timesteps": 0})
    assert (with_prior.iterations, with_prior.total_timesteps, with_prior.checkpoints) == ([], 0, [])
    state = with_prior.policy.to_state_dict()
    np.testing.assert_array_equal(state.pop("action_net.bias"), prior_logits(prior_K))
    chosen = with_prior.policy.choose(world.embeddings_NE, world.statistics_NS)
    assert set(chosen.tolist()) == {best_fixed(world.train_scores_NK)}
    # One rollout with a vanishing step size shows the weights that `random` starts from.
    crawl = {"init": "random", "total_timesteps": 1, "learning_rate": 1e-30}
    at_random = world.train(tmp_path / "random", crawl, prior_K=None).policy.to_state_dict()
    assert np.abs(at_random.pop("action_net.bias")).max() < 1e-25
    for name, values in state.items():
        np.testing.assert_allclose(values, at_random[name], atol=1e-25)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_prior_logits_keep_order_and_ignore_the_unit_of_reward(scale):
    """Better actions get higher odds, whatever the unit of reward; none becomes quite impossible."""
    rewards = np.array([0.5, 0.74, 0.75, 0.7, 0.1, 0.72])
    logits = prior_logits(rewards * scale + 3 * scale)
    np.testing.assert_array_equal(np.argsort(logits[[3, 5, 1, 2]]), range(4))
    np.testing.assert_allclose(logits, prior_logits(rewards), atol=1e-3)
    assert logits.max() == 0
    assert logits.min() >= -6
    np.testing.assert_array_equal(prior_logits(np.full(4, 0.3)), np.zeros(4))
    np.testing.assert_array_equal(prior_logits(np.array([0.3])), np.zeros(1))


def test_a_start_policy_is_judged_as_it_is_or_trained_further(world, tmp_path):
    """With no steps a given policy is written unchanged; with steps training begins at its weights."""
    first = world.train(tmp_path / "first").policy
    judged = world.train(tmp_path / "judged", {"total_timesteps": 0, "init": "random"}, start=first).policy
    crawl = {"total_timesteps": 1, "learning_rate": 1e-30}
    further = world.train(tmp_path / "further", crawl, start=first, seed=99).policy
    for policy in (judged, further):
        for name, values in first.to_state_dict().items():
            np.testing.assert_array_equal(policy.to_state_dict()[name], values)


def test_a_start_policy_must_have_the_layers_that_the_spec_asks_for(world, tmp_path):
    """A net_arch that the spec writes out and the policy does not have is a SpecError."""
    start = world.train(tmp_path / "first").policy
    with pytest.raises(SpecError, match=r"net_arch\.pi"):
        world.train(tmp_path / "second", {"net_arch": {"pi": [9], "vf": [8]}}, start=start)
    without = world.train(
        tmp_path / "third",
        {"total_timesteps": 0, "net_arch": {"pi": [8, 8]}},
        start=start,
    )
    assert without.policy.hidden_widths == (8, 8)


def test_nothing_to_start_from_is_a_spec_error(world, tmp_path):
    """No steps, no policy and a random start would judge noise."""
    with pytest.raises(SpecError, match="no policy to judge"):
        world.train(tmp_path, {"total_timesteps": 0, "init": "random"})


def test_equal_seeds_give_equal_bits_and_the_globals_stay_untouched(world, tmp_path):
    """A training depends on its seed alone, and leaves generators and the thread count as they were."""
    torch.set_num_threads(2)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 (the generator that SB3 uses)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    one = world.train(tmp_path / "one").policy.to_state_dict()
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002
    assert torch.get_num_threads() == 2
    two = world.train(tmp_path / "two").policy.to_state_dict()
    other = world.train(tmp_path / "three", seed=6).policy.to_state_dict()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
    assert any((values != other[name]).any() for name, values in one.items())


def test_a_live_source_gives_the_bits_of_the_table(world, tmp_path):
    """Acting on the logits at every step, on the caller's threads, trains the same policy as looking up."""
    rng = np.random.default_rng(0)
    space = ActionSpace(("a", "b", "c"), tuple(PostProcess(t) for t in (0.5, 0.3, 0.7, 0.9)))
    logits = rng.normal(size=(20, 3, 12, 12)).astype(np.float16)
    truths = rng.random((20, 24, 24)) < 0.4

    def dice(masks, truth):
        return 2 * (masks & truth).sum(axis=(-2, -1)) / (masks.sum(axis=(-2, -1)) + truth.sum())

    table_NK = np.stack([dice(apply_all(space, logits[i], (24, 24)), truths[i]) for i in range(20)])
    live_calls = []
    torch.set_num_threads(2)

    def live(image, action):
        live_calls.append((image, action))
        assert torch.get_num_threads() == 2
        score = float(dice(apply(space, action, logits[image], (24, 24)), truths[image]))
        return Outcome(score, score, score)

    prior_K = table_NK.mean(axis=0)
    table = TableRewards(table_NK, table_NK, table_NK)
    looked_up = world.train(tmp_path / "table", outcome=table, prior_K=prior_K)
    lived = world.train(tmp_path / "live", {"rollout": "live"}, outcome=live, prior_K=prior_K)
    assert torch.get_num_threads() == 2
    assert len(live_calls) == 96
    for name, values in looked_up.policy.to_state_dict().items():
        np.testing.assert_array_equal(values, lived.policy.to_state_dict()[name])


def test_an_unusable_reward_ends_the_job_as_invalid(world, tmp_path):
    """A NaN reward is named with its image, exit code 5."""
    scores_NK = world.train_scores_NK.copy()
    scores_NK[7] = np.nan
    with pytest.raises(InvalidResult, match="image 7 is nan") as error:
        world.train(tmp_path, outcome=TableRewards(scores_NK, scores_NK, scores_NK))
    assert error.value.exit_code == 5
    assert error.value.advice


def test_divergence_ends_the_job_as_invalid(world, tmp_path):
    """Rewards whose squares overflow make the policy NaN: InvalidResult with advice, not a crash of torch."""
    scores_NK = world.train_scores_NK * 1e30
    with pytest.raises(InvalidResult, match="diverged") as error:
        world.train(tmp_path, outcome=TableRewards(scores_NK, scores_NK, scores_NK))
    assert "learning_rate" in error.value.advice
    assert not (tmp_path / "final_model.zip").exists()


def test_the_longest_steps_that_a_spec_may_ask_for_end_with_numbers(world, tmp_path):
    """Clipped gradients keep the policy finite: it collapses onto few actions, for the ladder to judge."""
    result = world.train(tmp_path, {"learning_rate": 1.0, "max_grad_norm": 1000.0, "total_timesteps": 512})
    figures = [value for iteration in result.iterations for value in iteration.values()]
    assert np.isfinite(figures).all()
    assert result.iterations[-1]["entropy"] < 0.01
    assert all(np.isfinite(values).all() for values in result.policy.to_state_dict().values())


def test_from_the_prior_2048_steps_beat_the_best_fixed_action(make_world, tmp_path):
    """Where the best action depends on the image, quick's budget wins on new images for most seeds."""
    wins = 0
    for seed in range(3):
        world = make_world(seed, 0.03)
        settings = {"total_timesteps": 2048, "n_steps": 128, "batch_size": 64, "n_epochs": 10}
        settings |= {"net_arch": {"pi": [128, 64], "vf": [128, 64]}}
        policy = world.train(tmp_path / str(seed), settings, seed=seed).policy
        new = np.arange(world.n_train, len(world.scores_NK))
        chosen = policy.choose(world.embeddings_NE[new], world.statistics_NS[new])
        fixed = best_fixed(world.train_scores_NK)
        wins += world.scores_NK[new, chosen].mean() > world.scores_NK[new, fixed].mean()
    assert wins >= 2


def test_the_final_model_is_a_zip_that_ppo_reads(world, tmp_path):
    """The zip holds PPO's parameters and optimiser for `set_parameters`."""
    world.train(tmp_path)
    _, parameters, _ = load_from_zip_file(tmp_path / "final_model.zip", load_data=False)
    assert set(parameters) == {"policy", "policy.optimizer"}
