"""The results of an evaluation, as they stand in training_info.json."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from job.metrics.statistics import Interval, Uplift

VerdictName = Literal["improved", "no-improvement", "inconclusive", "invalid"]
Experiment = Literal["prompt optimisation", "post-processing optimisation", "reward-network RL"]


class Record(BaseModel):
    """A frozen part of the results; unknown keys are refused, and numbers that are not finite are words."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class LadderRow(Record):
    """One candidate, scored like all others; rows stand in order of simplicity."""

    candidate: str
    """noop, best_fixed_prompt, best_fixed_postprocess, best_fixed, ridge, reward_net, ppo or oracle."""
    description: str
    """What it does, in half a sentence; for fixed actions the action's label."""
    can_ship: bool
    """False for the oracle, which needs the truth."""
    ships: bool
    """True for the one row that was chosen on validation."""
    experiment: Experiment | None
    """The row that answers one of the mission's three experiments."""
    validation_dice: Interval
    """Mean Dice of the validation patients."""
    test: dict[str, Interval]
    """Metric -> mean over the test patients, for every name in `job.reward.terms.METRICS`."""
    vs_noop: Uplift
    """Paired Dice difference to the no-op on test."""
    vs_best_fixed: Uplift
    """Paired Dice difference to the best fixed action on test."""


class Verdict(Record):
    """Does what ships beat what the user has today?"""

    verdict: VerdictName
    sentence: str
    """The answer in one sentence."""
    ships: str
    """The candidate that ships."""
    dice_before: Interval
    """No-op on test."""
    dice_after: Interval
    """What ships, on test."""
    vs_noop: Uplift
    """(a) what ships against what the user has today."""
    vs_best_fixed: Uplift | None
    """(b) what learning added: the PPO policy against the best fixed action; null without a policy."""
    learning: str
    """Answer (b) in one sentence."""
    patients_needed: int | None
    """Test patients that would decide an inconclusive (a) at 80 % power; null where it is decided."""


class ImageResult(Record):
    """One test image before (no-op) and after (what ships)."""

    name: str
    patient: str
    action: int
    """Index of the action that what ships chose."""
    before: dict[str, float]
    """Metric -> value."""
    after: dict[str, float]
    """Metric -> value."""
    oracle_dice: float
    """Dice of the best action for this image, found with the truth in hand."""
    predicted_quality: float
    """The reward network's score of the mask after."""


class EvaluationResults(Record):
    """Everything that evaluate found."""

    verdict: Verdict
    ladder: list[LadderRow]
    images: list[ImageResult]
    actions_chosen: list[int]
    """Per action, on how many test images what ships chose it."""
