import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger

from job.errors import InvalidResult
from job.finetune.env import ActionChoiceEnv, TableRewards
from job.finetune.ppo import build_model
from job.finetune.recorder import check_finite, save_model
from job.spec.finetune import FinetuneSpec


class Watcher:
    """A Progress that notes every tick."""

    def __init__(self):
        self.tasks = []
        self.ticks = []

    def task(self, what, total, unit):
        """Note the task."""
        self.tasks.append((what, total, unit))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def advance(self, steps=1, **figures):
        """Note the tick."""
        self.ticks.append((steps, figures))


@pytest.fixture
def model(world):
    """Give an untrained PPO."""
    table = TableRewards(world.scores_NK, world.scores_NK, world.scores_NK)
    model = build_model(
        FinetuneSpec(), [ActionChoiceEnv(world.observations_ND, len(world.actions), table, seed=0)]
    )
    model.set_logger(Logger(None, []))
    return model


def test_progress_ticks_at_every_step_with_the_rollouts_means(world, tmp_path):
    """Each step of all environments is a tick; its figures are the means of the current rollout so far."""
    watcher = Watcher()
    asked = []

    def outcome(image, action):
        asked.append(source(image, action))
        return asked[-1]

    source = TableRewards(world.train_scores_NK, world.train_scores_NK - 0.1, world.train_scores_NK * 2)
    world.train(tmp_path, {"n_envs": 4, "n_steps": 8}, outcome=outcome, progress=watcher)
    assert watcher.tasks == [("training the policy", 96, "step")]
    ticks = [(steps, figures) for steps, figures in watcher.ticks if steps]  # the others look for a stop
    assert [steps for steps, _ in ticks] == [4] * 24
    for tick, (_, figures) in enumerate(ticks):
        of_rollout = asked[32 * (tick // 8) : 4 * (tick + 1)]
        assert figures["reward"] == pytest.approx(np.mean([o.reward for o in of_rollout]))
        assert figures["gt_dice"] == pytest.approx(np.mean([o.gt_dice for o in of_rollout]))
        assert figures["reward_net_score"] == pytest.approx(np.mean([o.reward_net for o in of_rollout]))


def test_a_model_is_replaced_in_one_step(model, tmp_path, monkeypatch):
    """A save that fails half-way leaves the model that was there."""
    path = tmp_path / "checkpoints" / "model.zip"
    save_model(model, path)
    before = path.read_bytes()

    def fails(archive):
        archive.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(model, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        save_model(model, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_policy_that_is_not_finite_has_diverged(model, value):
    """One weight that is not a number, or a loss that is not, is enough."""
    check_finite(model)
    model.logger.record("train/loss", value)
    with pytest.raises(InvalidResult, match="diverged"):
        check_finite(model)
    model.logger.record("train/loss", 0.5)
    with torch.no_grad():
        model.policy.value_net.bias[0] = value
    with pytest.raises(InvalidResult, match="diverged"):
        check_finite(model)
