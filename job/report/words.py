"""What names of candidates, metrics and verdicts mean in plain words, and how a difference is judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from job.evaluation.results import VerdictName
from job.metrics.statistics import Uplift

Tone = Literal["good", "neutral", "unsure", "bad"]


@dataclass(frozen=True)
class VerdictWords:
    """A verdict's headline and its tone, which picks colour and icon."""

    headline: str
    tone: Tone


VERDICTS: Mapping[VerdictName, VerdictWords] = {
    "improved": VerdictWords("Improved", "good"),
    "no-improvement": VerdictWords("No improvement", "neutral"),
    "inconclusive": VerdictWords("Inconclusive", "unsure"),
    "invalid": VerdictWords("Invalid", "bad"),
}

CANDIDATES: Mapping[str, str] = {
    "noop": "Today (no-op)",
    "best_fixed_prompt": "Best fixed prompt",
    "best_fixed_postprocess": "Best fixed post-processing",
    "best_fixed": "Best fixed action",
    "ridge": "Ridge regression",
    "reward_net": "Reward network's pick",
    "ppo": "PPO policy",
    "oracle": "Oracle",
}

METRICS: Mapping[str, str] = {
    "dice": "Dice",
    "iou": "IoU",
    "recall": "Recall",
    "precision": "Precision",
    "specificity": "Specificity",
    "cldice": "clDice",
    "betti0_error": "Betti-0 error",
    "betti1_error": "Betti-1 error",
}

LOWER_IS_BETTER = frozenset({"betti0_error", "betti1_error"})

Judgement = Literal["better", "worse", "unclear", "same"]

MARKS: Mapping[Judgement, str] = {"better": "▲", "worse": "▼", "unclear": "○", "same": "="}
JUDGED: Mapping[Judgement, str] = {
    "better": "better",
    "worse": "worse",
    "unclear": "not shown to differ",
    "same": "the same",
}


def candidate_name(candidate: str) -> str:
    """Return a candidate's name for people; unknown ones keep their own."""
    return CANDIDATES.get(candidate, candidate)


def metric_name(metric: str) -> str:
    """Return a metric's name for people; unknown ones keep their own."""
    return METRICS.get(metric, metric)


def judge(uplift: Uplift) -> Judgement:
    """Say what a paired difference shows: nothing while its interval holds 0."""
    if uplift.wins == 0 and uplift.losses == 0:
        return "same"
    if uplift.low > 0:
        return "better"
    if uplift.high < 0:
        return "worse"
    return "unclear"
