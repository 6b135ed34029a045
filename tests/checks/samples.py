"""Evidence of a healthy study, made up, to break in one place at a time."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.checks import CandidateEvidence, ValidityEvidence
from job.checks.evidence import Actions, Scores

N_IMAGES, N_ACTIONS = 12, 4
PATIENTS = tuple(f"p{i // 2}" for i in range(N_IMAGES))


def dice_table(seed: int = 0, n_images: int = N_IMAGES) -> Scores:
    """Dice in which images, actions and their interaction all matter; the no-op is not the best action."""
    rng = np.random.default_rng(seed)
    images_N1 = rng.normal(0.0, 0.06, (n_images, 1))
    actions_K = np.array([0.0, 0.03, 0.01, -0.04])
    return np.clip(0.7 + images_N1 + actions_K + rng.normal(0.0, 0.02, (n_images, N_ACTIONS)), 0.0, 1.0)


def sound_validity(**changes: Any) -> ValidityEvidence:
    """Evidence that every validity check passes, with some fields replaced."""
    rng = np.random.default_rng(1)
    dice_NK = dice_table()
    network_NK = dice_NK + rng.normal(0.0, 0.005, dice_NK.shape)
    own_M = network_NK[:, :2].ravel()
    sound = ValidityEvidence(
        names=tuple(f"image{i}" for i in range(N_IMAGES)),
        patients=PATIENTS,
        dice_NK=dice_NK,
        rewards_NK=0.5 * network_NK + 0.5 * dice_NK,
        terms={"reward_net": network_NK, "dice": dice_NK},
        weights={"reward_net": 0.5, "dice": 0.5},
        diversity_N=np.linspace(0.1, 0.3, N_IMAGES),
        replayed_dice_N=dice_NK[:, 0],
        baseline_dice_N=dice_NK[:, 0],
        reward_net_NK=network_NK,
        confidence_NK=rng.uniform(0.5, 1.0, dice_NK.shape),
        consensus_NK=rng.uniform(0.5, 1.0, dice_NK.shape),
        own_M=own_M,
        swapped_M=0.5 * own_M,
    )
    return replace(sound, **changes)


def sound_candidate(**changes: Any) -> CandidateEvidence:
    """Evidence of a policy that closes most of the gap, with some fields replaced."""
    dice_NK = dice_table()
    chosen_N = dice_NK.argmax(axis=1)
    sound = CandidateEvidence(
        patients=PATIENTS,
        dice_NK=dice_NK,
        rewards_NK=dice_NK,
        recall_NK=dice_NK + 0.05,
        precision_NK=dice_NK - 0.05,
        chosen_N=chosen_N,
        best_fixed=1,
        probabilities_NK=one_sided(chosen_N),
        last_rollout={
            "explained_variance": 0.4,
            "value_loss": 0.001,
            "approx_kl": 0.01,
            "clip_fraction": 0.1,
        },
        reward_variance=0.004,
        chosen_by_seed=[chosen_N, chosen_N, chosen_N],
    )
    return replace(sound, **changes)


def one_sided(chosen_N: Actions, likely: float = 0.85) -> NDArray[np.float64]:
    """Probabilities of a policy that is fairly sure of its choices."""
    rest = (1 - likely) / (N_ACTIONS - 1)
    probabilities_NK = np.full((len(chosen_N), N_ACTIONS), rest)
    probabilities_NK[np.arange(len(chosen_N)), chosen_N] = likely
    return probabilities_NK
