"""The reward as the policy gets it."""

from pathlib import Path

import numpy as np
import pytest

from job.stages.rewards import formula, learned_by, network_rewards, scales, scored_table
from tests.stages.made_up_stages import finished, make_table, spec_of

TERMS = {"dice": 0.25, "recall": 0.5, "reward_net": 1.0}


def test_the_network_s_scores_stand_beside_the_table_s(tmp_path: Path) -> None:
    """Row by row, for every image of the table."""
    found, made = scored_table(finished(tmp_path, spec_of())), make_table()
    np.testing.assert_array_equal(found.scores["dice"], made.scores["dice"])
    np.testing.assert_array_equal(found.scores["reward_net"], np.random.default_rng(1).random((14, 4)))


def test_a_reward_is_the_weighted_sum_of_its_terms(tmp_path: Path) -> None:
    """An unlabelled image gets the network's score times all weights, so that both kinds are on one scale."""
    context = finished(tmp_path, spec_of(reward={"terms": TERMS}))
    rows = scored_table(context)
    rewards_NK = formula(context).of(rows)
    dice, recall, network = (rows.scores[term] for term in TERMS)
    np.testing.assert_allclose(rewards_NK[:12], (0.25 * dice + 0.5 * recall + network)[:12], rtol=1e-14)
    np.testing.assert_allclose(rewards_NK[12:], 1.75 * network[12:], rtol=1e-14)
    assert np.isfinite(rewards_NK).all()


def test_normalised_terms_are_in_units_of_their_spread_within_training_images(tmp_path: Path) -> None:
    """Validation and unlabelled images have no say in it; without normalising nothing is divided."""
    plain = finished(tmp_path / "plain", spec_of(reward={"terms": TERMS}))
    assert scales(plain) == dict.fromkeys(TERMS, 1.0)
    assert (formula(plain).weights, formula(plain).unlabelled) == (TERMS, 1.75)
    normal = finished(tmp_path / "normal", spec_of(reward={"terms": TERMS, "normalise": True}))
    train = {term: scored_table(normal).scores[term][:6] for term in TERMS}
    found = scales(normal)
    assert set(found) == set(TERMS)
    for term, scale in found.items():
        centred_NK = train[term] - train[term].mean(axis=1, keepdims=True)
        assert scale == pytest.approx(np.sqrt((centred_NK**2).mean()))
        assert formula(normal).weights[term] == pytest.approx(TERMS[term] / scale)
    assert formula(normal).unlabelled == pytest.approx(1.75 / found["reward_net"])


def test_unlabelled_images_need_the_network_s_scale_whatever_its_weight(tmp_path: Path) -> None:
    """Also where labelled images are rewarded by the truth alone."""
    terms = {"dice": 0.25, "recall": 0.5}
    context = finished(tmp_path, spec_of(reward={"terms": terms, "normalise": True}))
    network_NK = scored_table(context).scores["reward_net"]
    deviation = np.sqrt(network_NK[:6].var(axis=1).mean())
    rewards_NK = formula(context).of(scored_table(context))
    np.testing.assert_allclose(rewards_NK[12:], 0.75 * network_NK[12:] / deviation)


PPO, SFT, GRPO = ({"algorithm": name} for name in ("ppo", "sft", "grpo"))
TRUE = {"dice": 0.25, "recall": 0.5}


@pytest.mark.parametrize(
    ("phases", "terms", "learned", "rewards_labelled", "rewards_unlabelled"),
    [
        ([PPO], TERMS, TERMS, True, True),
        ([PPO, SFT], TRUE, TRUE, False, True),
        ([PPO], {**TRUE, "reward_net": 0.0}, TRUE, False, True),
        ([SFT], TERMS, {}, False, False),
        ([SFT, GRPO], TERMS, TRUE, False, True),
        ([GRPO], {"reward_net": 1.0, "recall": 0.0}, {"dice": 1.0}, False, True),
        ([{**GRPO, "terms": {"cldice": 1.0}}], TERMS, {}, False, True),
        ([{**GRPO, "hide_labels": True}], TERMS, {}, True, True),
    ],
)
def test_who_learns_by_the_reward_and_by_the_network(
    tmp_path: Path,
    phases: list[dict[str, object]],
    terms: dict[str, float],
    learned: dict[str, float],
    rewards_labelled: bool,
    rewards_unlabelled: bool,
) -> None:
    """A policy by all terms, grpo by the true ones that it takes; unlabelled images by the network alone."""
    spec = spec_of(reward={"terms": terms}, finetune=phases)
    unlabelled = finished(tmp_path / "unlabelled", spec)
    labelled = finished(tmp_path / "labelled", spec, table=make_table().of("train", "validation"))
    assert learned_by(unlabelled) == learned
    assert network_rewards(labelled) == rewards_labelled
    assert network_rewards(unlabelled) == rewards_unlabelled
