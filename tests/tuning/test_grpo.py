"""Reinforcement: the reward rises, whatever its terms, and gold watches where the reward is not the truth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from job.errors import InputError
from job.progress import Task
from job.reward.mask_sums import MaskSums
from job.reward.network import RewardNetwork, RewardNetworkConfig
from job.reward.network_file import scratch
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet
from job.spec.tuning import GrpoSpec
from job.tuning.grpo import _Reinforced, train_grpo
from job.tuning.phase import PhaseData, PhaseRoom
from job.tuning.sources import Source

Opened = Callable[[], TrainablePromptableUNet]


class Shown:
    """A progress that keeps what it is to show."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator[Task]:
        """Follow every task."""
        yield self

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Keep figures."""
        self.figures.append(figures)


def spec(**changed: object) -> GrpoSpec:
    settings = {"steps": 20, "crop": 48, "batch_size": 2, "validate_every": 10, "window": 16, "samples": 4}
    return GrpoSpec.model_validate({"algorithm": "grpo", **settings, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"credit": "window"},
        {"credit": "mask", "samples": 8},
        {"terms": {"cldice": 0.5, "betti": 0.5}},
        {"terms": {"recall": 1.0}, "antithetic": True, "kl_weight": 0.01},
        {"updates": 2},
        {"updates": 2, "temperature": 0.5},
    ],
    ids=str,
)
def test_the_reward_rises(
    opened: Opened, data: PhaseData, room: PhaseRoom, changed: dict[str, object]
) -> None:
    """On the phase's own samples the mean reward is higher afterwards, and so is Dice on validation."""
    result = train_grpo(spec(kl_budget=100.0, **changed), opened(), data, room)
    rewards = [row["proxy"] for row in result.curve]
    assert rewards[-1] > rewards[0] + 0.1
    assert result.best_gold > result.start_gold + 0.1
    assert result.curve[0]["kl"] == 0 < result.curve[1]["kl"]


@pytest.mark.parametrize(("updates", "shown"), [(1, set()), (2, {"clipped"})])
def test_progress_shows_figures_that_say_something(
    opened: Opened, data: PhaseData, room: PhaseRoom, updates: int, shown: set[str]
) -> None:
    """Those of the latest look; the loss of advantages that are centred is 0 whatever is learned."""
    task = Shown()
    result = train_grpo(spec(updates=updates, kl_budget=9.0), opened(), data, replace(room, progress=task))
    first, last = result.curve[:2]
    assert set(first) == {"step", "gold", "proxy", "kl"}
    assert set(last) == {"step", "gold", "proxy", "kl"} | shown
    steps = [figures for figures in task.figures if figures]
    assert [set(figures) for figures in steps] == [{"gold", "proxy", "kl"} | shown] * 20
    assert steps[0].items() >= {key: first[key] for key in ("gold", "proxy", "kl")}.items()
    assert steps[19].items() >= {key: last[key] for key in ("gold", "proxy", "kl")}.items()


def test_cold_samples_are_the_models_own_mask(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """And at temperature 1 they are as often foreground as the probability says."""
    logits = torch.linspace(-3, 3, 64 * 64).reshape(1, 64, 64)
    cold, plain = (
        _Reinforced(spec(samples=64).model_copy(update={"temperature": t}), opened(), data, room)._masks(
            logits, np.random.default_rng(0)
        )
        for t in (1e-4, 1.0)  # what a spec may not say: colder than the least
    )
    assert (cold == (logits > 0)[:, None]).float().mean() > 0.999
    often = plain.float().mean((0, 1))
    assert (often - logits[0].sigmoid()).abs().mean() < 0.1


def test_normalisation_keeps_its_statistics(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """Weights change, running statistics do not."""
    model = opened()
    before = model.state()
    train_grpo(spec(steps=2, validate_every=1), model, data, room)
    after = model.state()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)


def test_a_spent_budget_ends_the_phase(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """Beyond it training ends, and what was gained is not kept; a weight holds the model near its start."""
    ended = train_grpo(spec(kl_budget=0.01), opened(), data, room)
    assert (ended.ended, ended.steps) == ("kl", 10)
    assert ended.best_step == 0
    assert ended.curve[1]["gold"] > ended.start_gold
    held = train_grpo(
        spec(kl_budget=0.01, kl_weight=50.0),
        opened(),
        data,
        replace(room, resume_folder=room.resume_folder / "b"),
    )
    assert held.curve[1]["kl"] < 0.5 * ended.curve[1]["kl"]


class Fooled(RewardNetwork):
    """A network that finds any mask the better the larger it is."""

    def quality(self, sums: MaskSums, truths_BRN: torch.Tensor, style_BR: torch.Tensor) -> torch.Tensor:
        return sums.mask_BK1[..., 0] / truths_BRN.shape[2]


def fooled() -> list[RewardNetwork]:
    return [Fooled(RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)) for _ in range(2)]


def test_dice_is_given_up_for_the_reward_where_that_is_allowed(
    opened: Opened, data: PhaseData, room: PhaseRoom
) -> None:
    """With a slack the state of best reward on validation is kept: recall grows at the cost of Dice."""
    rightly = replace(data, prompt="Segment all vessels, including the finest branches.")
    settings = spec(terms={"recall": 1.0}, steps=8, validate_every=2, patience=10, learning_rate=2e-4)
    strict = train_grpo(settings, opened(), rightly, room)
    loose = train_grpo(
        settings.model_copy(update={"dice_slack": 0.2}), opened(), rightly,
        replace(room, resume_folder=room.resume_folder / "loose"),
    )  # fmt: skip
    kept = next(row for row in loose.curve if row["step"] == loose.best_step)
    assert kept["worth"] == max(r["worth"] for r in loose.curve if r["gold"] >= loose.start_gold - 0.2)
    assert kept["worth"] > loose.curve[0]["worth"] + 0.02
    assert loose.facts.items() >= {"dice_slack": 0.2, "worth": {"recall": 1.0}}.items()
    assert "worth" not in strict.facts
    assert strict.best_gold > loose.best_gold >= loose.start_gold - 0.2


def test_a_network_that_can_be_fooled_is_caught(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """With the networks alone as reward, their score rises, gold falls, and the best state is restored."""
    rightly = replace(data, prompt="Segment all vessels, including the finest branches.")
    settings = spec(hide_labels=True, steps=60, validate_every=3, patience=10, kl_budget=100.0)
    model = opened()
    result = train_grpo(settings, model, rightly, replace(room, networks=fooled()))
    assert result.ended == "reward_hacking"
    assert result.steps < 60
    last, best = result.curve[-1], next(row for row in result.curve if row["step"] == result.best_step)
    assert last["gold"] < best["gold"] - 0.05
    assert last["proxy"] > best["proxy"] + 0.05
    assert result.best_gold >= result.start_gold
    assert result.facts == {"terms": {}, "labelled": 0, "unlabelled": 4, "unlabelled_share": 1, "networks": 2}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_reward_of_true_terms_is_not_hacked_but_overfits(
    opened: Opened, data: PhaseData, room: PhaseRoom, share: float
) -> None:
    """Recall alone rises as masks grow and Dice falls: nobody lied, where networks were not asked."""
    prompt = "Segment all vessels, including the finest branches."
    unlabelled = [replace(one, truth=None) for one in data.labelled]
    mixed = replace(data, prompt=prompt, unlabelled=unlabelled)
    settings = spec(
        steps=60, validate_every=3, patience=10, kl_budget=100.0, terms={"recall": 1.0},
        unlabelled_share=share, round_every=1000,
    )  # fmt: skip
    result = train_grpo(settings, opened(), mixed, replace(room, networks=fooled()))
    assert result.ended == ("reward_hacking" if share else "overfitting")
    assert result.steps < 60


def test_networks_learn_from_the_models_own_masks(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """With labelled images beside unlabelled ones, networks are taught in rounds, copies of them alone."""
    networks = [scratch(n, RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)) for n in range(2)]
    before = [{name: values.clone() for name, values in one.state_dict().items()} for one in networks]
    mixed = replace(data, unlabelled=[replace(one, truth=None) for one in data.validation])
    settings = spec(
        steps=12, validate_every=4, round_every=4, round_images=4, kl_budget=100.0, unlabelled_share=0.25
    )
    result = train_grpo(settings, opened(), mixed, replace(room, networks=networks))
    assert "mse_after" not in result.curve[1]
    assert result.curve[-1]["mse_after"] <= result.curve[-1]["mse_before"]
    for row in result.curve:
        parts = 0.75 * row["proxy_labelled"] + 0.25 * row["proxy_unlabelled"]
        assert row["proxy"] == pytest.approx(parts, abs=1e-12)
    for one, was in zip(networks, before, strict=True):
        assert all(torch.equal(values, was[name]) for name, values in one.state_dict().items())


def test_without_a_share_networks_are_neither_asked_nor_taught(
    opened: Opened, data: PhaseData, room: PhaseRoom
) -> None:
    """Unlabelled images then change nothing, need no network, and are not what was learned from."""
    mixed = replace(data, unlabelled=[replace(one, truth=None) for one in data.validation])
    settings = spec(steps=4, validate_every=2, round_every=2, unlabelled_share=0, kl_budget=100.0)
    result = train_grpo(settings, opened(), mixed, room)
    expected = train_grpo(settings, opened(), data, replace(room, resume_folder=room.resume_folder / "b"))
    assert result == expected
    assert set(result.curve[-1]) == {"step", "gold", "proxy", "kl"}
    assert result.facts == {
        "terms": {"dice": 1}, "labelled": 4, "unlabelled": 0, "unlabelled_share": 0, "networks": 0,
    }  # fmt: skip


def test_labels_without_a_share_teach_the_networks_alone(
    opened: Opened, data: PhaseData, room: PhaseRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is on them; they are what rounds show."""
    drawn = []
    draw = Source.draw
    monkeypatch.setattr(
        Source, "draw", lambda self, rng, n: drawn.append(self.terms is None) or draw(self, rng, n)
    )
    mixed = replace(data, unlabelled=[replace(one, truth=None) for one in data.validation])
    settings = spec(steps=4, validate_every=2, round_every=2, unlabelled_share=1, kl_budget=100.0)
    result = train_grpo(settings, opened(), mixed, replace(room, networks=fooled()))
    assert drawn == [False, True, *[True] * 4]  # what is watched, then the steps
    assert "mse_after" in result.curve[-1]
    for row in result.curve:
        assert row["proxy"] == row["proxy_unlabelled"]
    assert result.facts == {
        "terms": {}, "labelled": 4, "unlabelled": 2, "unlabelled_share": 1, "networks": 2,
    }  # fmt: skip


def test_a_round_with_one_image_has_no_error_to_tell(
    opened: Opened, data: PhaseData, room: PhaseRoom
) -> None:
    """It is taught, so that none is left to be judged on."""
    networks = [scratch(n, RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)) for n in range(2)]
    unlabelled = [replace(one, truth=None) for one in data.validation]
    mixed = replace(data, labelled=data.labelled[:1], unlabelled=unlabelled)
    settings = spec(steps=4, validate_every=2, round_every=2, kl_budget=100.0)
    result = train_grpo(settings, opened(), mixed, replace(room, networks=networks))
    assert result.steps == 4
    assert set(result.curve[-1]) == {"step", "gold", "proxy", "kl", "proxy_labelled", "proxy_unlabelled"}


def test_rounds_alone_do_not_move_the_proxy(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """A policy that stays where it is earns the same, whatever its judges have learned meanwhile."""
    networks = [scratch(n, RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)) for n in range(2)]
    mixed = replace(data, unlabelled=[replace(one, truth=None) for one in data.validation])
    settings = spec(steps=6, validate_every=2, round_every=2, round_images=4, learning_rate=1e-12)
    first, *others = train_grpo(settings, opened(), mixed, replace(room, networks=networks)).curve
    assert all(row["mse_after"] < row["mse_before"] for row in others[1:])
    for name in ("proxy", "proxy_labelled", "proxy_unlabelled"):
        assert [row[name] for row in others] == pytest.approx([first[name]] * 3, abs=1e-9)


def test_deviating_networks_are_believed_less() -> None:
    """The score is the mean less `k_sd` deviations."""
    from job.tuning.ensemble import Ensemble

    networks = [scratch(n, RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)) for n in range(3)]
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    masks = np.random.default_rng(1).random((4, 48, 48)) < 0.3
    each = np.stack([Ensemble([one], 1.0, "cpu").score(image, masks) for one in networks])
    assert each.std(axis=0).min() > 0
    assert np.allclose(Ensemble(networks, 2.0, "cpu").score(image, masks), each.mean(0) - 2 * each.std(0))


def test_what_is_needed_is_said(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """Networks for unlabelled images, images, and truths to validate by."""
    with pytest.raises(InputError, match="no reward network"):
        train_grpo(spec(hide_labels=True), opened(), data, room)
    with pytest.raises(InputError, match="no training image"):
        train_grpo(spec(), opened(), replace(data, labelled=[]), room)
    with pytest.raises(InputError, match="no validation image"):
        train_grpo(spec(), opened(), replace(data, validation=[]), room)
    with pytest.raises(ValidationError, match="reward_net"):
        spec(terms={"reward_net": 0.5, "dice": 0.5})
