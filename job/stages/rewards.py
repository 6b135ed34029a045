"""The reward as the policy gets it: the table's terms, weighted, in units of their spread if asked for.

And who learns by it: `grpo` takes its terms too, `sft` none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.reward import normalisation
from job.reward.terms import combine
from job.spec.tuning import GrpoSpec
from job.stages import reward, table
from job.stages.stage import StageContext
from job.table import ActionTable


def scored_table(context: StageContext) -> ActionTable:
    """Return the action table with the network's scores among its terms."""
    return table.load(context).with_scores(reward_net=reward.load_scores(context))


@dataclass(frozen=True)
class RewardFormula:
    """What the terms of an image, as scored, are multiplied by."""

    weights: Mapping[str, float]
    """On images with a truth."""
    unlabelled: float
    """The network's score on images without: all weights together, so that both kinds are on one scale."""

    def of(self, rows: ActionTable) -> NDArray[np.float64]:
        """Return the reward of the rows, `[N, K]`."""
        rewards_NK = np.array(combine(rows.scores, self.weights))
        unlabelled = [i for i, split in enumerate(rows.splits) if split == "unlabelled"]
        rewards_NK[unlabelled] = self.unlabelled * rows.scores["reward_net"][unlabelled]
        return rewards_NK


def scales(context: StageContext) -> dict[str, float]:
    """Return what each term is divided by: 1, or with `reward.normalise` its spread on training images."""
    weights = table.reward_weights(context)
    return _scales(context, weights)


def formula(context: StageContext) -> RewardFormula:
    """Return the reward that the spec asks for."""
    weights = table.reward_weights(context)
    # The network's own scale is needed on unlabelled images whatever its weight.
    of_network = _scales(context, {"reward_net": 1.0})["reward_net"]
    effective = normalisation.effective_weights(weights, _scales(context, weights))
    return RewardFormula(effective, sum(weights.values()) / of_network)


def true_terms(context: StageContext) -> dict[str, float]:
    """Return what rewards masks of labelled images in a phase of `grpo` that names no terms itself."""
    return context.spec.reward.true_terms


def learned_by(context: StageContext) -> Mapping[str, float]:
    """Return the weights of the terms, as scored, by which something learns; empty where nothing does."""
    if context.spec.has_policy:
        return formula(context).weights
    takes_them = any(not (phase.terms or phase.hide_labels) for phase in _grpo(context))
    return true_terms(context) if takes_them else {}


def network_rewards(context: StageContext) -> bool:
    """Return whether something learns by the network's scores: by their weight, or without a truth."""
    has_weight = bool(table.reward_weights(context).get("reward_net"))
    splits = table.load(context).splits
    is_unlabelled, is_labelled = "unlabelled" in splits, "train" in splits
    by_policy = context.spec.has_policy and (has_weight or is_unlabelled)
    return by_policy or any(
        phase.hide_labels or (is_unlabelled and (phase.unlabelled_share > 0 or not is_labelled))
        for phase in _grpo(context)
    )


def learners(context: StageContext) -> dict[str, Any]:
    """Return what the spec says of the reward and of who learns by it, as plain JSON."""
    spec = context.spec
    return {
        "terms": table.reward_weights(context),
        "normalise": spec.reward.normalise,
        "policy": spec.has_policy,
        "grpo": [[phase.terms, phase.hide_labels, phase.unlabelled_share] for phase in _grpo(context)],
    }


def _grpo(context: StageContext) -> list[GrpoSpec]:
    return [phase for _, phase in context.spec.weight_phases if isinstance(phase, GrpoSpec)]


def _scales(context: StageContext, weights: Mapping[str, float]) -> dict[str, float]:
    train = scored_table(context).of("train")
    return normalisation.scales(train.scores, weights, normalise=context.spec.reward.normalise)
