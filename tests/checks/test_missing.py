"""Numbers that are missing."""

import numpy as np
import pytest

from job.checks.missing import broken, first_missing


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named_with_its_row(bad: float) -> None:
    """The first array and row that lack one are named; whole arrays are not."""
    whole, holed = np.zeros((3, 2)), np.array([0.0, bad, bad])
    assert (
        first_missing({"Dice": whole, "reward": holed}, ["a", "b", "c"]) == "the reward of b is not a number"
    )
    holed_NK = whole.copy()
    holed_NK[2, 1] = bad
    assert first_missing({"Dice": holed_NK}, ["a", "b", "c"]) == "the Dice of c is not a number"


def test_nothing_missing_is_nothing_said() -> None:
    """An empty sentence is false: callers test it."""
    assert first_missing({"Dice": np.zeros(2)}, ["a", "b"]) == ""


def test_a_missing_number_fails_a_check() -> None:
    """Its value is NaN, and neither that nor the threshold lets it pass."""
    result = broken("uplift", 0.0, "candidate", "the Dice of b is not a number")
    assert result.failed
    assert np.isnan(result.value)
    assert result.finding == "the Dice of b is not a number"
    assert result.advice
