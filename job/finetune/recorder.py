"""What goes on around PPO's own loop: figures, checkpoints, resume points, progress, divergence."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from job.errors import InvalidResult
from job.finetune.curves import Curves
from job.finetune.env import ActionChoiceEnv
from job.finetune.resume import CHECKPOINTS, ResumeFolder, ResumePoint
from job.progress import Task
from job.storage.local import write_atomic

CHECKPOINT_PREFIX = "sa2va_rl"
ADVICE = (
    "Lower finetune.learning_rate or finetune.max_grad_norm, and look at custom/* and train/* in logs/PPO_1."
)


class Recorder(BaseCallback):
    """Follows a training from rollout to rollout.

    All tags of a step describe the rollout that ended there, its update included: stable-baselines3 would log
    the update one rollout late, and the last one never. `custom/best_reward` is the highest reward of a
    single step so far. `point` is the boundary that training goes on from, if any.
    """

    def __init__(
        self,
        checkpoint_every: int,
        envs: Sequence[ActionChoiceEnv],
        curves: Curves,
        resume: ResumeFolder,
        task: Task,
        point: ResumePoint | None,
    ) -> None:
        super().__init__()
        self._checkpoint_every = checkpoint_every
        self._envs = envs
        self._curves = curves
        self._resume = resume
        self._task = task
        self.checkpoints: list[str] = point.record["checkpoints"] if point else []
        self._best_reward: float = point.record["best_reward"] if point else -math.inf
        self._begin_rollout()

    def _on_rollout_start(self) -> None:
        self._finish_rollout()

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        for info in infos:
            self._count(info)
        n_envs = len(infos)
        if self.num_timesteps % self._checkpoint_every < n_envs:
            self._checkpoint()
        self._task.advance(n_envs, **self._means())
        return True

    def _on_rollout_end(self) -> None:
        for name, value in self._means().items():
            if name != "reward":
                self.logger.record(f"custom/{name}", value)
        self.logger.record("custom/best_reward", self._best_reward)

    def _on_training_end(self) -> None:
        self._finish_rollout()

    def _begin_rollout(self) -> None:
        self._n_steps = 0
        self._reward_sum = 0.0
        self._n_labelled = 0
        self._gt_dice_sum = 0.0
        self._n_scored = 0
        self._reward_net_sum = 0.0

    def _count(self, info: dict[str, Any]) -> None:
        reward, gt_dice, reward_net = info["episode"]["r"], info["gt_dice"], info["reward_net"]
        if not math.isfinite(reward):
            raise InvalidResult(
                f"the reward of training image {info['image']} is {reward}",
                advice="Look at the reward terms of that image in the action table.",
            )
        self._n_steps += 1
        self._reward_sum += reward
        self._best_reward = max(self._best_reward, reward)
        if not math.isnan(gt_dice):
            self._n_labelled += 1
            self._gt_dice_sum += gt_dice
        if not math.isnan(reward_net):
            self._n_scored += 1
            self._reward_net_sum += reward_net

    def _means(self) -> dict[str, float]:
        means = {"reward": self._reward_sum / self._n_steps}
        if self._n_labelled:
            means["gt_dice"] = self._gt_dice_sum / self._n_labelled
        if self._n_scored:
            means["reward_net_score"] = self._reward_net_sum / self._n_scored
        return means

    def _checkpoint(self) -> None:
        name = f"{CHECKPOINTS}/{CHECKPOINT_PREFIX}_{self.num_timesteps}_steps.zip"
        assert isinstance(self.model, PPO)
        save_model(self.model, self._resume.path / name)
        self.checkpoints.append(name)

    def _finish_rollout(self) -> None:
        """After an update, at the boundary: check, log, keep. Nothing to do before the first rollout."""
        if self._n_steps == 0:
            return
        assert isinstance(self.model, PPO)
        check_finite(self.model)
        self.model.dump_logs(iteration=len(self._curves.rows) + 1)
        self._begin_rollout()
        record = {"checkpoints": self.checkpoints, "best_reward": self._best_reward}
        rows = self._curves.rows
        self._resume.save(self.model, self._envs, rows[-1], len(rows), record)


def save_model(model: PPO, path: Path) -> None:
    """Write stable-baselines3's zip, in one step."""
    archive = io.BytesIO()
    model.save(archive)
    write_atomic(path, archive.getvalue())


def check_finite(model: PPO) -> None:
    """Raise InvalidResult when a parameter, or the loss of the last update, is not a finite number."""
    loss = model.logger.name_to_value.get("train/loss", 0.0)
    if not math.isfinite(loss) or not all(torch.isfinite(p).all() for p in model.policy.parameters()):
        raise InvalidResult(
            f"training diverged: the policy is not finite after {model.num_timesteps} steps", advice=ADVICE
        )
