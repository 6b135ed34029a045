"""PPO's share of the gap between the best fixed action and the oracle, seed by seed, from both starts.

    python benchmarks/gap_closed.py [specs/full.json] [--seeds 5] [--total-timesteps N] [--output FOLDER]

The best fixed action is that of the training images. Shares are of mean Dice over patients, on validation and
on test images: 1 is the oracle, 0 no better than the best fixed action. The exact solver stands beside PPO.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from training_table import TrainingTable, training_table

from job.finetune.choosers import best_fixed
from job.finetune.policy import Policy
from job.metrics.statistics import patient_means
from job.stages import table
from job.table import ActionTable


class Judged:
    """Validation or test images, and what the best fixed action and the oracle make of them."""

    def __init__(self, rows: ActionTable, fixed: int) -> None:
        self._rows = rows
        dice_NK = rows.scores["dice"]
        self.fixed = self._mean(np.full(len(dice_NK), fixed))
        self.oracle = self._mean(dice_NK.argmax(axis=1))

    def share(self, policy: Policy) -> float:
        """Return the share of the gap that the policy closes."""
        chosen_N = policy.choose(self._rows.embeddings_NE, self._rows.statistics_NS)
        return (self._mean(chosen_N) - self.fixed) / (self.oracle - self.fixed)

    def _mean(self, actions_N: np.ndarray) -> float:
        dice_N = self._rows.scores["dice"][np.arange(len(actions_N)), actions_N]
        return float(patient_means(dice_N, self._rows.patients).mean())


def ppo(data: TrainingTable, init: str, seed: int, total_timesteps: int) -> Policy:
    """Train by PPO."""
    settings = data.settings(init=init, total_timesteps=total_timesteps)
    with tempfile.TemporaryDirectory() as name:
        return data.ppo(settings, seed=seed, folder=Path(name)).policy


def main() -> None:
    """Print a row per seed and start, and their means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", default="specs/full.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--total-timesteps", type=int, help="default: the spec's")
    parser.add_argument("--output", type=Path, help="where stages are kept, and taken over from")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = training_table(arguments.spec, arguments.output or Path(name))
        test_rows = table.build(data.context, "test", scored=["dice"])
        rows = table.load(data.context)
    fixed = best_fixed(rows.of("train").scores["dice"])
    judged = {"validation": Judged(rows.of("validation"), fixed), "test": Judged(test_rows, fixed)}
    total_timesteps = arguments.total_timesteps or data.spec.policy.total_timesteps
    for side, one in judged.items():
        gap = one.oracle - one.fixed
        print(f"{side}: best fixed {one.fixed:.4f}, oracle {one.oracle:.4f}, gap {gap:.4f}")
    print(f"{'solver':<8}{'start':<8}{'seed':>5}{'validation':>12}{'test':>8}")
    for solver in ("PPO", "exact"):
        for init in ("prior", "random"):
            shares: dict[str, list[float]] = {side: [] for side in judged}
            for seed in range(arguments.seeds):
                policy = (
                    ppo(data, init, seed, total_timesteps)
                    if solver == "PPO"
                    else data.exact(init=init, seed=seed)
                )
                for side, one in judged.items():
                    shares[side].append(one.share(policy))
                print(
                    f"{solver:<8}{init:<8}{seed:>5}{shares['validation'][-1]:>12.2f}{shares['test'][-1]:>8.2f}"
                )
            means = {side: statistics.mean(values) for side, values in shares.items()}
            print(f"{solver:<8}{init:<8}{'mean':>5}{means['validation']:>12.2f}{means['test']:>8.2f}")


if __name__ == "__main__":
    main()
