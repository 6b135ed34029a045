"""What was learned, before the judge: policies to compare, and what a policy must show to ship."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from job.checks import CANDIDATE, CandidateEvidence, CheckResult, LadderEvidence, Thresholds, ladder_check
from job.checks.candidate import reward_hacking, uplift
from job.evaluation.assess import Choices
from job.evaluation.ladder import BEST_FIXED, EXACT, OTHER_STARTS, PPO, Ladder, scores_of
from job.finetune.env import TableRewards
from job.finetune.exact import train_exact
from job.finetune.observation import Observer
from job.finetune.policy import Policy
from job.finetune.ppo import train_ppo
from job.metrics.statistics import patient_means
from job.stages import audit, finetune
from job.stages.finetune import fit_observer
from job.stages.rewards import formula, scored_table
from job.stages.stage import StageContext
from job.table import ActionTable

SIMPLE = ("uniform", "noop", "best_fixed_prompt", "best_fixed_postprocess", "best_fixed")
"""Rungs that learn nothing from image to image."""


def policies(context: StageContext) -> dict[str, Policy]:
    """Return the policies of the ladder by rung: the candidate's, and those that it is compared with.

    Nothing is learned from numbers that cannot be trusted: after a failed validity check there is none.
    """
    candidate = finetune.load_policy(context)
    if candidate is None or not audit.passed(context):
        return {}
    found = {EXACT: _exact(context), PPO: candidate}
    settings = context.spec.policy
    if settings.total_timesteps and context.inputs.policy is None:
        found[OTHER_STARTS[settings.init]] = _other_start(context)
    return found


def candidate_checks(
    context: StageContext, ladder: Ladder, choices: Choices, validation: ActionTable
) -> list[CheckResult]:
    """Check on validation images what the ladder says (6), and whether the policy may ship (8 to 12)."""
    thresholds = Thresholds(**context.spec.checks.model_dump())
    dice = {
        rung.name: _mean(
            scores_of(choices.validation[rung.name], validation.scores["dice"]), validation.patients
        )
        for rung in ladder.rungs
        if rung.phase is None
    }
    # The exact mean over actions, not that of one draw an image.
    dice["uniform"] = _mean(validation.scores["dice"].mean(axis=1), validation.patients)
    learned = PPO if PPO in ladder.policies else None
    results = [ladder_check(LadderEvidence(dice=dice, simple=SIMPLE, learned=learned), thresholds)]
    if learned is not None:
        evidence = _evidence(context, ladder, choices, validation)
        results += [check(evidence, thresholds) for check in CANDIDATE]
    audit.tell(context, results)
    return results


def exact_checks(
    context: StageContext, ladder: Ladder, choices: Choices, validation: ActionTable
) -> list[CheckResult]:
    """Hold the exact solver, which learns from the same reward as PPO, to the checks of what is chosen."""
    if EXACT not in ladder.policies:
        return []
    evidence = replace(_evidence(context, ladder, choices, validation), chosen_N=choices.validation[EXACT])
    thresholds = Thresholds(**context.spec.checks.model_dump())
    return [check(evidence, thresholds) for check in (uplift, reward_hacking)]


def dropped(checks: list[CheckResult], of_exact: list[CheckResult]) -> dict[str, list[str]]:
    """Return the candidate checks that PPO and the exact solver failed: what may not ship, and why."""
    failed = {
        rung: [check.name for check in results if check.severity == "candidate" and check.failed]
        for rung, results in ((PPO, checks), (EXACT, of_exact))
    }
    return {rung: names for rung, names in failed.items() if names}


def _evidence(
    context: StageContext, ladder: Ladder, choices: Choices, validation: ActionTable
) -> CandidateEvidence:
    reward = formula(context)
    fixed = ladder[BEST_FIXED].fixed
    assert fixed is not None
    policy = ladder.policies[PPO]
    figures = finetune.load_figures(context)
    last: Mapping[str, float] = figures["iterations"][-1] if figures["iterations"] else {}
    train = scored_table(context).of("train", "unlabelled")
    return CandidateEvidence(
        patients=validation.patients,
        dice_NK=validation.scores["dice"],
        rewards_NK=reward.of(validation),
        recall_NK=validation.scores["recall"],
        precision_NK=validation.scores["precision"],
        chosen_N=choices.validation[PPO],
        best_fixed=fixed,
        probabilities_NK=policy.probabilities(validation.embeddings_NE, validation.statistics_NS),
        last_rollout=last,
        reward_variance=float(reward.of(train).var()),
        chosen_by_seed=[
            one.choose(validation.embeddings_NE, validation.statistics_NS)
            for one in finetune.load_policies(context)
        ],
        confidence=context.spec.evaluate.confidence,
    )


def _exact(context: StageContext) -> Policy:
    rows, rewards_NK, observer = _to_learn_from(context)
    settings = context.spec.policy
    return train_exact(
        settings,
        seed=context.spec.seed,
        observer=observer,
        actions=[action.label for action in context.space],
        observations_ND=observer.observe(rows.embeddings_NE, rows.statistics_NS),
        rewards_NK=rewards_NK,
        prior_K=rewards_NK.mean(axis=0) if settings.init == "prior" else None,
        progress=context.progress,
        patients=rows.patients,
    )


def _other_start(context: StageContext) -> Policy:
    """Train once from the start that the spec did not ask for; on the table, whatever the spec's rollout."""
    rows, rewards_NK, observer = _to_learn_from(context)
    init = "random" if context.spec.policy.init == "prior" else "prior"
    trained = train_ppo(
        context.spec.policy.model_copy(update={"init": init, "rollout": "table"}),
        seed=context.spec.seed,
        observer=observer,
        actions=[action.label for action in context.space],
        observations_ND=observer.observe(rows.embeddings_NE, rows.statistics_NS),
        outcome=TableRewards(rewards_NK, rows.scores["dice"], rows.scores["reward_net"]),
        prior_K=rewards_NK.mean(axis=0) if init == "prior" else None,
        folder=context.scratch / "other_start",
        resume_folder=context.scratch / "other_start_resume",
        start=None,
        progress=context.progress,
    )
    return trained.policy


def _to_learn_from(context: StageContext) -> tuple[ActionTable, NDArray[np.float64], Observer]:
    rows = scored_table(context).of("train", "unlabelled")
    return rows, formula(context).of(rows), fit_observer(context)


def _mean(values_N: NDArray[np.float64], patients: tuple[str, ...]) -> float:
    return float(patient_means(values_N, patients).mean())
