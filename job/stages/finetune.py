"""finetune: train policies by PPO on the training images, or judge the one that the spec names.

A failed validity check skips it: there is nothing to learn from numbers that cannot be trusted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.actions import apply
from job.data.dataset import Dataset, Sample
from job.finetune.env import Outcome, RewardSource, TableRewards
from job.finetune.observation import Observer
from job.finetune.policy import Policy
from job.finetune.seeds import SEEDS, Validation, train_seeds
from job.reward.terms import TERMS, combine, score
from job.stages import audit, reward, table
from job.stages.pull import open_dataset
from job.stages.rewards import formula, scored_table
from job.stages.stage import Stage, StageContext
from job.storage import strict_json
from job.storage.digests import tensors_digest
from job.storage.local import sha256_file, sha256_json, write_atomic
from job.table import ActionTable

FIGURES = "finetune.json"
POLICY = "policy.safetensors"


def reads(context: StageContext) -> Mapping[str, Any]:
    """PPO's settings, the reward, the table and the network's scores."""
    done = context.done
    return {
        "finetune": context.spec.policy.model_dump(exclude={"policy_uri"})
        if context.spec.has_policy
        else None,
        "policy": sha256_file(context.inputs.policy) if context.inputs.policy else None,
        "terms": context.spec.reward.terms,
        "normalise": context.spec.reward.normalise,
        "seed": context.spec.seed,
        "table": done["table"].outputs["table"],
        "scores": done["reward"].outputs["scores"],
        "passed": audit.passed(context),
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Train a policy for every seed; the one of median validation Dice is the candidate.

    Nothing is trained where no phase is PPO, or a check failed.
    """
    if not (audit.passed(context) and context.spec.has_policy):
        return _write(context, {"total_timesteps": 0, "iterations": [], "checkpoints": [], "seeds": []}, [])
    settings = context.spec.policy
    scored = scored_table(context)
    rows, validation = scored.of("train", "unlabelled"), scored.of("validation")
    start = _start_policy(context, rows)
    observer = start.observer if start else fit_observer(context)
    rewards_NK = formula(context).of(rows)
    trained = train_seeds(
        settings,
        seed=context.spec.seed,
        observer=observer,
        actions=[action.label for action in context.space],
        observations_ND=observer.observe(rows.embeddings_NE, rows.statistics_NS),
        outcome=_outcome(context, rows, rewards_NK),
        prior_K=rewards_NK.mean(axis=0) if settings.init == "prior" else None,
        folder=context.folder,
        resume_folder=context.scratch,
        start=start,
        validation=Validation(
            observer.observe(validation.embeddings_NE, validation.statistics_NS),
            validation.scores["dice"],
            validation.patients,
        ),
        progress=context.progress,
    )
    for figures in trained.result.iterations:
        context.log.info("finetune.iteration", **figures)
    for one in trained.seeds:
        context.log.info("finetune.seed", **asdict(one))
    figures_json = {
        "total_timesteps": trained.result.total_timesteps,
        "iterations": trained.result.iterations,
        "checkpoints": trained.result.checkpoints,
        "seeds": [asdict(one) for one in trained.seeds],
    }
    return _write(context, figures_json, trained.policies)


STAGE = Stage("finetune", 2, reads, ("torch", "stable-baselines3", "gymnasium", "numpy"), run)


def fit_observer(context: StageContext) -> Observer:
    """Fit what a chooser sees on the training images."""
    train = table.load(context).of("train")
    components = context.spec.policy.pca_components
    return Observer.fit(train.embeddings_NE, train.statistics_NS, train.statistic_names, components)


def load_figures(context: StageContext) -> dict[str, Any]:
    """Return the training's figures."""
    figures: dict[str, Any] = strict_json.loads((context.done["finetune"].folder / FIGURES).read_text())
    return figures


def load_policy(context: StageContext) -> Policy | None:
    """Return the trained policy; None where a failed check skipped training, or no phase is PPO."""
    path = context.done["finetune"].folder / POLICY
    return Policy.load(path) if path.exists() else None


def load_policies(context: StageContext) -> list[Policy]:
    """Return the policy of every seed, in their order; empty where a failed check skipped training."""
    folder = context.done["finetune"].folder
    return [
        Policy.load(folder / POLICY if one["ships"] else folder / SEEDS / str(one["seed"]) / POLICY)
        for one in load_figures(context)["seeds"]
    ]


def _start_policy(context: StageContext, rows: ActionTable) -> Policy | None:
    if context.inputs.policy is None:
        return None
    policy = Policy.load(context.inputs.policy)
    labels = [action.label for action in context.space]
    policy.check_fits(labels, rows.statistic_names, rows.embeddings_NE.shape[1])
    return policy


def _outcome(context: StageContext, rows: ActionTable, rewards_NK: NDArray[np.float64]) -> RewardSource:
    if context.spec.policy.rollout == "table":
        return TableRewards(rewards_NK, rows.scores["dice"], rows.scores["reward_net"])
    return LiveRewards(context, rows)


class LiveRewards:
    """A RewardSource that calls the segmenter at every step, as the reference experiment did."""

    def __init__(self, context: StageContext, rows: ActionTable) -> None:
        dataset = open_dataset(context)
        self._context = context
        self._splits = rows.splits
        self._samples = _in_order(dataset, rows)
        self._dataset = dataset
        self._formula = formula(context)
        self._terms = [
            term for term in TERMS if term in ("dice", "reward_net") or self._formula.weights.get(term)
        ]
        self._judge_of = reward.load_judges(context)

    def __call__(self, image: int, action: int) -> Outcome:
        """Segment, post-process and score."""
        context, sample = self._context, self._samples[image]
        loaded = self._dataset.load(sample)
        chosen = context.space[action]
        segmentation = context.segmentations.segmenter.segment([loaded.image], [chosen.prompt])[0]
        alone = replace(context.space, prompts=(chosen.prompt,), postprocess=(chosen.postprocess,))
        size = (loaded.image.shape[0], loaded.image.shape[1])
        mask = apply(alone, 0, segmentation.logits_PHW, size)
        terms = self._terms if loaded.truth is not None else ["reward_net"]
        judge = self._judge_of(sample)
        scores = score(mask[None], loaded.truth, terms, image_HWC=loaded.image, judge=judge)
        network_score = float(scores["reward_net"][0])
        if loaded.truth is None:
            return Outcome(self._formula.unlabelled * network_score, float("nan"), network_score)
        return Outcome(
            float(combine(scores, self._formula.weights)[0]), float(scores["dice"][0]), network_score
        )


def _in_order(dataset: Dataset, rows: ActionTable) -> list[Sample]:
    by_name = {sample.name: sample for sample in dataset.of("train", "unlabelled")}
    return [by_name[name] for name in rows.names]


def _write(
    context: StageContext, figures: Mapping[str, Any], policies: Sequence[Policy]
) -> Mapping[str, str]:
    write_atomic(context.folder / FIGURES, strict_json.dumps(figures))
    weights = {
        f"{i}.{name}": values
        for i, policy in enumerate(policies)
        for name, values in policy.to_state_dict().items()
    }
    return {"policy": tensors_digest(weights), "seeds": sha256_json(strict_json.plain(figures["seeds"]))}
