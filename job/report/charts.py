"""Geometry of the report's charts; the templates draw it, so that colours follow the page's light or dark."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from job.report.numbers import finite, significant

WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 26
MAX_POINTS = 1000
MAX_DOTS = 40

Figures = Sequence[float | None]


@dataclass(frozen=True)
class Axis:
    """A linear scale with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Return where `value` lies between the ends, cut to 0..1; infinities lie at the ends."""
        if math.isinf(value):
            return 1.0 if value > 0 else 0.0
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def percent(self, value: float) -> float:
        """Return `share` in percent, rounded for a file that stays small."""
        return round(100 * self.share(value), 2)


@dataclass(frozen=True)
class Tick:
    """A label at a place along an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A single point and the text that tells its value."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Line:
    """One series: an SVG path, and dots where there are few enough to be seen."""

    name: str
    path: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class LineChart:
    """A chart of one or more lines over a shared x."""

    title: str
    note: str
    alt: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marker: float | None
    """x of a vertical line, in the chart's units."""
    last: str
    """The last value of a single line, which the heading shows; empty for several."""


def round_axis(values: Figures, n_ticks: int = 5) -> Axis:
    """Return an axis that holds every finite value, its ticks multiples of 1, 2 or 5."""
    known = finite(values) or [0.0]
    low, high = min(known), max(known)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-6):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / max(1, n_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(i * step for i in range(first, last + 1)))


def tight_axis(values: Figures, n_ticks: int = 5, margin: float = 0.04) -> Axis:
    """Return an axis that ends just outside the values, with round ticks between."""
    wide = round_axis(values, n_ticks)
    known = finite(values) or [0.0]
    pad = margin * (max(known) - min(known)) or (wide.high - wide.low) / 2
    low, high = min(known) - pad, max(known) + pad
    return Axis(low, high, tuple(tick for tick in wide.ticks if low <= tick <= high))


def line_chart(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Figures],
    *,
    note: str = "",
    x_name: str = "step",
    marker: float | None = None,
    floor: float = -math.inf,
) -> LineChart | None:
    """Lay out lines over a shared x, with gaps where a value is missing; None where all are.

    Values below `floor` are drawn at the lower edge, so that one of them does not flatten all others.
    """
    known = [value for values in series.values() for value in finite(values)]
    if not known:
        return None
    x_axis = _x_axis(x)
    y_axis = round_axis([max(value, floor) for value in known], 4)
    lines = tuple(_line(name, x, values, x_axis, y_axis, x_name) for name, values in series.items())
    return LineChart(
        title=title,
        note=note,
        alt=f"{title}: " + "; ".join(_in_words(name, values) for name, values in series.items()),
        lines=lines,
        x_ticks=tuple(Tick(_x(x_axis, tick), f"{tick:,.0f}") for tick in x_axis.ticks),
        y_ticks=tuple(Tick(_y(y_axis, tick), tick_label(tick, y_axis)) for tick in y_axis.ticks),
        marker=_x(x_axis, marker) if marker is not None else None,
        last=significant(known[-1]) if len(series) == 1 else "",
    )


def tick_label(value: float, axis: Axis) -> str:
    """Return a tick with as many decimals as tell it from its neighbours."""
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else abs(value) or 1.0
    if step < 1e-4 or step >= 1e5:
        return f"{value:.2g}".replace("-", "−") if abs(value) > step / 2 else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "−")


def _x_axis(x: Sequence[float]) -> Axis:
    if len(x) == 1 or min(x) == max(x):
        return Axis(x[0] - 1, x[0] + 1, (x[0],))
    low, high = min(x), max(x)
    ticks = tuple(tick for tick in round_axis([low, high], 4).ticks if low <= tick <= high)
    return Axis(low, high, ticks)


def _line(name: str, x: Sequence[float], y: Figures, x_axis: Axis, y_axis: Axis, x_name: str) -> Line:
    stride = math.ceil(len(x) / MAX_POINTS)
    parts: list[str] = []
    dots: list[Dot] = []
    pen_is_down = False
    for at, value in _thinned(list(zip(x, y, strict=True)), stride):
        if value is None or not math.isfinite(value):
            pen_is_down = False
            continue
        left, top = _x(x_axis, at), _y(y_axis, value)
        parts.append(f"{'L' if pen_is_down else 'M'}{left:g} {top:g}")
        dots.append(Dot(left, top, f"{x_name} {at:,.0f}: {significant(value, 4)}"))
        pen_is_down = True
    return Line(name, "".join(parts), tuple(dots) if len(dots) <= MAX_DOTS else ())


def _thinned(points: list[tuple[float, float | None]], stride: int) -> list[tuple[float, float | None]]:
    # Counted from the end: the last point is the one that people look for.
    return points[::-1][::stride][::-1]


def _in_words(name: str, values: Figures) -> str:
    known = finite(values)
    if not known:
        return f"{name} has no value"
    return (
        f"{name} from {significant(known[0])} to {significant(known[-1])},"
        f" lowest {significant(min(known))}, highest {significant(max(known))}"
    )


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(TOP + (1 - axis.share(value)) * (HEIGHT - TOP - BOTTOM), 1)


def _round_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(step for step in (magnitude * m for m in (1, 2, 5, 10)) if step >= rough * (1 - 1e-9))
