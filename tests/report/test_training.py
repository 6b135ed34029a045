import math

import numpy as np

from job.report.training import (
    MOST_ACTIONS,
    chosen_actions,
    policy_curves,
    reward_curve,
    reward_findings,
    reward_formula,
    reward_scales,
    reward_source,
)
from tests.report.factory import make_info


def test_a_chart_for_every_figure_that_has_values() -> None:
    """Eight curves; one that was never measured is left out."""
    rows = make_info().finetune.iterations
    assert len(policy_curves(rows, n_actions=6)) == 8
    silent = [{**row, "approx_kl": math.nan} for row in rows]
    assert "Approximate KL" not in {chart.title for chart in policy_curves(silent, n_actions=6)}
    assert policy_curves([], n_actions=6) == []


def test_the_entropy_chart_names_the_entropy_of_a_uniform_choice() -> None:
    """The reader sees how far the policy is from guessing: ln K."""
    charts = {chart.title: chart for chart in policy_curves(make_info().finetune.iterations, n_actions=48)}
    uniform = -sum(p * np.log(p) for p in np.full(48, 1 / 48))
    assert charts["Entropy"].note.endswith(f"{uniform:.2f}")


def test_reward_curve_marks_the_epoch_that_was_kept() -> None:
    """Training and validation in one chart, the kept epoch marked; none where nothing was trained."""
    chart = reward_curve(make_info().reward)
    assert chart is not None
    assert [line.name for line in chart.lines] == ["validation", "training"]
    assert chart.marker == chart.lines[0].dots[2].x
    assert reward_curve(make_info(is_bare=True).reward) is None


def test_reward_findings_tell_only_what_was_measured() -> None:
    """Each figure comes with what it means, an infinite interval in words."""
    found = {name: value for name, value, _ in reward_findings(make_info().reward)}
    assert found["Typical error"] == "0.041"
    assert found["Mean squared error"] == "0.0042"
    assert found["Interval"] == "too few images"
    assert reward_findings(make_info(is_bare=True).reward) == []


def test_reward_formula() -> None:
    """The reward reads as a sum; terms of weight 0 are no part of it."""
    assert reward_formula({"reward_net": 0.5, "dice": 0.0, "betti": -1}) == "0.5 × reward_net − 1 × betti"


def test_reward_scales_are_told_where_terms_were_divided() -> None:
    """A weight means something else once its term was divided by its spread: the report says by what."""
    reward = make_info().reward
    assert reward_scales(reward) == (
        "Terms were divided by their spread within images first: reward_net by 0.031, dice by 0.037."
    )
    assert reward_scales(reward.model_copy(update={"normalised": False})) == ""


def test_reward_source_hides_user_names() -> None:
    """A place is named without the password in it."""
    reward = make_info().reward
    assert reward_source(reward) == "the embedded checkpoint"
    elsewhere = reward.model_copy(update={"source": "s3://me:hunter2@host/x"})
    assert "hunter2" not in reward_source(elsewhere)


def test_chosen_actions_are_counted_most_frequent_first() -> None:
    """Counts fall, shares add up to all images, unchosen actions are left out."""
    info = make_info(n_images=30)
    chosen = chosen_actions(info)
    counts = [action.n for action in chosen.actions]
    assert counts == sorted((n for n in info.results.actions_chosen if n), reverse=True)
    assert abs(sum(action.share for action in chosen.actions) - 100) < 0.1
    assert sum(action.is_noop for action in chosen.actions) == (info.results.actions_chosen[0] > 0)


def test_many_actions_are_cut_and_the_rest_is_counted() -> None:
    """What does not fit is summed up, not forgotten."""
    info = make_info()
    spread = info.results.model_copy(update={"actions_chosen": [1] * 40})
    chosen = chosen_actions(info.model_copy(update={"results": spread}))
    assert len(chosen.actions) == MOST_ACTIONS
    assert (chosen.n_chosen, chosen.n_rest_images) == (40, 40 - MOST_ACTIONS)
