"""Checks 8 to 12, each on its own."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from job.checks import CANDIDATE, CandidateEvidence, Thresholds
from job.checks.candidate import gap_closed, learning, reward_hacking, stability, uplift
from job.metrics.statistics import paired_uplift
from tests.checks.samples import N_ACTIONS, N_IMAGES, PATIENTS, one_sided, sound_candidate

HELD = Thresholds()


def constant(action: int) -> np.ndarray:
    return np.full(N_IMAGES, action, dtype=np.int64)


def rows(*row: float) -> np.ndarray:
    return np.tile(row, (N_IMAGES, 1))


def test_a_sound_policy_passes_every_check() -> None:
    """Each says what it measured, there is nothing to advise, and the order is that of their numbers."""
    results = [check(sound_candidate(), HELD) for check in CANDIDATE]
    assert [(r.name, r.outcome, r.severity, r.advice) for r in results] == [
        (name, "passed", "candidate", "")
        for name in ("gap_closed", "learning", "uplift", "reward_hacking", "stability")
    ]
    assert all(r.finding and math.isfinite(r.value) for r in results)
    assert all(type(value) is float for r in results for value in r.details.values())


@settings(max_examples=25)
@given(st.permutations(range(N_IMAGES)))
def test_the_order_of_images_does_not_matter(order: list[int]) -> None:
    """Evidence is a set of images, though it is stored in rows."""
    sound, shuffle = sound_candidate(), np.array(order)
    shuffled = replace(
        sound,
        patients=tuple(sound.patients[i] for i in order),
        chosen_by_seed=[chosen_N[shuffle] for chosen_N in sound.chosen_by_seed],
        **{name: getattr(sound, name)[shuffle] for name in vars(sound) if name.endswith(("_NK", "_N"))},
    )
    for check in CANDIDATE:
        before, after = check(sound, HELD), check(shuffled, HELD)
        assert (after.outcome, after.finding) == (before.outcome, before.finding)
        assert after.value == pytest.approx(before.value)


def test_the_share_of_the_gap_is_over_patient_means() -> None:
    """A patient with three images weighs no more than one with a single image."""
    dice_NK = np.array([[0.5, 0.5, 0.9], [0.5, 0.5, 0.9], [0.5, 0.5, 0.9], [0.5, 0.7, 0.9]])
    evidence = sound_candidate(
        patients=("a", "a", "a", "b"), dice_NK=dice_NK, chosen_N=np.array([0, 0, 0, 2]), best_fixed=1
    )
    result = gap_closed(evidence, HELD)
    assert result.details["best_fixed"] == pytest.approx((0.5 + 0.7) / 2)
    assert result.value == pytest.approx((0.7 - 0.6) / (0.9 - 0.6))
    assert result.details["regret"] == pytest.approx(0.9 - 0.7)


def test_a_policy_behind_the_best_fixed_action_fails_and_one_level_with_it_passes() -> None:
    """The boundary closes no gap and opens none."""
    level = gap_closed(sound_candidate(chosen_N=constant(1)), HELD)
    assert (level.outcome, level.value) == ("passed", 0.0)
    behind = gap_closed(sound_candidate(chosen_N=constant(3)), HELD)
    assert behind.failed
    assert behind.value < 0
    assert "fixed action serves better" in behind.advice
    assert gap_closed(sound_candidate(), replace(HELD, min_gap_closed=1.0)).outcome == "passed"


def test_without_a_gap_nothing_can_be_closed() -> None:
    """Where one action is the best for every image, choosing is not worth a policy."""
    result = gap_closed(sound_candidate(dice_NK=rows(0.4, 0.8, 0.5, 0.6), chosen_N=constant(1)), HELD)
    assert result.failed
    assert math.isnan(result.value)
    assert "no gap to close" in result.advice


def test_entropy_is_a_share_of_a_uniform_policys() -> None:
    """Recomputed with scipy's entropy to base K; certain choices have none."""
    probabilities_NK = np.random.default_rng(4).dirichlet(np.ones(N_ACTIONS), N_IMAGES)
    result = learning(sound_candidate(probabilities_NK=probabilities_NK), HELD)
    assert result.value == pytest.approx(stats.entropy(probabilities_NK, base=N_ACTIONS, axis=1).mean())
    certain = np.eye(N_ACTIONS)[constant(2)]
    assert learning(sound_candidate(probabilities_NK=certain), HELD).value == 0.0


def test_a_policy_near_uniform_fails_and_one_at_the_limit_passes() -> None:
    """Chance and habit are no choice."""
    uniform = sound_candidate(probabilities_NK=np.full((N_IMAGES, N_ACTIONS), 1 / N_ACTIONS))
    result = learning(uniform, HELD)
    assert result.failed
    assert result.value == pytest.approx(1.0)
    assert "near uniform" in result.advice
    half = np.zeros((N_IMAGES, N_ACTIONS))
    half[:, :2] = 0.5
    at = sound_candidate(probabilities_NK=half)
    assert learning(at, replace(HELD, max_entropy=learning(at, HELD).value)).outcome == "passed"
    assert learning(at, replace(HELD, max_entropy=0.49)).failed


def test_a_diverged_policy_fails() -> None:
    """Probabilities that are no numbers have no entropy, which is not a small one."""
    assert learning(sound_candidate(probabilities_NK=np.full((N_IMAGES, N_ACTIONS), np.nan)), HELD).failed


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"explained_variance": -0.2}, "worse than a constant (explained variance -0.20)"),
        ({"value_loss": 0.008}, "the value loss is 2.0 times the reward's variance"),
        ({"approx_kl": 0.2}, "updates are large (KL 0.200)"),
        ({"clip_fraction": 0.5}, "50 % of samples were clipped"),
    ],
)
def test_training_figures_out_of_bounds_are_advice(figures: dict[str, float], said: str) -> None:
    """They do not fail: a policy is judged by what it chooses."""
    result = learning(sound_candidate(last_rollout=figures), HELD)
    assert result.outcome == "passed"
    assert said in result.advice


@pytest.mark.parametrize("figures", [{}, {"explained_variance": math.nan, "approx_kl": math.nan}])
def test_training_figures_that_lack_say_nothing(figures: dict[str, float]) -> None:
    """A policy that came from a file has none."""
    result = learning(sound_candidate(last_rollout=figures, reward_variance=math.nan), HELD)
    assert (result.outcome, result.advice) == ("passed", "")
    assert math.isnan(result.details["value_loss_ratio"])


def test_a_policy_that_always_chooses_the_same_is_told_so() -> None:
    """It is no failure to learn a fixed action, but it needs no network."""
    chosen_N = constant(2)
    result = learning(sound_candidate(chosen_N=chosen_N, probabilities_NK=one_sided(chosen_N)), HELD)
    assert result.outcome == "passed"
    assert result.advice == "it chooses action 2 for every image: a fixed action does that"
    assert (result.details["distinct_actions"], result.details["most_frequent_share"]) == (1.0, 1.0)


def test_one_action_cannot_be_chosen_between() -> None:
    """ln 1 = 0 is no yardstick."""
    single = sound_candidate(probabilities_NK=np.ones((N_IMAGES, 1)), chosen_N=constant(0))
    assert learning(single, HELD).outcome == "unmeasured"


def test_uplift_is_the_paired_difference_to_the_no_op() -> None:
    """With wins, ties and losses, and the interval of the confidence that was asked for."""
    evidence = sound_candidate(confidence=0.8)
    result = uplift(evidence, HELD)
    after_N = evidence.dice_NK[np.arange(N_IMAGES), evidence.chosen_N]
    before_N = evidence.dice_NK[:, 0]
    per_patient = (after_N - before_N).reshape(-1, 2).mean(axis=1)
    interval = paired_uplift(after_N, before_N, PATIENTS, confidence=0.8)
    assert result.value == pytest.approx(per_patient.mean())
    assert (result.details["low"], result.details["high"]) == (interval.low, interval.high)
    assert result.details["wins"] == np.count_nonzero(after_N > before_N)
    assert f"{int(result.details['ties'])} equal" in result.finding


def test_no_uplift_fails_and_just_more_than_the_least_passes() -> None:
    """Today's masks again are not worth shipping."""
    assert uplift(sound_candidate(chosen_N=constant(0)), HELD).failed
    at = sound_candidate(dice_NK=rows(0.5, 0.75, 0.5, 0.5), chosen_N=constant(1))
    assert uplift(at, replace(HELD, min_uplift=0.25)).failed
    assert uplift(at, replace(HELD, min_uplift=0.24)).outcome == "passed"


HACKED = {
    "dice_NK": rows(0.7, 0.6, 0.7, 0.7),
    "rewards_NK": rows(0.5, 0.9, 0.5, 0.5),
    "recall_NK": rows(0.7, 0.7, 0.7, 0.7),
    "precision_NK": rows(0.7, 0.55, 0.7, 0.7),
    "chosen_N": constant(1),
}


def test_a_reward_that_rises_while_dice_falls_is_hacked() -> None:
    """The finding has both numbers; a reward that falls too is merely bad."""
    result = reward_hacking(sound_candidate(**HACKED), HELD)
    assert result.failed
    assert result.value == pytest.approx(-0.1)
    assert result.advice == "the reward pays for worse masks: give true Dice more weight"
    assert "reward +0.4000, Dice -0.1000" in result.finding
    falling = HACKED | {"rewards_NK": rows(0.5, 0.4, 0.5, 0.5)}
    assert reward_hacking(sound_candidate(**falling), HELD).outcome == "passed"


def test_recall_bought_with_precision_fails_unless_dice_rises() -> None:
    """The reference experiment's recall term did this; a true gain may move both."""
    bought = HACKED | {
        "dice_NK": rows(0.7, 0.7, 0.7, 0.7),
        "recall_NK": rows(0.7, 0.8, 0.7, 0.7),
        "precision_NK": rows(0.7, 0.62, 0.7, 0.7),
    }
    result = reward_hacking(sound_candidate(**bought), HELD)
    assert result.failed
    assert result.advice == "recall is bought with precision: give Dice or precision more weight"
    assert (
        reward_hacking(sound_candidate(**bought | {"dice_NK": rows(0.7, 0.71, 0, 0)}), HELD).failed is False
    )


@pytest.mark.parametrize(
    ("recall", "precision", "word"), [(0.96, 0.6, "outgrow"), (0.6, 0.96, "shrink below")]
)
def test_masks_out_of_proportion_fail(recall: float, precision: float, word: str) -> None:
    """Foreground over truth is recall over precision: 1.6 or its inverse here, though Dice rises."""
    grown = HACKED | {
        "dice_NK": rows(0.7, 0.74, 0.7, 0.7),
        "recall_NK": rows(0.7, recall, 0.7, 0.7),
        "precision_NK": rows(0.7, precision, 0.7, 0.7),
    }
    result = reward_hacking(sound_candidate(**grown), HELD)
    assert result.failed
    assert result.details["foreground"] == pytest.approx(recall / precision)
    assert word in result.advice
    assert reward_hacking(sound_candidate(**grown), replace(HELD, max_foreground_ratio=1.6)).failed is False


def test_masks_no_further_out_of_proportion_than_the_no_op_pass() -> None:
    """What the user has today is the yardstick: closer to the truth is progress."""
    progress = HACKED | {
        "dice_NK": rows(0.5, 0.6, 0.5, 0.5),
        "recall_NK": rows(0.9, 0.85, 0.9, 0.9),
        "precision_NK": rows(0.3, 0.5, 0.3, 0.3),
    }
    result = reward_hacking(sound_candidate(**progress), HELD)
    assert result.details["foreground"] == pytest.approx(1.7)
    assert result.outcome == "passed"


def test_foreground_is_a_geometric_mean_over_images_where_both_masks_touch_the_truth() -> None:
    """Doubling one and halving another is no growth; masks that miss have no ratio."""
    recall_NK, precision_NK = rows(0.5, 0.5, 0.5, 0.5), rows(0.5, 0.5, 0.5, 0.5)
    recall_NK[0, 1], precision_NK[1, 1] = 1.0, 1.0
    recall_NK[2, 1] = precision_NK[2, 1] = 0.0
    scores = {"recall_NK": recall_NK, "precision_NK": precision_NK, "chosen_N": constant(1)}
    result = reward_hacking(sound_candidate(**scores), HELD)
    assert result.details["foreground"] == pytest.approx(1.0)
    nowhere = scores | {"recall_NK": 0 * recall_NK, "precision_NK": 0 * precision_NK}
    none = reward_hacking(sound_candidate(**nowhere), HELD)
    assert "on no image do both masks touch the truth" in none.finding
    assert math.isnan(none.details["foreground"])


def test_the_no_op_itself_is_no_hacking() -> None:
    """Nothing changes: every difference is 0."""
    result = reward_hacking(sound_candidate(chosen_N=constant(0)), HELD)
    assert (result.outcome, result.value) == ("passed", 0.0)


def test_stability_compares_seeds_with_their_gain() -> None:
    """Recomputed: deviation of the seeds' Dice over the size of their mean gain, and pairwise agreement."""
    dice_NK = rows(0.5, 0.6, 0.8, 0.7)
    seeds = [constant(2), constant(3), constant(1)]
    result = stability(sound_candidate(dice_NK=dice_NK, chosen_by_seed=seeds, best_fixed=1), HELD)
    assert result.value == pytest.approx(np.std([0.8, 0.7, 0.6], ddof=1) / 0.1)
    assert result.outcome == "passed"
    assert result.details["agreement"] == 0.0
    mixed = constant(2)
    mixed[:3] = 1
    half = stability(sound_candidate(chosen_by_seed=[constant(2), mixed]), HELD)
    assert half.details["agreement"] == 0.75


def test_seeds_that_differ_more_than_they_gain_fail() -> None:
    """Also where they gain less than nothing; at the limit they pass, and without a gain they cannot."""
    dice_NK = rows(0.5, 0.5, 0.75, 0.25)
    apart = sound_candidate(dice_NK=dice_NK, chosen_by_seed=[constant(2), constant(1)], best_fixed=1)
    value = stability(apart, HELD).value
    assert value == pytest.approx(math.sqrt(2))
    assert stability(apart, HELD).failed
    assert stability(apart, replace(HELD, max_seed_spread=value)).outcome == "passed"
    level = stability(replace(apart, chosen_by_seed=[constant(2), constant(3)]), HELD)
    assert level.failed
    assert math.isinf(level.value)


def test_seeds_that_all_end_at_the_best_fixed_action_are_stable() -> None:
    """No deviation over no gain is no instability."""
    same = stability(sound_candidate(chosen_by_seed=[constant(1), constant(1)]), HELD)
    assert (same.outcome, same.value) == ("passed", 0.0)


@pytest.mark.parametrize("n_seeds", [0, 1])
def test_one_seed_says_nothing_of_others(n_seeds: int) -> None:
    """Neither passed nor failed."""
    assert stability(sound_candidate(chosen_by_seed=[constant(1)] * n_seeds), HELD).outcome == "unmeasured"


@pytest.mark.parametrize(
    ("check", "field"),
    [
        (gap_closed, "dice_NK"),
        (uplift, "dice_NK"),
        (stability, "dice_NK"),
        (reward_hacking, "rewards_NK"),
        (reward_hacking, "recall_NK"),
    ],
)
def test_a_number_that_is_missing_fails(check: object, field: str) -> None:
    """Never a crash, never a pass; even in an action that nobody chose."""
    sound: CandidateEvidence = sound_candidate()
    holed_NK = getattr(sound, field).copy()
    holed_NK[2, 3] = np.nan
    result = check(replace(sound, **{field: holed_NK}), HELD)  # type: ignore[operator]
    assert result.failed
    assert f"of an image of {PATIENTS[2]} is not a number" in result.finding
