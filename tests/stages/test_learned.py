"""What is learned for the ladder, and what its policy must show to ship."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.checks import CANDIDATE, CheckResult
from job.evaluation import ladder
from job.evaluation.assess import Choices, choose
from job.evaluation.ladder import Ladder, Tables
from job.metrics.statistics import patient_means
from job.stages import finetune, learned
from job.stages.rewards import scored_table
from job.stages.stage import StageContext
from tests.stages.made_up_stages import finished, spec_of

PPO = {
    "total_timesteps": 32,
    "n_steps": 16,
    "n_envs": 2,
    "batch_size": 16,
    "n_epochs": 1,
    "pca_components": 2,
}


def context_of(root: Path, *, passed: bool = True, **finetune: Any) -> StageContext:
    return finished(root, spec_of(finetune={**PPO, **finetune}), passed=passed)


def climbed(context: StageContext) -> tuple[Ladder, Choices, list[CheckResult]]:
    """A ladder with the trained policy alone, its choices and their checks."""
    table = scored_table(context)
    candidate = finetune.load_policy(context)
    built = ladder.build(
        table.of("train"), [action.label for action in context.space], 2, finetune.fit_observer(context),
        {} if candidate is None else {"ppo": candidate}, seed=0,
    )  # fmt: skip
    choices = choose(built, Tables(table.of("validation")), Tables(table.of("validation")))
    return built, choices, learned.candidate_checks(context, built, choices, table.of("validation"))


@pytest.mark.parametrize(("init", "other"), [("prior", "ppo_random_start"), ("random", "ppo_prior_start")])
def test_the_candidate_stands_beside_what_it_is_compared_with(tmp_path: Path, init: str, other: str) -> None:
    """The exact solver's policy, the trained one, and PPO from the start that was not asked for."""
    context = context_of(tmp_path, init=init)
    found = learned.policies(context)
    assert list(found) == ["exact", "ppo", other]
    trained = finetune.load_policy(context)
    assert trained is not None
    np.testing.assert_array_equal(found["ppo"].layers[0].bias, trained.layers[0].bias)
    labels = tuple(action.label for action in context.space)
    assert all(policy.actions == labels for policy in found.values())


def test_a_policy_that_is_only_judged_has_no_other_start(tmp_path: Path) -> None:
    """Without a step to take, or started from a policy of an earlier run, there is none to compare with."""
    assert list(learned.policies(context_of(tmp_path / "a", total_timesteps=0))) == ["exact", "ppo"]
    started = context_of(tmp_path / "b")
    started = replace(started, inputs=replace(started.inputs, policy=tmp_path / "policy"))
    assert list(learned.policies(started)) == ["exact", "ppo"]


def test_nothing_is_learned_from_numbers_that_cannot_be_trusted(tmp_path: Path) -> None:
    """After a failed validity check there is no policy, whatever files lie there."""
    assert learned.policies(context_of(tmp_path, passed=False)) == {}


def test_the_policy_is_checked_and_random_actions_count_by_their_mean(tmp_path: Path) -> None:
    """The ladder check first, with the mean over actions for the random rung, then those of the policy."""
    context = context_of(tmp_path)
    built, _, checks = climbed(context)
    assert len(checks) == 1 + len(CANDIDATE)
    assert len({check.name for check in checks}) == len(checks)
    assert [check.severity for check in checks[1:]] == ["candidate"] * len(CANDIDATE)
    validation = scored_table(context).of("validation")
    uniform = patient_means(validation.scores["dice"].mean(axis=1), validation.patients).mean()
    assert checks[0].details["uniform"] == pytest.approx(uniform)
    without = replace(built, policies={}, rungs=tuple(rung for rung in built.rungs if rung.name != "ppo"))
    choices = choose(without, Tables(validation), Tables(validation))
    assert len(learned.candidate_checks(context, without, choices, validation)) == 1


def test_only_failed_candidate_checks_drop_the_policy() -> None:
    """Advice and what could not be measured do not."""

    def check(name: str, severity: Any, outcome: Any) -> CheckResult:
        return CheckResult(name, math.nan, 0.0, severity, outcome, "", "")

    fine = [check("ladder", "advice", "failed"), check("stability", "candidate", "unmeasured")]
    assert learned.dropped(fine, []) == {}
    failed = [check("learning", "candidate", "failed"), check("uplift", "candidate", "failed")]
    assert learned.dropped([*fine, *failed], []) == {"ppo": ["learning", "uplift"]}
    assert learned.dropped(fine, failed) == {"exact": ["learning", "uplift"]}


def test_a_policy_that_never_learned_to_choose_is_dropped(tmp_path: Path) -> None:
    """One that takes the worst action everywhere fails its checks, by name."""
    worst = finished(tmp_path, spec_of(finetune=PPO), action=0)
    _, _, checks = climbed(worst)
    assert "gap_closed" in learned.dropped(checks, [])["ppo"]
