"""How many looks at the action table PPO needs to find the best fixed action, and how many the exact solver.

    python benchmarks/exact_vs_ppo.py [specs/quick.json specs/full.json] [--seeds 3] [--output FOLDER]

Counted until the policy's most probable actions bring 95 % of what the best fixed action brings over uniform
choice, in reward on training images. A look is an episode, or a cell of the table that was read: the prior
and the exact solver read all N x K once. Seconds are the whole training's up to there: PPO's include a
checkpoint a rollout, which is how its policy is known; the exact solver's its five left-out networks. Medians
over seeds. The last column is the share of the gap between best fixed action and oracle that the trained
policy closes, on the same training images and in the same reward.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from training_table import TrainingTable, training_table

from job.finetune.policy import Policy
from job.finetune.ppo import read_zip

SHARE = 0.95


@dataclass(frozen=True)
class Reached:
    """When a training reached the target (infinite: never), and the share of the oracle gap at its end."""

    looks: float
    updates: float
    seconds: float
    gap_closed: float


class Goal:
    """Mean training rewards that a policy is measured by."""

    def __init__(self, data: TrainingTable) -> None:
        self._data = data
        rewards_NK = data.rewards_NK
        self._fixed = float(rewards_NK.mean(axis=0).max())
        self._oracle = float(rewards_NK.max(axis=1).mean())
        uniform = float(rewards_NK.mean())
        self.target = uniform + SHARE * (self._fixed - uniform)

    def reward(self, policy: Policy) -> float:
        """Return the mean reward of the policy's most probable actions."""
        chosen_N = policy.logits(self._data.observations_ND).argmax(axis=1)
        return float(self._data.rewards_NK[np.arange(len(chosen_N)), chosen_N].mean())

    def gap_closed(self, policy: Policy) -> float:
        """Return the share of the gap between best fixed action and oracle."""
        return (self.reward(policy) - self._fixed) / (self._oracle - self._fixed)


class Clock:
    """A Progress that notes each update's reward and time."""

    def __init__(self) -> None:
        self.rewards: list[float] = []
        self.seconds: list[float] = []
        self._began = time.perf_counter()

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator["Clock"]:
        """Open the task."""
        yield self

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Note the update."""
        self.rewards.append(figures["reward"])
        self.seconds.append(time.perf_counter() - self._began)


def run_ppo(data: TrainingTable, goal: Goal, init: str, seed: int) -> Reached:
    """Train PPO and look at its policy after every rollout."""
    rollout = data.spec.policy.n_steps * data.spec.policy.n_envs
    settings = data.settings(init=init, checkpoint_every=rollout)
    looks = data.rewards_NK.size if init == "prior" else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        trained = data.ppo(settings, seed=seed, folder=folder)
        whole = time.perf_counter() - began
        # The checkpoint at the end of rollout j was written before its update: j - 1 updates made it.
        policies = [read_zip(folder / file, data.observer, data.actions) for file in trained.checkpoints]
    policies.append(trained.policy)
    closed = goal.gap_closed(trained.policy)
    for updates, policy in enumerate(policies):
        if goal.reward(policy) >= goal.target:
            seconds = whole * updates / (len(policies) - 1)
            return Reached(looks + updates * rollout, updates, seconds, closed)
    return Reached(math.inf, math.inf, math.inf, closed)


def run_exact(data: TrainingTable, goal: Goal, init: str, seed: int) -> Reached:
    """Solve exactly, and look at the network that leaves nothing out after every update."""
    # One patient alone can leave nothing out: the solver stays at its start.
    start = data.exact(init=init, seed=seed, patients=["one"] * len(data.rewards_NK))
    clock = Clock()
    closed = goal.gap_closed(data.exact(init=init, seed=seed, progress=clock))
    rewards, seconds = [goal.reward(start), *clock.rewards], [0.0, *clock.seconds]
    for updates, reward in enumerate(rewards):
        if reward >= goal.target:
            return Reached(data.rewards_NK.size, updates, seconds[updates], closed)
    return Reached(math.inf, math.inf, math.inf, closed)


def main() -> None:
    """Print a row per spec, solver and start."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("specs", nargs="*", default=["specs/quick.json", "specs/full.json"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="where stages are kept, and taken over from")
    arguments = parser.parse_args()
    print(f"{'spec':<24}{'solver':<8}{'start':<8}{'looks':>8}{'updates':>9}{'seconds':>9}{'gap closed':>12}")
    with tempfile.TemporaryDirectory() as name:
        for spec in arguments.specs:
            data = training_table(spec, arguments.output or Path(name))
            goal = Goal(data)
            for solver, run in (("PPO", run_ppo), ("exact", run_exact)):
                for init in ("prior", "random"):
                    found = [run(data, goal, init, seed) for seed in range(arguments.seeds)]
                    looks, updates, seconds, closed = (
                        statistics.median(getattr(one, figure) for one in found)
                        for figure in ("looks", "updates", "seconds", "gap_closed")
                    )
                    print(
                        f"{Path(spec).stem:<24}{solver:<8}{init:<8}{looks:>8g}{updates:>9g}{seconds:>9.2f}"
                        f"{closed:>12.2f}"
                    )


if __name__ == "__main__":
    main()
