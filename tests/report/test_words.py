import math
from dataclasses import replace
from typing import get_args

from job.evaluation.results import VerdictName
from job.metrics.statistics import Uplift, paired_uplift
from job.report.words import METRICS, VERDICTS, candidate_name, judge, judge_row
from job.reward import terms
from tests.report.factory import make_info


def test_every_verdict_and_metric_has_words() -> None:
    """No verdict without a headline, no metric without a name."""
    assert set(VERDICTS) == set(get_args(VerdictName))
    assert set(METRICS) == set(terms.METRICS)


def test_a_difference_is_judged_by_its_interval() -> None:
    """Better above 0, worse below, unclear while 0 lies within, the same where no image differs."""
    assert judge(Uplift(0.02, 0.01, 0.03, 0.1, 9, 9, 9, 0, 0, 0.004, "t")) == "better"
    assert judge(Uplift(-0.02, -0.03, -0.01, 0.1, 9, 9, 0, 0, 9, 0.004, "t")) == "worse"
    assert judge(Uplift(0.02, -0.01, 0.05, 0.1, 9, 9, 5, 0, 4, 0.4, "t")) == "unclear"
    assert judge(Uplift(0.02, -math.inf, math.inf, math.nan, 1, 1, 1, 0, 0, math.nan, "t")) == "unclear"
    assert judge(paired_uplift([0.5], [0.5], ["a"])) == "same"


def test_a_difference_that_chance_could_make_is_unclear() -> None:
    """An interval above 0 is not enough where the p value that counts is not small, or is not known."""
    clear = Uplift(0.02, 0.01, 0.03, 0.1, 9, 9, 9, 0, 0, 0.004, "t")
    assert judge(clear, 0.05) == "better"
    assert judge(clear, 0.051) == "unclear"
    assert judge(clear, 0.051, significance=0.1) == "better"
    assert judge(clear, math.nan) == "unclear"


def test_the_corrected_p_counts_where_there_is_one() -> None:
    """A candidate is judged by Holm's p, and by its own where no correction was made."""
    row = next(row for row in make_info().results.ladder if row.candidate == "ppo")
    assert judge_row(row) == "better"
    assert judge_row(row.model_copy(update={"holm_p": 0.2})) == "unclear"
    weak = row.model_copy(update={"holm_p": None, "vs_noop": replace(row.vs_noop, p_value=0.2)})
    assert judge_row(weak) == "unclear"


def test_an_unknown_candidate_keeps_its_name() -> None:
    """A candidate that is newer than these words is still shown."""
    assert candidate_name("sac") == "sac"
    assert candidate_name("sac_2") == "sac_2"
    assert candidate_name("grpo_2") == "GRPO on the weights, phase 2"
