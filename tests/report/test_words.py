import math
from typing import get_args

from job.evaluation.results import VerdictName
from job.metrics.statistics import Uplift, paired_uplift
from job.report.words import METRICS, VERDICTS, candidate_name, judge
from job.reward import terms


def test_every_verdict_and_metric_has_words() -> None:
    """No verdict without a headline, no metric without a name."""
    assert set(VERDICTS) == set(get_args(VerdictName))
    assert set(METRICS) == set(terms.METRICS)


def test_a_difference_is_judged_by_its_interval() -> None:
    """Better above 0, worse below, unclear while 0 lies within, the same where no image differs."""
    assert judge(Uplift(0.02, 0.01, 0.03, 0.1, 9, 9, 9, 0, 0)) == "better"
    assert judge(Uplift(-0.02, -0.03, -0.01, 0.1, 9, 9, 0, 0, 9)) == "worse"
    assert judge(Uplift(0.02, -0.01, 0.05, 0.1, 9, 9, 5, 0, 4)) == "unclear"
    assert judge(Uplift(0.02, -math.inf, math.inf, math.nan, 1, 1, 1, 0, 0)) == "unclear"
    assert judge(paired_uplift([0.5], [0.5], ["a"])) == "same"


def test_an_unknown_candidate_keeps_its_name() -> None:
    """A candidate that is newer than these words is still shown."""
    assert candidate_name("grpo") == "grpo"
