"""What the judges without the truth are worth: on images they never saw, and as a review flag."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from job.evaluation.results import Coverage, JudgeRow, Review
from job.reward.calibration import coverage, judge_quality, review_worth
from job.table import ActionTable

Scores = NDArray[np.float64]


def judge_rows(tables: Mapping[str, ActionTable]) -> list[JudgeRow]:
    """Compare the reward network and the free judges with true Dice; `tables` by split, with `reward_net`."""
    return [
        JudgeRow.model_validate(
            {"judge": judge, "split": split, "quality": judge_quality(scores_NK, table.scores["dice"])}
        )
        for split, table in tables.items()
        for judge, scores_NK in {"reward_net": table.scores["reward_net"], **table.judges}.items()
    ]


def coverage_of(
    quality_N: Scores, dice_N: Scores, halfwidth: float, *, promised: float, n_calibration: int
) -> Coverage:
    """Say how often the interval around the predicted quality of what ships held its true Dice."""
    return Coverage(
        promised=promised,
        held=coverage(quality_N, dice_N, halfwidth),
        halfwidth=halfwidth,
        n_calibration=n_calibration,
        n_test=len(dice_N),
    )


def review_of(quality_N: Scores, dice_N: Scores, share: float) -> Review:
    """Say what sending the worst `share` by predicted quality to a person leaves."""
    return Review(share=share, **review_worth(quality_N, dice_N, share)._asdict())
