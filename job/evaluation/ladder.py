"""The ladder: every way to choose an action, fitted on train, compared on validation, judged on test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.evaluation.results import Experiment
from job.finetune.choosers import (
    RidgeChooser,
    best_fixed,
    best_fixed_postprocess,
    best_fixed_prompt,
    fit_ridge,
)
from job.finetune.observation import Observer
from job.finetune.policy import Policy
from job.metrics.statistics import TIE, paired_uplift, patient_means
from job.table import ActionTable

Actions = NDArray[np.int64]

NOOP = "noop"
BEST_FIXED = "best_fixed"
PPO = "ppo"
ORACLE = "oracle"


@dataclass(frozen=True)
class Rung:
    """A way to choose: `choose(table) -> actions [N]`, reading nothing of the table that needs the truth."""

    name: str
    description: str
    choose: Callable[[ActionTable], Actions]
    experiment: Experiment | None = None
    fixed: int | None = None
    """The action, where it is the same for every image."""
    can_ship: bool = True


@dataclass(frozen=True)
class Ladder:
    """All rungs, simplest first, and what they were fitted with."""

    rungs: tuple[Rung, ...]
    observer: Observer
    ridge: RidgeChooser
    policy: Policy | None

    def __getitem__(self, name: str) -> Rung:
        return next(rung for rung in self.rungs if rung.name == name)


def build(
    train: ActionTable, labels: Sequence[str], n_postprocess: int, observer: Observer, policy: Policy | None
) -> Ladder:
    """Fit every rung on the training rows (with a mask) of the action table."""
    dice_NK = train.scores["dice"]
    observations_ND = observer.observe(train.embeddings_NE, train.statistics_NS)
    ridge = fit_ridge(observations_ND, dice_NK, train.patients)
    prompt = best_fixed_prompt(dice_NK, n_postprocess)
    postprocess = best_fixed_postprocess(dice_NK, n_postprocess)
    fixed = best_fixed(dice_NK)
    rungs = [
        _fixed(NOOP, "what the user has today: ", 0, labels),
        _fixed("best_fixed_prompt", "best prompt for all images: ", prompt, labels, "prompt optimisation"),
        _fixed(
            "best_fixed_postprocess",
            "best post-processing for all images: ",
            postprocess,
            labels,
            "post-processing optimisation",
        ),
        _fixed(BEST_FIXED, "best action for all images: ", fixed, labels),
        Rung(
            "ridge", "ridge regression per action, shrunk to the best fixed action", _ridge(observer, ridge)
        ),
        Rung("reward_net", "the action whose mask the reward network likes best", _network_choice),
    ]
    if policy is not None:
        rungs.append(Rung(PPO, "PPO policy", _policy_choice(policy), "reward-network RL"))
    rungs.append(Rung(ORACLE, "best action per image, with the truth in hand", _oracle, can_ship=False))
    return Ladder(tuple(rungs), observer, ridge, policy)


def scores_of(actions_N: Actions, scores_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pick each image's score under its chosen action, `[N]`."""
    return np.take_along_axis(scores_NK, actions_N[:, None], axis=1)[:, 0]


def choose_on_validation(
    dice: Mapping[str, NDArray[np.float64]], patients: Sequence[str], names: Sequence[str]
) -> str:
    """Return the simplest candidate within one standard error of the best; `names` stand simplest first.

    The standard error is that of the paired difference over patients, which leaves out how much images differ
    from each other (Breiman et al. 1984 use the unpaired one, which would call everything equal here).
    """
    mean = {name: float(patient_means(dice[name], patients).mean()) for name in names}
    best = max(names, key=lambda name: (round(mean[name], 12), -names.index(name)))
    for name in names:
        gap = paired_uplift(dice[best], dice[name], patients)
        error = gap.sd / np.sqrt(gap.n_patients) if gap.n_patients > 1 else np.inf
        if gap.mean <= max(error, TIE):
            return name
    return best


def _fixed(
    name: str, what: str, action: int, labels: Sequence[str], experiment: Experiment | None = None
) -> Rung:
    def choose(table: ActionTable) -> Actions:
        return np.full(len(table.names), action, dtype=np.int64)

    return Rung(name, what + labels[action], choose, experiment, fixed=action)


def _ridge(observer: Observer, ridge: RidgeChooser) -> Callable[[ActionTable], Actions]:
    return lambda table: ridge.choose(observer.observe(table.embeddings_NE, table.statistics_NS))


def _policy_choice(policy: Policy) -> Callable[[ActionTable], Actions]:
    return lambda table: policy.choose(table.embeddings_NE, table.statistics_NS)


def _network_choice(table: ActionTable) -> Actions:
    actions: Actions = table.scores["reward_net"].argmax(axis=1)
    return actions


def _oracle(table: ActionTable) -> Actions:
    actions: Actions = table.scores["dice"].argmax(axis=1)
    return actions
