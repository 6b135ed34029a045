import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.metrics.statistics import Interval, paired_uplift, t_interval
from job.report.numbers import (
    count,
    duration,
    figure,
    interval,
    moment,
    p_value,
    percent,
    signed,
    significant,
    spread,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.8423, "0.842"),
        (-0.5, "−0.500"),
        (-0.0001, "0.000"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_figure(value: float | None, shown: str) -> None:
    """A figure has three decimals; what is not a number is a dash or an infinity sign."""
    assert figure(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0214, "+0.021"), (-0.0214, "−0.021"), (0.0, "±0.000"), (-0.0004, "±0.000"), (math.nan, "–")],
)
def test_signed(value: float, shown: str) -> None:
    """A difference has its sign, and none where it rounds to nothing."""
    assert signed(value) == shown


@given(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)))
def test_no_figure_is_ever_spelled_nan_or_inf(value: float | None) -> None:
    """Whatever the value, people read a number, a dash or an infinity sign."""
    for shown in (figure(value), signed(value), significant(value), duration(value)):
        assert shown
        assert not any(word in shown for word in ("nan", "inf", "None"))


@given(st.floats(min_value=-10, max_value=10))
def test_signed_keeps_the_value(value: float) -> None:
    """What is shown reads back as the value, to the last digit shown."""
    assert abs(float(signed(value).replace("−", "-").replace("±", "")) - value) <= 0.0005 + 1e-12


def test_spread_of_one_patient() -> None:
    """A single patient has no interval, and the text says why."""
    assert spread(t_interval([0.8])) == "unbounded: one patient"
    assert spread(paired_uplift([0.9], [0.8], ["a"])) == "unbounded: one patient"


def test_spread_signs_differences_alone() -> None:
    """The ends of an interval are signed for a difference and plain for a mean."""
    assert spread(Interval(0.5, 0.4, 0.6, 9)) == "0.400 to 0.600"
    uplift = paired_uplift([0.52, 0.53, 0.51], [0.5, 0.5, 0.5], ["a", "b", "c"])
    assert spread(uplift) == f"+{uplift.low:.3f} to +{uplift.high:.3f}".replace("+-", "−")


def test_spread_of_nothing() -> None:
    """Equal masks need no interval, and missing ends are a dash."""
    same = paired_uplift([0.5, 0.6], [0.5, 0.6], ["a", "b"])
    assert (spread(same), interval(same)) == ("no image differs", "no image differs")
    assert spread(Interval(math.nan, math.nan, math.nan, 0)) == "–"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"),
     (7500, "2 h 5 min"), (None, "–"), (-1, "–")],
)  # fmt: skip
def test_duration(seconds: float | None, shown: str) -> None:
    """A duration is told in the unit that suits it."""
    assert duration(seconds) == shown


def test_count() -> None:
    """Nouns follow their numbers."""
    assert [count(n, "image") for n in (0, 1, 2048)] == ["0 images", "1 image", "2,048 images"]


def test_moment() -> None:
    """A time is shown to the minute, and what is no time as it is."""
    assert moment("2026-11-23T19:18:09Z") == "2026-11-23 19:18 UTC"
    assert moment("2026-11-23T19:18:09+01:00") == "2026-11-23 19:18 UTC+01:00"
    assert moment("yesterday") == "yesterday"


def test_shares_and_p_values() -> None:
    """Shares are whole percents; a p value below a thousandth is said to be so; what is missing is a dash."""
    assert [percent(value) for value in (0.634, -0.29, 0.0, None, math.nan)] == [
        "63 %",
        "−29 %",
        "0 %",
        "–",
        "–",
    ]
    assert [p_value(p) for p in (0.0312, 0.0004, 1.0, None, math.nan)] == [
        "0.031",
        "<0.001",
        "1.000",
        "–",
        "–",
    ]
