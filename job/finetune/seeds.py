"""Trainings that differ by their seed alone: the one of median validation Dice is the candidate.

The best of several seeds would be chosen for its luck on validation; the median is what a user may expect.
"""

import math
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.finetune.env import RewardSource
from job.finetune.observation import Observations, Observer
from job.finetune.policy import Policy
from job.finetune.ppo import FINAL_MODEL, LOGS, POLICY, PPOResult, train_ppo
from job.finetune.resume import CHECKPOINTS
from job.metrics.statistics import patient_means
from job.progress import Progress, Task
from job.spec.finetune import FinetuneSpec

SEEDS = "seeds"


@dataclass(frozen=True)
class Validation:
    """What tells seeds apart: observations `[V, D]`, true Dice `[V, K]` and patients of validation images."""

    observations_VD: Observations
    dice_VK: NDArray[np.float64]
    patients: Sequence[str]


@dataclass(frozen=True)
class SeedResult:
    """One training: its figures on validation, and whether it is the candidate.

    `validation_dice` is the mean over patients; `entropy` is the mean over images, as a share of a uniform
    policy's (NaN where there is but one action).
    """

    seed: int
    validation_dice: float
    entropy: float
    ships: bool


@dataclass(frozen=True)
class SeedsResult:
    """The candidate's training, and figures and policies of all trainings in the order of seeds."""

    result: PPOResult
    seeds: tuple[SeedResult, ...]
    policies: tuple[Policy, ...]


def train_seeds(
    settings: FinetuneSpec,
    *,
    seed: int,
    observer: Observer,
    actions: Sequence[str],
    observations_ND: Observations,
    outcome: RewardSource,
    prior_K: NDArray[np.float64] | None,
    folder: Path,
    resume_folder: Path,
    start: Policy | None,
    validation: Validation,
    progress: Progress,
) -> SeedsResult:
    """Call `train_ppo` with `settings.seeds` seeds from `seed` on, and choose the candidate.

    The candidate is the training of median validation Dice: of an even number the lower of the two in the
    middle, of equals the lowest seed. Its files lie in `folder` where `train_ppo` alone would put them; of
    the others, policy and logs lie under `seeds/<seed>/`. Without a step to take (`total_timesteps` 0) there
    is one entry. After an interruption the same call ends with the same bits: a training that had ended, of
    which `resume_folder/<seed>` is left, is read back without a step. Raises what `train_ppo` raises.
    """
    seeds = range(seed, seed + (settings.seeds if settings.total_timesteps else 1))
    shutil.rmtree(folder / SEEDS, ignore_errors=True)
    results = [
        train_ppo(
            settings,
            seed=one,
            observer=observer,
            actions=actions,
            observations_ND=observations_ND,
            outcome=outcome,
            prior_K=prior_K,
            folder=folder / SEEDS / str(one),
            resume_folder=resume_folder / str(one),
            start=start,
            progress=progress if len(seeds) == 1 else _OfSeed(progress, one),
        )
        for one in seeds
    ]
    policies = tuple(result.policy for result in results)
    dice = [_validation_dice(policy, validation) for policy in policies]
    candidate = median_index(dice)
    records = tuple(
        SeedResult(one, dice[i], _entropy_share(policies[i], validation), ships=i == candidate)
        for i, one in enumerate(seeds)
    )
    _arrange(folder, [str(one) for one in seeds], str(seeds[candidate]))
    return SeedsResult(results[candidate], records, policies)


def median_index(values: Sequence[float]) -> int:
    """Return where the median is: the lower one of an even number, the first among equals."""
    lower_median = sorted(values)[(len(values) - 1) // 2]
    return list(values).index(lower_median)


def _validation_dice(policy: Policy, validation: Validation) -> float:
    chosen_V = policy.logits(validation.observations_VD).argmax(axis=1)
    dice_V = validation.dice_VK[np.arange(len(chosen_V)), chosen_V]
    return float(patient_means(dice_V, validation.patients).mean())


def _entropy_share(policy: Policy, validation: Validation) -> float:
    logits_VK = policy.logits(validation.observations_VD).astype(np.float64)
    if logits_VK.shape[1] == 1:
        return math.nan
    log_VK = logits_VK - np.logaddexp.reduce(logits_VK, axis=1, keepdims=True)
    entropy_V = -(np.exp(log_VK) * log_VK).sum(axis=1)
    return float(entropy_V.mean() / math.log(logits_VK.shape[1]))


def _arrange(folder: Path, seeds: Sequence[str], candidate: str) -> None:
    """Move the candidate's files to the root; leave policy and logs of the others."""
    for name in (FINAL_MODEL, POLICY, CHECKPOINTS, LOGS):
        source, target = folder / SEEDS / candidate / name, folder / name
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    shutil.rmtree(folder / SEEDS / candidate)
    for other in set(seeds) - {candidate}:
        (folder / SEEDS / other / FINAL_MODEL).unlink()
        shutil.rmtree(folder / SEEDS / other / CHECKPOINTS, ignore_errors=True)
    if len(seeds) == 1:
        (folder / SEEDS).rmdir()


@dataclass(frozen=True)
class _OfSeed:
    """A Progress that names the seed."""

    progress: Progress
    seed: int

    def task(self, what: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return self.progress.task(f"{what}, seed {self.seed}", total, unit)
