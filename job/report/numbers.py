"""Figures as people read them: a missing figure is a dash, never "nan"."""

import math
from collections.abc import Sequence
from datetime import datetime

from job.metrics.statistics import Interval, Uplift

MISSING = "–"


def figure(value: float | None, digits: int = 3) -> str:
    """Return a figure with fixed digits; `–` for None and NaN, `∞` for infinities."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return _minus(f"{value:.{digits}f}")


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign; what rounds to nothing is `±0.000`."""
    if value is None or not math.isfinite(value):
        return figure(value, digits)
    text = f"{value:+.{digits}f}"
    return f"±{text[1:]}" if not text.strip("+-0.") else _minus(text)


def significant(value: float | None, digits: int = 3) -> str:
    """Return a figure of unknown scale with so many significant digits, such as `0.0123` or `4.1e-05`."""
    if value is None or not math.isfinite(value):
        return figure(value)
    return _minus(f"{value:.{digits}g}")


def percent(share: float | None) -> str:
    """Return a share in whole percent, such as `63 %`; `–` for None and NaN."""
    if share is None or not math.isfinite(share):
        return figure(share)
    return f"{figure(100 * share, 0)} %"


def p_value(p: float | None) -> str:
    """Return a p value with three digits, `<0.001` below them; `–` for None and NaN."""
    if p is not None and p < 0.0005:
        return "<0.001"
    return figure(p)


def spread(of: Interval | Uplift) -> str:
    """Return an interval's ends, signed for a difference; words where there is none to show."""
    show = signed if isinstance(of, Uplift) else figure
    if isinstance(of, Uplift) and of.wins == of.losses == 0:
        return "no image differs"
    if math.isnan(of.low) or math.isnan(of.high):
        return MISSING
    if math.isinf(of.low) and math.isinf(of.high):
        return "unbounded: one patient" if patients(of) == 1 else "unbounded"
    return f"{show(of.low)} to {show(of.high)}"


def interval(of: Interval | Uplift) -> str:
    """Return `spread` as it reads within a sentence: `interval +0.014 to +0.028`, `no image differs`."""
    text = spread(of)
    return text if text.startswith("no ") else f"interval {text}"


def patients(of: Interval | Uplift) -> int:
    """Return how many patients a mean rests on."""
    return of.n_patients if isinstance(of, Uplift) else of.n


def count(n: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as `1 patient` or `2,048 steps`."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that suits it: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def moment(timestamp: str) -> str:
    """Return an ISO 8601 time to the minute, `2026-11-23 19:18 UTC`; other texts as they are."""
    try:
        at = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    return f"{at:%Y-%m-%d %H:%M} {at.tzname() or ''}".rstrip()


def finite(values: Sequence[float | None]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if value is not None and math.isfinite(value)]


def _minus(text: str) -> str:
    # A negative zero is an artefact of rounding, and the typographic minus is as wide as the plus.
    return text.lstrip("-") if text.startswith("-") and not text.strip("-0.") else text.replace("-", "−")
