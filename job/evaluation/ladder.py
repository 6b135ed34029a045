"""The ladder: every way to choose an action, fitted on train, compared on validation, judged on test."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from job.evaluation.results import Experiment
from job.finetune.choosers import (
    RidgeChooser,
    best_fixed,
    best_fixed_postprocess,
    best_fixed_prompt,
    fit_ridge,
    left_out_best_fixed,
)
from job.finetune.observation import Observer
from job.finetune.policy import Policy
from job.metrics.statistics import TIE, paired_uplift, patient_means
from job.table import ActionTable

Actions = NDArray[np.int64]

UNIFORM = "uniform"
NOOP = "noop"
BEST_FIXED = "best_fixed"
EXACT = "exact"
PPO = "ppo"
ORACLE = "oracle"
TUNED = {
    "sft": "weights trained on masks, and for all images: ",
    "grpo": "weights trained by reward, and for all images: ",
}
"""Algorithm of a phase that changes weights -> what its candidate does, before the action's label."""
OTHER_STARTS = {"prior": "ppo_random_start", "random": "ppo_prior_start"}
"""`finetune.init` -> the rung of a policy from the start that the spec did not ask for."""


@dataclass(frozen=True)
class Tables:
    """The action table of the job's segmenter, and of each that a phase made of it, on the same images.

    `tuned` is by the name of the phase, in the order of the phases.
    """

    base: ActionTable
    tuned: Mapping[str, ActionTable] = field(default_factory=dict)

    def of(self, rung: "Rung") -> ActionTable:
        """Return the table that a rung chooses from."""
        return self.base if rung.phase is None else self.tuned[rung.phase]


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
    left_out_dice: float | None = None
    """Mean Dice on training patients, each under what was fitted without it."""
    phase: str | None = None
    """The phase whose segmenter makes its masks; None: the job's own segmenter."""


@dataclass(frozen=True)
class Ladder:
    """All rungs, simplest first, and what they were fitted with."""

    rungs: tuple[Rung, ...]
    observer: Observer
    ridge: RidgeChooser
    policies: Mapping[str, Policy]
    """Rung -> policy."""

    def __getitem__(self, name: str) -> Rung:
        return next(rung for rung in self.rungs if rung.name == name)


def build(
    train: ActionTable,
    labels: Sequence[str],
    n_postprocess: int,
    observer: Observer,
    policies: Mapping[str, Policy],
    *,
    seed: int,
    tuned: Mapping[str, ActionTable] | None = None,
) -> Ladder:
    """Fit every rung on the training rows (with a mask) of the action table; `policies` come fitted.

    `tuned` are the validation rows of segmenters that phases have trained: on the training images, which they
    know by heart, an action cannot be chosen.
    """
    dice_NK = train.scores["dice"]
    observations_ND = observer.observe(train.embeddings_NE, train.statistics_NS)
    ridge = fit_ridge(observations_ND, dice_NK, train.patients)
    prompt = best_fixed_prompt(dice_NK, n_postprocess)
    postprocess = best_fixed_postprocess(dice_NK, n_postprocess)
    fixed = best_fixed(dice_NK)
    left_out = _left_out(train)
    rungs = [
        Rung(UNIFORM, "an action drawn at random for each image", _random(len(labels), seed), can_ship=False),
        _fixed(NOOP, "what the user has today: ", 0, labels),
        _fixed("best_fixed_prompt", "best prompt for all images: ", prompt, labels, "prompt optimisation"),
        _fixed(
            "best_fixed_postprocess",
            "best post-processing for all images: ",
            postprocess,
            labels,
            "post-processing optimisation",
        ),
        _fixed(BEST_FIXED, "best action for all images: ", fixed, labels, left_out_dice=left_out),
        Rung(
            "confidence",
            "the mask whose foreground the segmenter is surest of",
            _judge_choice("confidence"),
            can_ship=False,
        ),
        Rung(
            "consensus",
            "the mask that agrees best with the majority of all actions' masks",
            _judge_choice("consensus"),
            can_ship=False,
        ),
        Rung(
            "ridge", "ridge regression per action, shrunk to the best fixed action", _ridge(observer, ridge)
        ),
        Rung("reward_net", "the action whose mask the reward network likes best", _network_choice),
    ]
    rungs += [_policy_rung(name, policy) for name, policy in policies.items()]
    rungs += [_tuned_rung(name, rows, labels) for name, rows in (tuned or {}).items()]
    of_masks = " among the masks before weights were trained" if tuned else ""
    oracle = f"best action per image{of_masks}, with the truth in hand"
    rungs.append(Rung(ORACLE, oracle, _oracle, can_ship=False))
    return Ladder(tuple(rungs), observer, ridge, dict(policies))


def scores_of(actions_N: Actions, scores_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pick each image's score under its chosen action, `[N]`."""
    return np.take_along_axis(scores_NK, actions_N[:, None], axis=1)[:, 0]


def choose_on_validation(
    dice: Mapping[str, NDArray[np.float64]],
    patients: Sequence[str],
    names: Sequence[str],
    dropped: Collection[str] = (),
) -> str:
    """Return the simplest candidate within one standard error of the best; `names` stand simplest first.

    `dropped` ones do not stand. The standard error is that of the paired difference over patients, which
    leaves out how much images differ from each other (Breiman et al. 1984 use the unpaired one, which would
    call everything equal here).
    """
    standing = [name for name in names if name not in dropped]
    mean = {name: float(patient_means(dice[name], patients).mean()) for name in standing}
    best = max(standing, key=lambda name: (round(mean[name], 12), -standing.index(name)))
    for name in standing:
        gap = paired_uplift(dice[best], dice[name], patients)
        error = gap.sd / np.sqrt(gap.n_patients) if gap.n_patients > 1 else np.inf
        if gap.mean <= max(error, TIE):
            return name
    return best


def _fixed(
    name: str,
    what: str,
    action: int,
    labels: Sequence[str],
    experiment: Experiment | None = None,
    left_out_dice: float | None = None,
) -> Rung:
    def choose(table: ActionTable) -> Actions:
        return np.full(len(table.names), action, dtype=np.int64)

    return Rung(name, what + labels[action], choose, experiment, fixed=action, left_out_dice=left_out_dice)


def _left_out(train: ActionTable) -> float | None:
    """Mean Dice over training patients, each under the action that is best without it."""
    if len(set(train.patients)) < 2:
        return None
    dice_NK = train.scores["dice"]
    actions_N = left_out_best_fixed(dice_NK, train.patients)
    return float(patient_means(scores_of(actions_N, dice_NK), train.patients).mean())


def _random(n_actions: int, seed: int) -> Callable[[ActionTable], Actions]:
    def choose(table: ActionTable) -> Actions:
        return np.random.default_rng([seed, len(table.names)]).integers(0, n_actions, len(table.names))

    return choose


def _ridge(observer: Observer, ridge: RidgeChooser) -> Callable[[ActionTable], Actions]:
    return lambda table: ridge.choose(observer.observe(table.embeddings_NE, table.statistics_NS))


def _policy_rung(name: str, policy: Policy) -> Rung:
    what: dict[str, tuple[str, Experiment | None]] = {
        EXACT: ("policy by the exact expected gradient on the action table", None),
        PPO: ("PPO policy", "reward-network RL"),
        "ppo_random_start": ("PPO from random weights", None),
        "ppo_prior_start": ("PPO from the table's mean reward per action", None),
    }
    description, experiment = what[name]

    def choose(table: ActionTable) -> Actions:
        return policy.choose(table.embeddings_NE, table.statistics_NS)

    return Rung(name, description, choose, experiment, can_ship=name in (EXACT, PPO))


def is_tuned(rung: str) -> bool:
    """Tell whether a rung is a phase that changed the segmenter's weights: `sft`, `grpo`, `grpo_2`."""
    return rung.partition("_")[0] in TUNED


def _tuned_rung(name: str, validation: ActionTable, labels: Sequence[str]) -> Rung:
    means_K = [patient_means(dice_N, validation.patients).mean() for dice_N in validation.scores["dice"].T]
    action = int(np.argmax(means_K))
    return replace(_fixed(name, TUNED[name.partition("_")[0]], action, labels), phase=name)


def _network_choice(table: ActionTable) -> Actions:
    actions: Actions = table.scores["reward_net"].argmax(axis=1)
    return actions


def _judge_choice(judge: str) -> Callable[[ActionTable], Actions]:
    return lambda table: np.asarray(table.judges[judge].argmax(axis=1))


def _oracle(table: ActionTable) -> Actions:
    actions: Actions = table.scores["dice"].argmax(axis=1)
    return actions
