"""Faults of the kind that real studies have: each is named by its own check, and by no other of its kind."""

import numpy as np

from job.checks import CANDIDATE, VALIDITY, CandidateEvidence, Leak, Thresholds, ValidityEvidence
from tests.checks.samples import N_ACTIONS, N_IMAGES, PATIENTS, dice_table, sound_candidate, sound_validity


def failed_validity(evidence: ValidityEvidence) -> list[str]:
    return [result.name for check in VALIDITY if (result := check(evidence, Thresholds())).failed]


def failed_candidate(evidence: CandidateEvidence) -> list[str]:
    return [result.name for check in CANDIDATE if (result := check(evidence, Thresholds())).failed]


def test_a_collapsed_reward_is_named_by_reward_variance() -> None:
    """It tells images apart and no actions, as the reference experiment's reward did."""
    collapsed_NK = np.repeat(dice_table()[:, :1], N_ACTIONS, axis=1)
    evidence = sound_validity(
        terms={"foreground": collapsed_NK}, weights={"foreground": 1.0}, rewards_NK=collapsed_NK
    )
    assert failed_validity(evidence) == ["reward_variance"]


def test_a_reward_network_that_says_one_number_is_named_twice() -> None:
    """Alone in the reward it collapses it, and it is no proxy of Dice either."""
    constant_NK = np.full((N_IMAGES, N_ACTIONS), 0.7)
    evidence = sound_validity(
        terms={"reward_net": constant_NK},
        weights={"reward_net": 1.0},
        rewards_NK=constant_NK,
        reward_net_NK=constant_NK,
        own_M=np.full(4, 0.7),
        swapped_M=np.full(4, 0.7),
    )
    assert failed_validity(evidence) == ["reward_variance", "proxy_quality"]


def test_inert_actions_are_named_by_mask_diversity() -> None:
    """All actions make one mask, so that every score is the same for all of them."""
    inert_NK = np.repeat(dice_table()[:, :1], N_ACTIONS, axis=1)
    evidence = sound_validity(
        dice_NK=inert_NK,
        rewards_NK=inert_NK,
        terms={"dice": inert_NK},
        weights={"dice": 1.0},
        diversity_N=np.zeros(N_IMAGES),
        replayed_dice_N=inert_NK[:, 0],
        baseline_dice_N=inert_NK[:, 0],
        reward_net_NK=inert_NK,
        confidence_NK=inert_NK,
        consensus_NK=inert_NK,
    )
    assert failed_validity(evidence) == ["mask_diversity"]


def test_swapped_images_are_named_by_proxy_quality() -> None:
    """A network that is shown other images than it scores knows the actions and not the images."""
    dice_NK = dice_table()
    order = np.roll(np.argsort(dice_NK.mean(axis=1)), N_IMAGES // 2)
    swapped_NK = np.empty_like(dice_NK)
    swapped_NK[np.argsort(dice_NK.mean(axis=1))] = dice_NK[order]
    evidence = sound_validity(
        reward_net_NK=swapped_NK,
        terms={"reward_net": swapped_NK, "dice": dice_NK},
        rewards_NK=0.5 * swapped_NK + 0.5 * dice_NK,
    )
    assert failed_validity(evidence) == ["proxy_quality"]


def test_a_leaked_split_is_named_by_split_leak() -> None:
    """A test image that also stands in train, under another name."""
    evidence = sound_validity(leaks=(Leak("eye_9.png", "test", "copy.png", "train", 0.999),))
    assert failed_validity(evidence) == ["split_leak"]


def test_a_reward_of_recall_alone_is_named_by_reward_hacking() -> None:
    """The policy picks the widest mask: recall and reward rise, precision and Dice fall."""
    recall_NK = np.tile([0.7, 0.75, 0.65, 0.95], (N_IMAGES, 1))
    precision_NK = np.tile([0.72, 0.7, 0.74, 0.45], (N_IMAGES, 1))
    dice_NK = 2 * recall_NK * precision_NK / (recall_NK + precision_NK)
    widest_N = recall_NK.argmax(axis=1)
    failed = failed_candidate(
        sound_candidate(
            dice_NK=dice_NK,
            rewards_NK=recall_NK,
            recall_NK=recall_NK,
            precision_NK=precision_NK,
            chosen_N=widest_N,
            chosen_by_seed=[widest_N, widest_N],
        )
    )
    assert "reward_hacking" in failed
    assert "learning" not in failed
    assert "stability" not in failed


def test_a_reward_of_recall_alone_is_named_by_the_term_audit_before_learning() -> None:
    """Where wider masks are worse ones, recall ranks the actions the wrong way round."""
    recall_NK = np.tile([0.7, 0.75, 0.85, 0.95], (N_IMAGES, 1))
    dice_NK = dice_table().mean(axis=1, keepdims=True) + np.array([0.0, -0.02, -0.05, -0.1])
    evidence = sound_validity(
        dice_NK=dice_NK,
        rewards_NK=recall_NK,
        terms={"recall": recall_NK},
        weights={"recall": 1.0},
        replayed_dice_N=dice_NK[:, 0],
        baseline_dice_N=dice_NK[:, 0],
        reward_net_NK=dice_NK,
    )
    assert failed_validity(evidence) == ["term_audit"]


def test_a_policy_stuck_near_uniform_is_named_by_learning() -> None:
    """Its greedy choices may even be good: they hang by a thread."""
    rng = np.random.default_rng(7)
    nearly_NK = rng.dirichlet(np.full(N_ACTIONS, 200.0), len(PATIENTS))
    assert failed_candidate(sound_candidate(probabilities_NK=nearly_NK)) == ["learning"]
