import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.report.charts import (
    HEIGHT,
    MAX_DOTS,
    MAX_POINTS,
    WIDTH,
    line_chart,
    round_axis,
    tick_label,
    tight_axis,
)

numbers = st.floats(min_value=-1e6, max_value=1e6, allow_subnormal=False)
figures = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), numbers)


@given(st.lists(numbers, min_size=1, max_size=20))
def test_round_axis_holds_its_values_and_has_even_ticks(values: list[float]) -> None:
    """Every value lies between the ends, and ticks stand at equal, round distances."""
    axis = round_axis(values)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 12
    step = (axis.high - axis.low) / (len(axis.ticks) - 1)
    assert all(
        b - a == pytest.approx(step, rel=1e-6) for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)
    )
    assert step / 10 ** math.floor(math.log10(step) + 1e-6) == pytest.approx(round(step / 10 ** math.floor(
        math.log10(step) + 1e-6)), rel=1e-6)  # fmt: skip


@given(st.lists(numbers, min_size=2, max_size=20))
def test_tight_axis_places_values_in_order(values: list[float]) -> None:
    """Larger values never lie further left, and all lie on the axis."""
    axis = tight_axis(values)
    shares = [axis.share(value) for value in sorted(values)]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    assert (axis.share(-math.inf), axis.share(math.inf)) == (0.0, 1.0)


@given(st.lists(figures, min_size=1, max_size=30))
def test_line_chart_draws_known_values_inside_and_leaves_gaps(values: list[float | None]) -> None:
    """A point for every finite value, all inside the picture; no chart where nothing is known."""
    chart = line_chart("Title", [float(i) for i in range(len(values))], {"a": values})
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        assert chart is None
        return
    assert chart is not None
    points = re.findall(r"([ML])(\S+) (\S+?)(?=[ML]|$)", chart.lines[0].path)
    assert len(points) == len(known) == len(chart.lines[0].dots)
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for _, x, y in points)
    runs = "".join("x" if v is not None and math.isfinite(v) else " " for v in values).split()
    assert sum(move == "M" for move, _, _ in points) == len(runs)


def test_line_chart_thins_long_curves_and_keeps_the_last_point() -> None:
    """A million steps make no megabyte of SVG, and the newest value stays."""
    n = 10 * MAX_POINTS
    chart = line_chart("t", [float(i) for i in range(n)], {"a": [0.0] * (n - 1) + [1.0]})
    assert chart is not None
    path = chart.lines[0].path
    assert path.count("L") + path.count("M") <= MAX_POINTS
    assert path.endswith(f"L{WIDTH - 14} 12")
    assert chart.lines[0].dots == ()
    assert chart.last == "1"


def test_values_below_the_floor_are_drawn_at_the_edge() -> None:
    """One huge outlier does not flatten the curve, and its true value is told."""
    chart = line_chart("t", [1.0, 2.0, 3.0], {"a": [-60.0, 0.0, 0.9]}, floor=-1.0)
    assert chart is not None
    outlier, zero, last = chart.lines[0].dots
    assert outlier.y == max(tick.at for tick in chart.y_ticks)
    assert zero.y - last.y > (HEIGHT / 5)
    assert outlier.title == "step 1: −60"


def test_line_chart_of_one_iteration() -> None:
    """A single rollout is a dot in the middle."""
    chart = line_chart("t", [256.0], {"a": [0.5]})
    assert chart is not None
    assert len(chart.lines[0].dots) == 1 <= MAX_DOTS
    assert [tick.label for tick in chart.x_ticks] == ["256"]


def test_line_chart_is_told_in_words() -> None:
    """Those who do not see the chart read where it starts, ends, and its extremes."""
    chart = line_chart("Loss", [0.0, 1.0, 2.0], {"training": [None, 3.0, 1.0], "validation": [None] * 3})
    assert chart is not None
    assert chart.alt == "Loss: training from 3 to 1, lowest 1, highest 3; validation has no value"


def test_tick_labels_differ_from_their_neighbours() -> None:
    """Ticks carry as many decimals as they need, and zero has no sign."""
    for values in ([0.012, 0.0163], [-0.1, 0.6], [1e-7, 5e-7], [0.0, 3e6], [-3.0, 5.0]):
        axis = round_axis(values)
        labels = [tick_label(tick, axis) for tick in axis.ticks]
        assert len(set(labels)) == len(labels)
        assert not any(re.fullmatch(r"[-−]0(\.0*)?", label) for label in labels)
