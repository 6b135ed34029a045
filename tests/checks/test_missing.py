"""Numbers that are missing."""

import numpy as np
import pytest

from job.checks.missing import Missing, broken, first_missing
from job.checks.result import NAMELESS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named_with_its_row(bad: float) -> None:
    """The first array and row that lack one are named; whole arrays are not."""
    whole, holed = np.zeros((3, 2)), np.array([0.0, bad, bad])
    found = first_missing({"Dice": whole, "reward": holed}, ["a", "b", "c"])
    assert found == Missing("the reward of b is not a number", "b")
    holed_NK = whole.copy()
    holed_NK[2, 1] = bad
    assert first_missing({"Dice": holed_NK}, ["a", "b", "c"]) == ("the Dice of c is not a number", "c")


def test_nothing_missing_is_nothing_said() -> None:
    """Callers test for None."""
    assert first_missing({"Dice": np.zeros(2)}, ["a", "b"]) is None


def test_a_missing_number_fails_a_check() -> None:
    """Its value is NaN, and neither that nor the threshold lets it pass."""
    result = broken("uplift", 0.0, "candidate", Missing("the Dice of b is not a number", "b"))
    assert result.failed
    assert np.isnan(result.value)
    assert result.finding == "the Dice of b is not a number"
    assert result.advice
    assert result.without_names().finding == f"the Dice of {NAMELESS} is not a number"
