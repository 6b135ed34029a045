"""The reward network against judges that cost nothing, and what its predictions are worth to a reader."""

import math
from collections.abc import Sequence

from job.evaluation.results import Coverage, JudgeRow, Review
from job.report.numbers import count, figure, percent
from job.report.tables import Row, Table, table

JUDGES = {
    "reward_net": "Reward network",
    "confidence": "Confidence",
    "consensus": "Consensus",
}

HEAD = ("Judge", "Images", "Mean error", "R²", "Rank correlation", "Regret", "Oracle gap", "Slope")


def judges_table(judges: Sequence[JudgeRow]) -> Table | None:
    """Set the reward network beside the free judges, on validation and test."""
    return table(
        HEAD,
        [
            Row(
                (
                    JUDGES[row.judge],
                    row.split,
                    figure(row.quality.mae),
                    figure(row.quality.r2, 2),
                    figure(row.quality.spearman, 2),
                    figure(row.quality.regret),
                    figure(row.quality.oracle_gap),
                    figure(row.quality.slope, 2),
                ),
                is_marked=row.judge == "reward_net",
            )
            for row in judges
        ],
        n_text=2,
    )


def judges_sentence(judges: Sequence[JudgeRow]) -> str:
    """Say whether the network chooses better than both free judges, on test where it was measured there."""
    split = "test" if any(row.split == "test" for row in judges) else "validation"
    regret = {row.judge: row.quality.regret for row in judges if row.split == split}
    own = regret.pop("reward_net", math.nan)
    if math.isnan(own) or not regret:
        return ""
    others = " and ".join(f"{figure(cost)} ({JUDGES[judge].lower()})" for judge, cost in regret.items())
    start = f"Choosing by the network costs {figure(own)} Dice on {split} images, by a free judge {others}: "
    # Compared as they are shown: a tie of figures is not a win.
    better = [JUDGES[j].lower() for j, cost in regret.items() if not round(own, 3) < round(cost, 3)]
    if not better:
        return start + ("it beats both." if len(regret) > 1 else "it beats it.")
    return start + f"it does not beat {' or '.join(better)}."


def coverage_sentence(coverage: Coverage | None) -> str:
    """Say how often the interval of the predicted quality held the truth."""
    if coverage is None:
        return ""
    interval = f"{percent(coverage.promised)} interval"
    basis = count(coverage.n_calibration, "validation image")
    if not coverage.halfwidth < 1:  # it is at most 1: what holds everything was not found from these images
        return f"{basis}: too few for a {interval} of its predictions that is narrower than 0 to 1."
    return (
        f"The {interval} of its predictions (±{figure(coverage.halfwidth)}, from {basis}) held"
        f" {percent(coverage.held)} of {count(coverage.n_test, 'test image')}."
    )


def review_sentence(review: Review | None) -> str:
    """Say what sending masks of low predicted quality to a person leaves."""
    if review is None:
        return ""
    return (
        f"Sending the {percent(review.share)} of least predicted quality to a person leaves masks of"
        f" {figure(review.kept)} Dice. All masks have {figure(review.all)}; as many sent at random leave"
        f" {figure(review.kept_at_random)}, the truly worst {figure(review.kept_at_best)}."
    )
