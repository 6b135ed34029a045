"""What the checks look at: arrays of N images (rows) x K actions (columns), gathered by whoever runs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Actions = NDArray[np.int64]

NOOP = 0
"""The action that stands for what the user has today."""


@dataclass(frozen=True)
class Leak:
    """A held-out image that looks like one from another split."""

    held_out: str
    held_out_split: str
    seen: str
    """The image that it resembles: one to learn from, or to choose on."""
    seen_split: str
    similarity: float
    """1 for the same picture."""


@dataclass(frozen=True)
class ValidityEvidence:
    """For checks 1 to 5 and split_leak; rows are training and validation images with a mask."""

    names: tuple[str, ...]
    patients: tuple[str, ...]
    dice_NK: Scores
    """True Dice in the action table."""
    rewards_NK: Scores
    """The reward as it is learned by; zeros where nothing learns by one."""
    terms: Mapping[str, Scores]
    """Each reward term of non-zero weight, `[N, K]` as scored: neither weighted nor normalised."""
    weights: Mapping[str, float]
    """What each term is multiplied by: its weight, divided by its scale where terms are normalised. Empty
    where nothing learns by a reward."""
    diversity_N: Scores
    """Mean pairwise 1 - Dice between the masks of an image's actions."""
    replayed_dice_N: Scores
    """Dice of the no-op as the environment reports it when it is stepped through."""
    baseline_dice_N: Scores
    """Dice of today's mask (first prompt, first post-processing), measured without table or environment."""
    reward_net_NK: Scores
    """The reward network's scores, cross-fitted on training images."""
    confidence_NK: Scores
    """A free judge: mean probability of the mask's foreground."""
    consensus_NK: Scores
    """A free judge: Dice of the mask with the majority of all actions' masks."""
    own_M: Scores
    """The reward network's scores of M masks shown with their own image."""
    swapped_M: Scores
    """Its scores of the same masks shown with another patient's image."""
    leaks: tuple[Leak, ...] = ()
    """Pairs that look alike across splits; those at or below the threshold do not count."""
    network_rewards: bool = True
    """Whether anything learns by the network's scores; else only its own pick, and forecasts, rest on it."""


@dataclass(frozen=True)
class GapEvidence:
    """For check 7, before learning; rows are training and validation images with a mask."""

    patients: tuple[str, ...]
    dice_NK: Scores
    left_out_N: Actions
    """For each image the action that is best on the other patients' images."""
    n_test_patients: int
    confidence: float = 0.95
    """Of the interval that the verdict will rest on."""


@dataclass(frozen=True)
class LadderEvidence:
    """For check 6: how the candidates compare on validation."""

    dice: Mapping[str, float]
    """Mean validation Dice over patients by candidate, simplest first, with the oracle."""
    simple: tuple[str, ...]
    """Candidates that learned nothing from image to image: uniform, noop, fixed actions."""
    learned: str | None
    """The learned candidate; None where nothing was trained."""


@dataclass(frozen=True)
class CandidateEvidence:
    """For checks 8 to 12: the learned candidate on validation images; rows are those with a mask."""

    patients: tuple[str, ...]
    dice_NK: Scores
    rewards_NK: Scores
    """The reward as the policy got it, on these images."""
    recall_NK: Scores
    precision_NK: Scores
    chosen_N: Actions
    """The policy's actions."""
    best_fixed: int
    """The action that is best on training images."""
    probabilities_NK: Scores
    """The policy's probability of each action."""
    last_rollout: Mapping[str, float] = field(default_factory=dict)
    """explained_variance, value_loss, approx_kl and clip_fraction at the end of training; any may lack or be
    NaN."""
    reward_variance: float = float("nan")
    """Variance of the reward over training images and actions: what a value loss compares with."""
    chosen_by_seed: Sequence[Actions] = ()
    """The actions of each training that differs by its seed alone."""
    confidence: float = 0.95
