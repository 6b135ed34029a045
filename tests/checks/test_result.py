"""What a check says."""

import dataclasses
import math

import pytest

from job.checks import CheckResult, Thresholds
from job.checks.result import NAMELESS, Outcome, advise, unmeasured
from job.spec.checks import ChecksSpec


@pytest.mark.parametrize(("outcome", "failed"), [("passed", False), ("failed", True), ("unmeasured", False)])
def test_only_a_missed_threshold_is_a_failure(outcome: Outcome, failed: bool) -> None:
    """What could not be measured neither passed nor failed."""
    assert CheckResult("x", 0.0, 0.0, "validity", outcome, "", "").failed is failed


def test_what_could_not_be_measured_has_no_value_and_a_reason() -> None:
    """There is nothing to advise."""
    result = unmeasured("stability", 1.0, "candidate", "one training")
    assert math.isnan(result.value)
    assert (result.outcome, result.finding, result.advice) == ("unmeasured", "one training", "")


def test_advice_joins_the_cases_that_hold() -> None:
    """Empty where all is well."""
    assert advise((True, "one"), (False, "two"), (True, "three")) == "one; three"
    assert advise((False, "one")) == ""


def test_the_spec_names_every_threshold_with_its_default() -> None:
    """A threshold that a spec cannot set, or that it sets to another default, would be a trap."""
    assert ChecksSpec().model_dump() == dataclasses.asdict(Thresholds())


def test_names_are_left_out_word_by_word() -> None:
    """Those that the check says it is about, nothing within other words, in finding and advice."""
    check = CheckResult(
        "split_leak", 1.0, 0.5, "validity", "failed", "eye.1 (test) resembles eye (train), eyes do",
        "see eye.1", about=("eye", "eye.1"),
    )  # fmt: skip
    nameless = check.without_names()
    assert nameless.finding == f"{NAMELESS} (test) resembles {NAMELESS} (train), eyes do"
    assert nameless.advice == f"see {NAMELESS}"
    assert nameless.about == ()
    plain = CheckResult("uplift", 1.0, 0.5, "candidate", "passed", "better by 0.1", "")
    assert plain.without_names() == plain
