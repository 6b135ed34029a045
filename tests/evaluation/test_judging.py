"""What the judges without the truth are worth, recomputed."""

import numpy as np
import pytest
from scipy import stats

from job.evaluation.judging import coverage_of, judge_rows, review_of
from tests.evaluation.conftest import World


def test_every_judge_is_held_against_true_dice_on_every_split(world: World) -> None:
    """The network first, then the free ones; rank agreement and regret as scipy and numpy have them."""
    tables = {split: world.table.of(split) for split in ("validation", "test")}
    found = judge_rows(tables)
    assert [(row.split, row.judge) for row in found] == [
        (split, judge)
        for split in ("validation", "test")
        for judge in ("reward_net", "confidence", "consensus")
    ]
    for row in found:
        table = tables[row.split]
        scores = table.scores["reward_net"] if row.judge == "reward_net" else table.judges[row.judge]
        dice = table.scores["dice"]
        ranks = [stats.spearmanr(a, b).statistic for a, b in zip(scores, dice, strict=True)]
        chosen = dice[np.arange(len(dice)), scores.argmax(axis=1)]
        assert row.quality.spearman == pytest.approx(np.mean(ranks))
        assert row.quality.regret == pytest.approx((dice.max(axis=1) - chosen).mean())
        assert row.quality.mae == pytest.approx(np.abs(scores - dice).mean())
        assert row.quality.r2 == pytest.approx(
            1 - ((scores - dice) ** 2).mean() / ((dice - dice.mean()) ** 2).mean()
        )


def test_coverage_is_the_share_of_true_dice_inside_the_interval() -> None:
    """Ends count as inside; the number that the half-width rests on is told beside it."""
    quality, dice = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.5, 0.625, 0.75, 0.25])
    found = coverage_of(quality, dice, 0.125, promised=0.9, n_calibration=20)
    assert (found.held, found.promised, found.halfwidth) == (0.5, 0.9, 0.125)
    assert (found.n_calibration, found.n_test) == (20, 4)


def test_review_is_worth_what_is_left_without_the_flagged() -> None:
    """A fair judge lies between drawing at random and the truth, and the truth itself reaches the best."""
    rng = np.random.default_rng(0)
    dice = rng.uniform(0.3, 0.9, 50)
    quality = dice + rng.normal(0, 0.2, 50)
    found = review_of(quality, dice, 0.2)
    assert found.share == 0.2
    assert found.all == found.kept_at_random == pytest.approx(dice.mean())
    assert found.kept == pytest.approx(dice[np.argsort(quality)[10:]].mean())
    assert found.kept_at_best == pytest.approx(np.sort(dice)[10:].mean())
    assert found.kept_at_random < found.kept < found.kept_at_best
    assert review_of(dice, dice, 0.2).kept == found.kept_at_best
