"""What the finetune stage costs over bare PPO: environment, curves, checkpoints, resume states.

    python benchmarks/finetune_overhead.py [--pairs 7] [--total-timesteps 10000]

A pair runs the whole stage (`train_ppo`, from building the model to writing the policy) and then, or before,
`PPO.learn` alone on an environment that does nothing, with equal spaces, settings and one thread. Exit code 1
when the median ratio of steps per second is below `--least`. Ratios per processor second stand beside them:
these barely feel a busy machine, but leave out the time that files take to reach the disk.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from job.finetune.env import TableRewards
from job.finetune.observation import CLIP, Observer
from job.finetune.ppo import train_ppo
from job.progress import SILENT
from job.spec.finetune import FinetuneSpec

N_IMAGES, N_ACTIONS, EMBEDDING, N_STATISTICS = 20, 48, 64, 18


class IdleEnv(gymnasium.Env[np.ndarray, np.int64]):
    """Shows the same observation and rewards nothing, in episodes of one step."""

    def __init__(self, observation_size: int) -> None:
        self.observation_space = spaces.Box(-CLIP, CLIP, (observation_size,), np.float32)
        self.action_space = spaces.Discrete(N_ACTIONS)
        self._observation_D = np.zeros(observation_size, np.float32)

    def reset(self, *, seed=None, options=None):  # noqa: D102
        return self._observation_D, {}

    def step(self, action):  # noqa: D102
        return self._observation_D, 0.0, True, False, {}


class Speed(NamedTuple):
    """Environment steps per second."""

    per_second: float
    per_processor_second: float


class Watch:
    """Counts from its making."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def speed(self, steps: int) -> Speed:
        """Return the speed of `steps` steps since then."""
        began, processor_began = self._began
        return Speed(steps / (time.perf_counter() - began), steps / (time.process_time() - processor_began))


def whole_stage(settings: FinetuneSpec, seed: int) -> Speed:
    """Return the speed of the stage on a made-up table."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(N_IMAGES, EMBEDDING)).astype(np.float32)
    statistics_NS = rng.normal(size=(N_IMAGES, N_STATISTICS)).astype(np.float32)
    scores = rng.uniform(0.6, 0.8, (N_IMAGES, N_ACTIONS))
    names = [f"statistic {i}" for i in range(N_STATISTICS)]
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch()
        observer = Observer.fit(embeddings, statistics_NS, names, settings.pca_components)
        result = train_ppo(
            settings,
            seed=seed,
            observer=observer,
            actions=[f"action {k}" for k in range(N_ACTIONS)],
            observations_ND=observer.observe(embeddings, statistics_NS),
            outcome=TableRewards(scores, scores, scores),
            prior_K=scores.mean(axis=0),
            folder=Path(folder),
            resume_folder=Path(folder) / "resume",
            start=None,
            progress=SILENT,
        )
        return watch.speed(result.total_timesteps)


def bare_learn(settings: FinetuneSpec, seed: int) -> Speed:
    """Return the speed of `PPO.learn`, without building the model."""
    size = settings.pca_components + N_STATISTICS
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: IdleEnv(size)] * settings.n_envs),
        learning_rate=settings.learning_rate,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        ent_coef=settings.ent_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
        policy_kwargs={"net_arch": {"pi": settings.net_arch.pi, "vf": settings.net_arch.vf}},
        seed=seed,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    watch = Watch()
    model.learn(settings.total_timesteps)
    return watch.speed(model.num_timesteps)


def main() -> int:
    """Run the pairs and print their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--total-timesteps", type=int, default=10_000)
    parser.add_argument("--least", type=float, default=0.8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = FinetuneSpec(total_timesteps=arguments.total_timesteps)
    warm_up = FinetuneSpec(total_timesteps=1)
    whole_stage(warm_up, 0)
    bare_learn(warm_up, 0)

    ratios, processor_ratios = [], []
    for pair in range(arguments.pairs):
        order = (whole_stage, bare_learn) if pair % 2 == 0 else (bare_learn, whole_stage)
        speeds = {side: side(settings, pair) for side in order}
        stage, bare = speeds[whole_stage], speeds[bare_learn]
        ratios.append(stage.per_second / bare.per_second)
        processor_ratios.append(stage.per_processor_second / bare.per_processor_second)
        print(
            f"pair {pair}: stage {stage.per_second:.0f} steps/s, bare {bare.per_second:.0f} steps/s,"
            f" ratio {ratios[-1]:.3f}, of processor {processor_ratios[-1]:.3f}"
        )
    median = statistics.median(ratios)
    print(
        f"median ratio of {len(ratios)} pairs: {median:.3f} (least {arguments.least}),"
        f" of processor {statistics.median(processor_ratios):.3f}"
    )
    return 0 if median >= arguments.least else 1


if __name__ == "__main__":
    sys.exit(main())
