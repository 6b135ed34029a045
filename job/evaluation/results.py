"""The results of an evaluation, as they stand in training_info.json."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from job.checks.result import CheckResult
from job.metrics.statistics import Interval, Uplift
from job.reward.calibration import JudgeQuality

VerdictName = Literal["improved", "no-improvement", "inconclusive", "invalid"]
Experiment = Literal["prompt optimisation", "post-processing optimisation", "reward-network RL"]


class Record(BaseModel):
    """A frozen part of the results; unknown keys are refused, and numbers that are not finite are words."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class LadderRow(Record):
    """One candidate, scored like all others; rows stand in order of simplicity."""

    candidate: str
    """uniform, noop, best_fixed_prompt, best_fixed_postprocess, best_fixed, confidence, consensus, ridge,
    reward_net, exact, ppo, ppo_random_start or ppo_prior_start (the start that the spec did not ask for),
    sft, grpo (phases that changed the segmenter's weights; grpo_2 for a second one), oracle."""
    description: str
    """What it does, in half a sentence; for fixed actions the action's label."""
    can_ship: bool
    """False for what is there to compare with: the oracle, which needs the truth, random actions, PPO from
    the start that the spec did not ask for."""
    dropped_by: list[str]
    """Candidate checks that failed: it may not ship."""
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
    holm_p: float | None
    """p of `vs_noop`, corrected for the three experiments (Holm 1979); null for other rows."""
    left_out_dice: float | None
    """Mean Dice on training patients, each with the action that is best without it; null for other rows."""
    regret: float
    """Mean Dice on test that the oracle has over it."""
    gap_closed: float | None
    """Share of the gap between best fixed action and oracle that it closes on test; null without a gap."""


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
    """(b) what learning added: the PPO policy against the best fixed action, or without a policy the first
    phase that changed weights; null where nothing was learned."""
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


class Convention(Record):
    """The same masks, measured by one of the conventions in use: figures compare only within a row."""

    region: Literal["whole frame", "inside the field of view"]
    resolution: Literal["scoring", "native"]
    """`scoring`: the working width; `native`: masks resized to the image's own size (nearest pixel)."""
    aggregation: Literal["mean over patients", "pooled over pixels"]
    metrics: dict[str, dict[str, float]]
    """Candidate (noop, best_fixed, what ships) -> dice, iou, recall, precision."""


class JudgeRow(Record):
    """How well a judge without the truth agrees with true Dice, on images that it never saw."""

    judge: Literal["reward_net", "confidence", "consensus"]
    """The reward network, the mean confidence of a mask's foreground, or its Dice with the majority of all
    actions' masks."""
    split: Literal["validation", "test"]
    quality: JudgeQuality


class Coverage(Record):
    """How often the interval of the predicted quality held the true Dice of what ships, on test."""

    promised: float
    """Confidence of the interval."""
    held: float
    """Share of test images whose true Dice lay inside."""
    halfwidth: float
    n_calibration: int
    """Validation images that the half-width comes from."""
    n_test: int


class Review(Record):
    """What the review flag is worth on test: Dice of what is kept when the rest goes to a person."""

    share: float
    """Share of masks sent to review: those of the least predicted quality."""
    all: float
    """Mean Dice of all masks."""
    kept: float
    """Mean Dice of what is left without the flagged ones."""
    kept_at_random: float
    """The same when as many are drawn at random: the mean over all draws, which is the mean of all."""
    kept_at_best: float
    """The same when the truly worst go: the most that any flag could do."""


class OtherResults(Record):
    """What ships and the rest of the ladder on a further dataset."""

    name: str
    uri: str
    images: int
    patients: int
    verdict: Verdict
    ladder: list[LadderRow]


class EvaluationResults(Record):
    """Everything that evaluate found."""

    verdict: Verdict
    ladder: list[LadderRow]
    images: list[ImageResult]
    actions_chosen: list[int]
    """Per action, on how many test images what ships chose it."""
    checks: list[CheckResult]
    """Checks 6 and 8 to 12, on validation: what the ladder says, and whether the policy may ship."""
    protocol: dict[str, str]
    """How the figures were measured, in words: region, resolution, aggregation, threshold, empty masks,
    connectivity, statistics."""
    conventions: list[Convention]
    judges: list[JudgeRow]
    coverage: Coverage | None
    """Null where nothing ships."""
    review: Review | None
    other_datasets: list[OtherResults]
