"""The reward as the policy gets it: the table's terms, weighted, in units of their spread if asked for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.reward import normalisation
from job.reward.terms import combine
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


def _scales(context: StageContext, weights: Mapping[str, float]) -> dict[str, float]:
    train = scored_table(context).of("train")
    return normalisation.scales(train.scores, weights, normalise=context.spec.reward.normalise)
