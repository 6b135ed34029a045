"""Checks 1 to 5 and split_leak, each on its own."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from job.checks import VALIDITY, Leak, Thresholds, ValidityEvidence
from job.checks.validity import (
    mask_diversity,
    proxy_quality,
    replay_identity,
    reward_variance,
    split_leak,
    term_audit,
)
from tests.checks.samples import N_ACTIONS, N_IMAGES, dice_table, sound_validity

HELD = Thresholds()


def test_sound_evidence_passes_every_check() -> None:
    """Each says what it measured; there is nothing to advise, and the order is that of their numbers."""
    results = [check(sound_validity(), HELD) for check in VALIDITY]
    assert [(r.name, r.outcome, r.severity, r.advice) for r in results] == [
        (name, "passed", "validity", "")
        for name in (
            "replay_identity",
            "mask_diversity",
            "reward_variance",
            "term_audit",
            "proxy_quality",
            "split_leak",
        )
    ]
    assert all(r.finding and math.isfinite(r.value) for r in results)
    assert all(type(value) is float for r in results for value in r.details.values())


@settings(max_examples=25)
@given(st.permutations(range(N_IMAGES)))
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    """Evidence is a set of images, though it is stored in rows."""
    sound, rows = sound_validity(), np.array(order)
    shuffled = replace(
        sound,
        names=tuple(sound.names[i] for i in order),
        patients=tuple(sound.patients[i] for i in order),
        terms={term: scores_NK[rows] for term, scores_NK in sound.terms.items()},
        **{name: getattr(sound, name)[rows] for name in vars(sound) if name.endswith(("_NK", "_N"))},
    )
    for check in VALIDITY:
        before, after = check(sound, HELD), check(shuffled, HELD)
        assert (after.outcome, after.finding, after.advice) == (before.outcome, before.finding, before.advice)
        assert after.details == pytest.approx(before.details)


def test_a_path_that_scores_otherwise_fails_and_names_the_worst_image() -> None:
    """The largest difference counts, whatever its sign: a mean would hide one wrong resize."""
    sound = sound_validity()
    replayed_N = sound.baseline_dice_N.copy()
    replayed_N[3] -= 0.06
    replayed_N[5] += 0.01
    result = replay_identity(replace(sound, replayed_dice_N=replayed_N), HELD)
    assert result.failed
    assert result.value == pytest.approx(0.06)
    assert "look at image3" in result.advice
    assert f"on {N_IMAGES} images" in result.finding


def test_a_replay_difference_of_just_the_tolerance_passes() -> None:
    """The boundary belongs to what is allowed."""
    at = sound_validity(baseline_dice_N=np.full(N_IMAGES, 0.5), replayed_dice_N=np.full(N_IMAGES, 0.75))
    assert replay_identity(at, replace(HELD, replay_tolerance=0.25)).outcome == "passed"
    assert replay_identity(at, replace(HELD, replay_tolerance=np.nextafter(0.25, 0))).failed


def test_an_image_that_was_never_replayed_fails() -> None:
    """A missing number is no small number."""
    replayed_N = sound_validity().baseline_dice_N.copy()
    replayed_N[1] = np.nan
    result = replay_identity(sound_validity(replayed_dice_N=replayed_N), HELD)
    assert result.failed
    assert math.isnan(result.value)
    assert "look at image1" in result.advice


def test_actions_that_make_the_same_masks_fail() -> None:
    """Nothing can be chosen between them; the boundary passes, and a missing number does not."""
    result = mask_diversity(sound_validity(diversity_N=np.zeros(3)), HELD)
    assert result.failed
    assert "inert" in result.advice
    quarter = replace(HELD, min_mask_diversity=0.25)
    assert mask_diversity(sound_validity(diversity_N=np.full(3, 0.25)), quarter).outcome == "passed"
    assert mask_diversity(sound_validity(diversity_N=np.array([0.5, np.nan, 0.5])), HELD).failed


def test_reward_variance_is_a_ratio_of_deviations_within_images() -> None:
    """Recomputed row by row; image means, however far apart, do not count."""
    dice_NK = dice_table(5)
    rewards_NK = 0.3 * dice_NK**2 + np.arange(N_IMAGES)[:, None]
    result = reward_variance(
        sound_validity(dice_NK=dice_NK, rewards_NK=rewards_NK, weights={"a": 0.4, "b": -0.6}), HELD
    )
    within = math.sqrt(np.mean([row.var() for row in rewards_NK]))
    assert result.value == pytest.approx(within / math.sqrt(np.mean([row.var() for row in dice_NK])))
    assert result.details["reward.within"] == pytest.approx(within)
    assert result.details["reward.between"] == pytest.approx(rewards_NK.mean(axis=1).std())
    assert result.details["dice.action"] == pytest.approx(dice_NK.mean(axis=0).std())
    assert result.outcome == "passed"


@pytest.mark.parametrize("unit", [1e-3, 1.0, 50.0])
def test_the_unit_of_the_reward_does_not_matter(unit: float) -> None:
    """Weights 1 and 50 teach the same policy, so that the check must say the same."""
    sound = sound_validity()
    scaled = replace(
        sound,
        rewards_NK=unit * sound.rewards_NK,
        weights={term: unit * weight for term, weight in sound.weights.items()},
    )
    assert reward_variance(scaled, HELD).value == pytest.approx(reward_variance(sound, HELD).value)


def test_a_reward_of_just_the_least_spread_passes() -> None:
    """A quarter of Dice is a quarter of its deviation, exactly in binary."""
    dice_NK = np.array([[0.25, 0.75], [0.5, 0.75]])
    at = sound_validity(names=("a", "b"), dice_NK=dice_NK, rewards_NK=0.25 * dice_NK, weights={"x": 1.0})
    assert reward_variance(at, replace(HELD, min_reward_spread=0.25)).outcome == "passed"
    result = reward_variance(at, replace(HELD, min_reward_spread=0.26))
    assert result.failed
    assert "hardly tells actions apart" in result.advice


def test_images_with_a_flat_reward_are_counted() -> None:
    """Their share says whether the reward is poor everywhere, or empty for some."""
    rewards_NK = sound_validity().rewards_NK.copy()
    rewards_NK[:3] = 0.4
    assert reward_variance(sound_validity(rewards_NK=rewards_NK), HELD).details["flat_images"] == 0.25


@pytest.mark.parametrize("n_actions", [1, N_ACTIONS])
def test_without_spread_of_dice_the_reward_has_nothing_to_be_held_to(n_actions: int) -> None:
    """One action, or actions of equal Dice: neither passed nor failed."""
    flat_NK = np.repeat(dice_table()[:, :1], n_actions, axis=1)
    result = reward_variance(sound_validity(dice_NK=flat_NK, rewards_NK=flat_NK), HELD)
    assert result.outcome == "unmeasured"
    assert math.isnan(result.value)


def test_a_reward_without_weights_is_a_programming_error() -> None:
    """Dividing by no weight at all would make any reward look large."""
    with pytest.raises(ValueError, match="every weight is 0"):
        reward_variance(sound_validity(weights={"dice": 0.0}), HELD)


def test_terms_are_audited_by_rank_and_by_share() -> None:
    """Recomputed with scipy's Spearman and numpy's covariance; shares add up to the whole reward."""
    rng = np.random.default_rng(3)
    dice_NK = dice_table(3)
    terms = {"dice": dice_NK, "recall": dice_NK + rng.normal(0, 0.02, dice_NK.shape)}
    weights = {"dice": 0.7, "recall": 0.3}
    rewards_NK = 0.7 * terms["dice"] + 0.3 * terms["recall"]
    result = term_audit(
        sound_validity(dice_NK=dice_NK, terms=terms, weights=weights, rewards_NK=rewards_NK), HELD
    )
    ranks = [stats.spearmanr(a, b).statistic for a, b in zip(terms["recall"], dice_NK, strict=True)]
    assert result.outcome == "passed"
    assert result.value == pytest.approx(np.mean(ranks))
    assert result.details["recall.mean"] == pytest.approx(terms["recall"].mean())
    assert result.details["recall.sd"] == pytest.approx(terms["recall"].std())
    assert result.details["dice.correlation"] == pytest.approx(1.0)
    assert result.details["recall.share"] + result.details["dice.share"] == pytest.approx(1.0)
    term = 0.3 * (terms["recall"] - terms["recall"].mean(axis=1, keepdims=True)).ravel()
    reward = (rewards_NK - rewards_NK.mean(axis=1, keepdims=True)).ravel()
    covariance = np.cov(term, reward, ddof=0)
    assert result.details["recall.share"] == pytest.approx(covariance[0, 1] / covariance[1, 1])


def test_a_term_that_pays_for_worse_masks_is_named() -> None:
    """It fails beside any number of good terms; with its weight turned round it is a good one."""
    sound = sound_validity()
    terms = dict(sound.terms) | {"betti": 1 - sound.dice_NK}
    against = replace(sound, terms=terms, weights=dict(sound.weights) | {"betti": 0.1})
    result = term_audit(against, HELD)
    assert result.failed
    assert result.value == pytest.approx(-1.0)
    assert "betti agrees least" in result.finding
    assert "betti pays for worse masks" in result.advice
    turned = replace(against, weights=dict(sound.weights) | {"betti": -0.1})
    assert term_audit(turned, HELD).outcome == "passed"
    unused = replace(against, weights=dict(sound.weights) | {"betti": 0.0})
    assert term_audit(unused, HELD).outcome == "passed"


def test_a_correlation_of_just_the_least_passes() -> None:
    """Three images of 0.6, -0.2 and -0.4 make 0; that floats make it -2e-17 is no harm done."""
    dice_NK = np.tile([0.1, 0.2, 0.3, 0.4], (3, 1))
    terms = {"x": np.array([[2.0, 1, 4, 3], [4, 1, 2, 3], [3, 2, 4, 1]])}
    at = sound_validity(dice_NK=dice_NK, terms=terms, weights={"x": 1.0}, rewards_NK=terms["x"])
    value = term_audit(at, HELD).value
    assert value < 0
    assert value == pytest.approx(0.0, abs=1e-12)
    assert term_audit(at, HELD).outcome == "passed"
    assert term_audit(at, replace(HELD, min_term_correlation=0.01)).failed


def test_a_term_that_is_the_same_for_every_action_is_advised_against_but_does_not_fail() -> None:
    """It teaches nothing and does no harm; where all are such, nothing is measured."""
    sound = sound_validity()
    flat_NK = np.repeat(sound.dice_NK[:, :1], N_ACTIONS, axis=1)
    one = replace(
        sound, terms=dict(sound.terms) | {"cldice": flat_NK}, weights=dict(sound.weights) | {"cldice": 1.0}
    )
    result = term_audit(one, HELD)
    assert result.outcome == "passed"
    assert result.advice == "the same for every action, so without use: cldice"
    assert math.isnan(result.details["cldice.correlation"])
    every = replace(sound, terms={"cldice": flat_NK}, weights={"cldice": 1.0}, rewards_NK=flat_NK)
    assert term_audit(every, HELD).outcome == "unmeasured"


def test_proxy_quality_is_measured_as_the_books_do() -> None:
    """R2 against the mean of all masks, mean absolute error, Spearman and regret, each recomputed."""
    sound = sound_validity()
    result = proxy_quality(sound, HELD)
    true_NK, network_NK = sound.dice_NK, sound.reward_net_NK
    assert result.value == pytest.approx(
        1 - ((network_NK - true_NK) ** 2).sum() / ((true_NK - true_NK.mean()) ** 2).sum()
    )
    assert result.details["mae"] == pytest.approx(np.abs(network_NK - true_NK).mean())
    assert result.details["swap_effect"] == pytest.approx(np.abs(sound.own_M - sound.swapped_M).mean())
    for judge, scores_NK in (("reward_net", network_NK), ("consensus", sound.consensus_NK)):
        rows = list(zip(scores_NK, true_NK, strict=True))
        ranks = [stats.spearmanr(a, b).statistic for a, b in rows]
        assert result.details[f"{judge}.spearman"] == pytest.approx(np.mean(ranks))
        assert result.details[f"{judge}.regret"] == pytest.approx(
            np.mean([b.max() - b[a.argmax()] for a, b in rows])
        )


def test_a_network_no_better_than_the_mean_fails() -> None:
    """R2 of 0, always saying the mean, is just not enough."""
    dice_NK = np.tile([0.25, 0.75], (N_IMAGES, 1))
    at = sound_validity(
        dice_NK=dice_NK,
        reward_net_NK=np.full_like(dice_NK, 0.5),
        confidence_NK=1 - dice_NK,
        consensus_NK=1 - dice_NK,
    )
    result = proxy_quality(at, HELD)
    assert result.value == 0.0
    assert result.failed
    assert result.advice == "the network predicts no better than the mean: train it longer or on more images"
    assert proxy_quality(at, replace(HELD, min_proxy_r2=-0.01)).outcome == "passed"


def test_a_network_that_does_not_look_at_the_image_fails() -> None:
    """It scores a mask alike whatever image it is shown with; a change of just the least is enough."""
    blind = sound_validity(swapped_M=sound_validity().own_M)
    result = proxy_quality(blind, HELD)
    assert result.failed
    assert result.value > 0.9
    assert "hardly looks at the image" in result.advice
    at = sound_validity(own_M=np.array([0.5, 0.75]), swapped_M=np.array([0.75, 0.5]))
    assert proxy_quality(at, replace(HELD, min_swap_effect=0.25)).outcome == "passed"
    assert proxy_quality(at, replace(HELD, min_swap_effect=0.26)).failed


def test_a_network_that_rewards_nothing_is_only_warned_of() -> None:
    """Its own pick is judged on validation: the same network, which a reward rests on, fails the run."""
    worthless = sound_validity(reward_net_NK=1 - dice_table())
    blind = sound_validity(swapped_M=sound_validity().own_M)
    for evidence in (worthless, blind):
        found, idle = (proxy_quality(replace(evidence, network_rewards=used), HELD) for used in (True, False))
        assert (found.severity, found.outcome) == ("validity", "failed")
        assert (idle.severity, idle.outcome) == ("advice", "failed")
        assert idle.finding == f"{found.finding}; nothing learns by it, only its own pick rests on it"
        assert idle.advice == (
            f"{found.advice}; rely on neither its predicted quality nor its flags for review"
        )
    sound = proxy_quality(sound_validity(network_rewards=False), HELD)
    assert (sound.severity, sound.outcome, sound.advice) == ("advice", "passed", "")


def test_a_reward_by_which_nothing_learns_is_not_measured() -> None:
    """Where the only phase is supervised, terms that mislead, or tell nothing apart, mislead nobody."""
    without = sound_validity(rewards_NK=np.zeros((N_IMAGES, N_ACTIONS)), terms={}, weights={})
    for check in (reward_variance, term_audit):
        result = check(without, HELD)
        assert (result.outcome, result.finding) == ("unmeasured", "no phase learns by the job's reward")


def test_what_cannot_be_swapped_or_does_not_vary_is_not_held_against_the_network() -> None:
    """A single image has no partner, and R2 needs Dice that varies."""
    none = np.zeros(0)
    result = proxy_quality(sound_validity(own_M=none, swapped_M=none), HELD)
    assert result.outcome == "passed"
    assert "no image could be swapped" in result.finding
    flat = sound_validity(dice_NK=np.full((N_IMAGES, N_ACTIONS), 0.5))
    assert proxy_quality(flat, HELD).outcome == "unmeasured"
    assert proxy_quality(replace(flat, swapped_M=flat.own_M), HELD).failed


@pytest.mark.parametrize(
    ("field", "said"),
    [("consensus_NK", "agreement between the actions"), ("confidence_NK", "the segmenter's own confidence")],
)
def test_a_free_judge_that_chooses_better_is_named_without_failing(field: str, said: str) -> None:
    """It costs no training: whoever reads the report must know."""
    sound = sound_validity()
    result = proxy_quality(replace(sound, **{field: sound.dice_NK}), HELD)
    assert result.outcome == "passed"
    assert result.advice.startswith(f"{said} chooses better than the network")


def leak(similarity: float, name: str = "a") -> Leak:
    return Leak(name, "test", "b", "train", similarity)


def test_copies_across_splits_fail_and_the_worst_is_named() -> None:
    """Pairs at or below the threshold are no leaks, though the most alike is still told."""
    assert split_leak(sound_validity(), HELD).value == 0.0
    held = replace(HELD, max_image_similarity=0.9)
    alike = split_leak(sound_validity(leaks=(leak(0.9),)), held)
    assert (alike.outcome, alike.value, alike.details["pairs"]) == ("passed", 0.9, 0.0)
    result = split_leak(sound_validity(leaks=(leak(0.95), leak(0.99, "worst"), leak(0.6))), held)
    assert result.failed
    assert result.value == 0.99
    assert result.details["pairs"] == 2.0
    assert result.finding == "worst (test) resembles b (train) by 0.990, and 1 more leak too"
    assert "name patients" in result.advice


@pytest.mark.parametrize(
    ("check", "field"),
    [
        (reward_variance, "rewards_NK"),
        (reward_variance, "dice_NK"),
        (term_audit, "dice_NK"),
        (proxy_quality, "reward_net_NK"),
        (proxy_quality, "consensus_NK"),
        (proxy_quality, "own_M"),
    ],
)
def test_a_number_that_is_missing_fails(check: object, field: str) -> None:
    """Never a crash, never a pass."""
    sound = sound_validity()
    holed = getattr(sound, field).copy()
    holed[(1,) * holed.ndim] = np.nan
    result = check(replace(sound, **{field: holed}), HELD)  # type: ignore[operator]
    assert result.failed
    assert "is not a number" in result.finding
    assert math.isnan(result.value)


def test_a_term_with_a_missing_number_is_named() -> None:
    """The image is named too."""
    sound: ValidityEvidence = sound_validity()
    holed_NK = sound.dice_NK.copy()
    holed_NK[4, 2] = np.nan
    result = term_audit(replace(sound, terms={"dice": holed_NK}), HELD)
    assert result.finding == "the dice of image4 is not a number"
