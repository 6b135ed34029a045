from dataclasses import replace
from typing import Literal

from job.evaluation.results import Coverage, JudgeRow, Review
from job.report.judges import coverage_sentence, judges_sentence, judges_table, review_sentence
from tests.report.factory import make_info

JUDGES = make_info().results.judges


def judged(split: Literal["validation", "test"], own: float, other: float) -> list[JudgeRow]:
    return [
        row.model_copy(
            update={
                "quality": replace(row.quality, regret=own if row.judge == "reward_net" else other),
            }
        )
        for row in JUDGES
        if row.split == split
    ]


def test_the_table_has_a_row_for_every_judge_and_split() -> None:
    """The reward network's rows are marked; figures are those that were measured."""
    table = judges_table(JUDGES)
    assert table is not None
    assert [row.cells[:2] for row in table.rows if row.is_marked] == [
        ("Reward network", "validation"),
        ("Reward network", "test"),
    ]
    assert table.rows[0].cells[2] == f"{JUDGES[0].quality.mae:.3f}"
    assert judges_table([]) is None


def test_the_network_must_beat_both_free_judges() -> None:
    """The sentence says so, or names whom it does not beat; what rounds alike is no win."""
    assert judges_sentence(judged("test", 0.004, 0.009)).endswith("it beats both.")
    worse = judges_sentence(judged("test", 0.009, 0.004))
    assert worse.endswith("it does not beat confidence or consensus.")
    assert judges_sentence(judged("test", 0.0041, 0.0042)).endswith("or consensus.")


def test_test_images_count_where_they_were_judged() -> None:
    """A good figure on validation does not hide a bad one on test."""
    both = [*judged("validation", 0.001, 0.009), *judged("test", 0.009, 0.004)]
    assert "on test images" in judges_sentence(both)
    assert "does not beat" in judges_sentence(both)
    assert "on validation images" in judges_sentence(judged("validation", 0.001, 0.009))
    assert judges_sentence([]) == ""


def test_coverage_in_a_sentence() -> None:
    """Promise, outcome and how many images each rests on; too few images are said to be too few."""
    coverage = Coverage(promised=0.9, held=0.91, halfwidth=0.034, n_calibration=20, n_test=40)
    assert coverage_sentence(coverage) == (
        "The 90 % interval of its predictions (±0.034, from 20 validation images)"
        " held 91 % of 40 test images."
    )
    few = coverage.model_copy(update={"held": 1.0, "halfwidth": 1.0, "n_calibration": 4})
    assert coverage_sentence(few) == (
        "4 validation images: too few for a 90 % interval of its predictions that is narrower than 0 to 1."
    )
    assert coverage_sentence(None) == ""


def test_review_in_a_sentence() -> None:
    """What is kept stands beside all, a random choice and the best one could do."""
    review = Review(share=0.2, all=0.871, kept=0.880, kept_at_random=0.872, kept_at_best=0.886)
    for figure in ("20 %", "0.880", "0.871", "0.872", "0.886"):
        assert figure in review_sentence(review)
    assert review_sentence(None) == ""
