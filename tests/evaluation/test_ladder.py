"""The ladder, and the rule that chooses what ships."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from job.evaluation.ladder import build, choose_on_validation, scores_of
from tests.evaluation.conftest import World

NAMES = ["noop", "best_fixed", "ridge", "ppo"]


def naive_choice(dice: dict[str, np.ndarray], patients: list[str], names: list[str]) -> str:
    """Recompute the rule from its description, patient by patient, with scipy's standard error."""

    def of_patients(values: np.ndarray) -> np.ndarray:
        groups: dict[str, list[float]] = {}
        for patient, value in zip(patients, values, strict=True):
            groups.setdefault(patient, []).append(value)
        return np.array([np.mean(groups[patient]) for patient in sorted(groups)])

    means = {name: of_patients(dice[name]) for name in names}
    best = max(names, key=lambda name: means[name].mean())
    for name in names:
        gaps = means[best] - means[name]
        if len(gaps) == 1 or gaps.mean() <= stats.sem(gaps):
            return name
    raise AssertionError("the best is within its own standard error")


@given(st.integers(0, 10_000), st.integers(1, 9), st.sampled_from([0.0, 0.005, 0.02, 0.1]))
def test_the_simplest_within_one_standard_error_ships(seed: int, n_patients: int, step: float) -> None:
    """As an independent recomputation says, with several images a patient and growing gains."""
    rng = np.random.default_rng(seed)
    patients = [f"p{i}" for i in rng.integers(0, n_patients, 12)]
    dice = {name: rng.normal(0.7 + i * step, 0.02, 12) for i, name in enumerate(NAMES)}
    assert choose_on_validation(dice, patients, NAMES) == naive_choice(dice, patients, NAMES)


def test_of_two_equals_the_simpler_ships_as_often_as_the_t_distribution_says() -> None:
    """Under the null the rule errs where t exceeds 1: one time in six or so, never more."""
    rng = np.random.default_rng(0)
    n_trials, n_patients = 600, 8
    patients = [str(i) for i in range(n_patients)]
    wins = 0
    for _ in range(n_trials):
        base = rng.normal(0.7, 0.05, n_patients)
        dice = {name: base + rng.normal(0, 0.02, n_patients) for name in NAMES[:2]}
        wins += choose_on_validation(dice, patients, NAMES[:2]) == "noop"
    expected = float(stats.t.cdf(1, n_patients - 1))
    assert abs(wins / n_trials - expected) < 4 * math.sqrt(expected * (1 - expected) / n_trials)


def test_candidates_that_act_alike_lose_to_the_simplest_always() -> None:
    """Equal scores, up to rounding, are no gain; a sure gain is, however small; one patient shows none."""
    base = np.array([0.61, 0.7, 0.83, 0.74])
    patients = ["a", "b", "c", "d"]
    dice = {"noop": base, "best_fixed": base + 1e-12, "ridge": base.copy(), "ppo": base - 1e-13}
    assert choose_on_validation(dice, patients, NAMES) == "noop"
    dice["ppo"] = base + 1e-3
    assert choose_on_validation(dice, patients, NAMES) == "ppo"
    dice["ridge"] = base + 1e-3
    assert choose_on_validation(dice, patients, NAMES) == "ridge"
    assert choose_on_validation(dice, ["a"] * 4, NAMES) == "noop"


def test_the_best_is_the_best_over_patients_not_over_images() -> None:
    """A patient with many images counts once, as in every figure of the report."""
    patients = ["a"] * 8 + ["b", "c", "d"]
    noop = np.full(11, 0.7)
    many_images = noop + np.array([0.05] * 8 + [-0.02] * 3)
    most_patients = noop + np.array([0.01] * 8 + [0.011, 0.009, 0.01])
    dice = {"noop": noop, "ridge": most_patients, "ppo": many_images}
    assert many_images.mean() > most_patients.mean()
    assert choose_on_validation(dice, patients, ["noop", "ridge", "ppo"]) == "ridge"


def test_rungs_stand_simplest_first_and_what_is_there_to_compare_with_cannot_ship(world: World) -> None:
    """Three of them answer the mission's experiments; without a policy there is no PPO."""
    rungs = world.ladder(policies={**world.policies, "ppo_random_start": world.policy}).rungs
    assert [rung.name for rung in rungs] == [
        "uniform", "noop", "best_fixed_prompt", "best_fixed_postprocess", "best_fixed", "confidence",
        "consensus", "ridge", "reward_net", "exact", "ppo", "ppo_random_start", "oracle",
    ]  # fmt: skip
    assert [rung.name for rung in rungs if not rung.can_ship] == [
        "uniform", "confidence", "consensus", "ppo_random_start", "oracle",
    ]  # fmt: skip
    assert {rung.experiment: rung.name for rung in rungs if rung.experiment} == {
        "prompt optimisation": "best_fixed_prompt",
        "post-processing optimisation": "best_fixed_postprocess",
        "reward-network RL": "ppo",
    }
    assert "ppo" not in [rung.name for rung in world.ladder().rungs]
    with pytest.raises(StopIteration):
        world.ladder()["ppo"]


def test_fixed_rungs_take_the_training_mean_s_best_action(world: World) -> None:
    """Of all actions, of those with today's post-processing, of those with today's prompt."""
    built = world.ladder()
    mean_K = world.table.scores["dice"][:12].mean(axis=0)
    wanted = {
        "noop": 0,
        "best_fixed_prompt": max((0, 2), key=lambda k: mean_K[k]),
        "best_fixed_postprocess": max((0, 1), key=lambda k: mean_K[k]),
        "best_fixed": int(mean_K.argmax()),
    }
    new = world.table.rows(range(12, 24))
    for name, action in wanted.items():
        assert built[name].fixed == action
        assert built[name].description.endswith(world.labels[action])
        np.testing.assert_array_equal(built[name].choose(new), np.full(12, action))


def test_choosers_choose_per_image_as_their_models_say(world: World) -> None:
    """Ridge and policy from features, the network from its scores, the oracle from the truth."""
    built = world.ladder(policies=world.policies)
    new = world.table.rows(range(12, 24))
    observations = world.observer.observe(new.embeddings_NE, new.statistics_NS)
    np.testing.assert_array_equal(built["ridge"].choose(new), built.ridge.choose(observations))
    np.testing.assert_array_equal(
        built["ppo"].choose(new), world.policy.choose(new.embeddings_NE, new.statistics_NS)
    )
    np.testing.assert_array_equal(built["reward_net"].choose(new), new.scores["reward_net"].argmax(axis=1))
    np.testing.assert_array_equal(
        built["exact"].choose(new),
        world.policies["exact"].choose(new.embeddings_NE, new.statistics_NS),
    )
    for judge in ("confidence", "consensus"):
        np.testing.assert_array_equal(built[judge].choose(new), new.judges[judge].argmax(axis=1))
    np.testing.assert_array_equal(built["oracle"].choose(new), new.scores["dice"].argmax(axis=1))
    assert built.ridge.learned
    assert len(set(built["ridge"].choose(new))) > 1


def test_no_rung_that_ships_reads_the_truth_of_what_it_chooses_for(world: World) -> None:
    """Without Dice among the scores every one of them chooses the same, and so does all but the oracle."""
    built = world.ladder(policies=world.policies)
    new = world.table.rows(range(12, 24))
    blind = replace(new, scores={"reward_net": new.scores["reward_net"]})
    for rung in built.rungs:
        if rung.name != "oracle":
            np.testing.assert_array_equal(rung.choose(blind), rung.choose(new))
    with pytest.raises(KeyError):
        built["oracle"].choose(blind)


def test_the_random_rung_is_drawn_by_the_seed_and_takes_every_action(world: World) -> None:
    """The same seed draws the same, another one differently, and no action is left out or preferred."""
    table = world.table.rows([i % 24 for i in range(4000)])
    train = world.table.rows(range(12))
    drawn = [
        build(train, world.labels, 2, world.observer, {}, seed=seed)["uniform"].choose(table)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert stats.chisquare(np.bincount(drawn[0], minlength=4)).pvalue > 1e-3
    assert drawn[0].max() == 3


def test_left_out_dice_judges_each_training_patient_by_the_others(world: World) -> None:
    """The best fixed action is chosen again without each patient; one patient alone has no others."""
    train = world.table.rows(range(12))
    noisy = np.random.default_rng(4).uniform(0.5, 0.9, (12, 4))
    train = replace(train, scores={**train.scores, "dice": noisy}, patients=tuple("aaabbccddeef"))
    dice_NK, patients = train.scores["dice"], np.array(train.patients)
    of_patients = []
    for patient in sorted(set(train.patients)):
        action = dice_NK[patients != patient].mean(axis=0).argmax()
        of_patients.append(dice_NK[patients == patient, action].mean())
    rungs = build(train, world.labels, 2, world.observer, {}, seed=0).rungs
    (fixed,) = [rung for rung in rungs if rung.left_out_dice is not None]
    assert fixed.name == "best_fixed"
    assert fixed.left_out_dice == pytest.approx(np.mean(of_patients))
    in_sample = [dice_NK[patients == patient, fixed.fixed].mean() for patient in "abcdef"]
    assert np.mean(of_patients) < np.mean(in_sample)
    assert world.ladder(rows=[0, 1])["best_fixed"].left_out_dice is None


def test_a_dropped_candidate_never_ships() -> None:
    """However much better it is, and also where the next best then is a simpler one."""
    base = np.array([0.61, 0.7, 0.83, 0.74])
    patients = ["a", "b", "c", "d"]
    dice = {"noop": base, "best_fixed": base + 0.01, "ridge": base + 0.02, "ppo": base + 0.2}
    assert choose_on_validation(dice, patients, NAMES) == "ppo"
    assert choose_on_validation(dice, patients, NAMES, ["ppo"]) == "ridge"
    assert choose_on_validation(dice, patients, NAMES, ["ppo", "ridge"]) == "best_fixed"
    dice["ppo"] = base + 0.01 + np.array([1, -1, 1, -1]) * 0.02
    assert choose_on_validation(dice, patients, NAMES, ["noop", "ridge"]) == "best_fixed"


def test_an_image_s_score_is_that_of_its_action() -> None:
    """Picked row by row."""
    scores_NK = np.arange(12.0).reshape(4, 3)
    picked = scores_of(np.array([2, 0, 1, 2]), scores_NK)
    np.testing.assert_array_equal(
        picked, [scores_NK[0, 2], scores_NK[1, 0], scores_NK[2, 1], scores_NK[3, 2]]
    )
