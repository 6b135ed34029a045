"""What names of candidates, metrics and verdicts mean in plain words, and how a difference is judged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from job.evaluation.results import LadderRow, VerdictName
from job.metrics.statistics import Uplift
from job.publish.training_info import Promotion

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
    "uniform": "Random action",
    "noop": "Today (no-op)",
    "best_fixed_prompt": "Best fixed prompt",
    "best_fixed_postprocess": "Best fixed post-processing",
    "best_fixed": "Best fixed action",
    "confidence": "Most confident mask",
    "consensus": "Most agreed mask",
    "ridge": "Ridge regression",
    "reward_net": "Reward network's pick",
    "exact": "Exact policy gradient",
    "ppo": "PPO policy",
    "ppo_random_start": "PPO from a random start",
    "ppo_prior_start": "PPO from the prior",
    "sft": "Supervised fine-tuning",
    "grpo": "GRPO on the weights",
    "selected": "What each fold chose",
    "oracle": "Oracle",
}

ORACLE = "oracle"

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

SIGNIFICANCE = 0.05
"""Largest p value that counts as shown, where intervals are of 95 %."""

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
    phase, _, number = candidate.rpartition("_")
    if number.isdigit() and phase in CANDIDATES:
        return f"{CANDIDATES[phase]}, phase {number}"
    return CANDIDATES.get(candidate, candidate)


def metric_name(metric: str) -> str:
    """Return a metric's name for people; unknown ones keep their own."""
    return METRICS.get(metric, metric)


def check_name(check: str) -> str:
    """Return a check's name for people: `reward hacking`."""
    return check.replace("_", " ")


def decision_words(promotion: Promotion) -> VerdictWords:
    """Return what became of the champion, as a headline.

    The report is written before `champion.json` is: it says who won, which stays true where another job was
    faster, and not that anything was promoted.
    """
    if promotion.decision == "invalid":
        return VerdictWords("Not compared", "bad")
    wins = promotion.decision == "promote"
    if promotion.champion is None:
        return VerdictWords(
            "The first champion" if wins else "Still no champion", "good" if wins else "neutral"
        )
    return VerdictWords(
        "The champion is beaten" if wins else "The champion stays", "good" if wins else "neutral"
    )


def standing(row: LadderRow) -> str:
    """Say in a word or two whether a candidate ships, or why it could not; empty where it merely did not."""
    if row.ships:
        return "ships"
    if row.dropped_by:
        return f"dropped: {', '.join(check_name(check) for check in row.dropped_by)}"
    if row.can_ship:
        return ""
    return "needs the truth" if row.candidate == ORACLE else "for comparison"


def judge(uplift: Uplift, p_value: float | None = None, significance: float = SIGNIFICANCE) -> Judgement:
    """Say what a paired difference shows: nothing while its interval holds 0, or p exceeds `significance`.

    `p_value`, if given, is the one that counts: corrected where several questions are asked at once. One that
    is NaN could not be computed and shows nothing.
    """
    if uplift.wins == 0 and uplift.losses == 0:
        return "same"
    if p_value is not None and (math.isnan(p_value) or p_value > significance):
        return "unclear"
    if uplift.low > 0:
        return "better"
    if uplift.high < 0:
        return "worse"
    return "unclear"


def judge_row(row: LadderRow, significance: float = SIGNIFICANCE) -> Judgement:
    """Judge a candidate against the no-op by interval and p, the corrected one where there is one."""
    return judge(row.vs_noop, row.vs_noop.p_value if row.holm_p is None else row.holm_p, significance)
