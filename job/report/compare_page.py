"""compare.html: a comparison of runs as one self-contained page."""

import math
from dataclasses import dataclass

from markupsafe import Markup

from job.evaluation.compare import CONFIDENCE, ComparedImage, ComparedRun, Comparison
from job.metrics.statistics import Uplift
from job.report.charts import Axis, Dot, Tick, tick_label, tight_axis
from job.report.compare import (
    basis,
    headline,
    inputs,
    judged,
    possible,
    sentence,
    ships,
    spec_differences,
    warnings,
)
from job.report.html import digest, environment, text
from job.report.images import Number
from job.report.numbers import figure, finite, interval, p_value, signed, spread
from job.report.words import JUDGED, LOWER_IS_BETTER, MARKS, VERDICTS, Judgement, judge, metric_name

LEAST_REACH = 0.01
"""Dice on either side of 0: differences that do not matter should not look large."""
SIZE, ROOM, MARGIN = 360, 50, 10
"""Of a scatter, in the units of its drawing: its side, and what labels (left and below) and edges need."""
MOST_TITLES = 400
"""Dots of a scatter that are named under the pointer: beyond it names would weigh more than all else."""


@dataclass(frozen=True)
class Bar:
    """A difference on the scale of its plot; places are percents of the width."""

    name: str
    against: str
    mean: str
    interval: str
    p: str
    at: float
    low: float
    high: float
    is_open_low: bool
    is_open_high: bool
    judgement: Judgement
    judged: str


@dataclass(frozen=True)
class Plot:
    """Differences on one scale."""

    bars: tuple[Bar, ...]
    """Of every other run to the first."""
    noop_bars: tuple[Bar, ...]
    """Of every run to its own no-op."""
    ticks: tuple[Tick, ...]
    zero: float


@dataclass(frozen=True)
class Scatter:
    """The Dice of every image under two runs, on equal axes; above the diagonal the other run is better."""

    x_name: str
    y_name: str
    alt: str
    dots: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    edges: tuple[float, float, float, float]
    """Left, right, top and bottom of the square."""


@dataclass(frozen=True)
class ImageRow:
    """An image in the table of all images."""

    name: str
    patient: str
    dice: tuple[Number, ...]
    differences: tuple[tuple[Number, str], ...]
    """Of every other run to the first, with a tone."""


def render_comparison(comparison: Comparison) -> str:
    """Render a comparison; the page has the security policy of a run's report and the same style."""
    style, script = text("report.css") + text("compare.css"), text("report.js")
    words, tone = headline(comparison)
    return (
        environment()
        .get_template("compare.html")
        .render(
            comparison=comparison,
            headline=words,
            tone=tone,
            sentences=[sentence(comparison, difference) for difference in comparison.differences],
            basis=basis(comparison),
            warnings=warnings(comparison),
            confidence=f"{CONFIDENCE:.0%}".replace("%", " %"),
            plot=plot(comparison),
            runs=[(run, ships(run), VERDICTS[run.info.results.verdict.verdict]) for run in comparison.runs],
            metrics=metric_rows(comparison),
            scatters=[scatter(comparison, i) for i in range(1, len(comparison.runs))],
            spec_differences=spec_differences(comparison),
            inputs=inputs(comparison),
            images=[_image_row(image) for image in comparison.images],
            style=Markup(style),  # noqa: S704 - the package's own file
            script=Markup(script),  # noqa: S704 - the package's own file
            policy=(
                f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}';"
                " base-uri 'none'; form-action 'none'"
            ),
        )
    )


def plot(comparison: Comparison) -> Plot:
    """Lay out every difference to the first run, and every run's to its own no-op, on one scale."""
    uplifts = [difference.dice for difference in comparison.differences]
    axis = _axis([*uplifts, *(run.vs_noop for run in comparison.runs)])
    first = comparison.first.label
    return Plot(
        bars=tuple(
            _bar(d.run.label, first, d.dice, d.holm_p, judged(d), axis) for d in comparison.differences
        ),
        noop_bars=tuple(_noop_bar(run, axis) for run in comparison.runs),
        ticks=tuple(
            Tick(axis.percent(tick), f"{'+' if tick > 0 else ''}{tick_label(tick, axis)}")
            for tick in axis.ticks
        ),
        zero=axis.percent(0.0),
    )


def metric_rows(comparison: Comparison) -> list[tuple[str, bool, list[tuple[str, str]]]]:
    """Return per metric: name, whether lower is better, and (value, interval) of every run and difference."""
    rows = []
    for metric in comparison.first.after:
        means = [run.after[metric] for run in comparison.runs]
        uplifts = [difference.by_metric[metric] for difference in comparison.differences]
        cells = [(figure(mean.mean), possible(metric, mean)) for mean in means]
        cells += [(signed(uplift.mean), spread(uplift)) for uplift in uplifts]
        rows.append((metric_name(metric), metric in LOWER_IS_BETTER, cells))
    return rows


def scatter(comparison: Comparison, other: int) -> Scatter:
    """Lay out the Dice of every image under the first run (x) and under run number `other` (y)."""
    x_name, y_name = comparison.first.label, comparison.runs[other].label
    pairs = [(image.dice[0], image.dice[other]) for image in comparison.images]
    axis = tight_axis([value for pair in pairs for value in pair], 5)
    left, right, top, bottom = ROOM, SIZE - MARGIN, MARGIN, SIZE - ROOM

    def across(value: float) -> float:
        return round(left + axis.share(value) * (right - left), 1)

    def down(value: float) -> float:
        return round(bottom - axis.share(value) * (bottom - top), 1)

    named = len(pairs) <= MOST_TITLES
    uplift = comparison.differences[other - 1].dice
    return Scatter(
        x_name=x_name,
        y_name=y_name,
        alt=(
            f"Dice of each image under {x_name} and {y_name}: {uplift.wins} above the diagonal,"
            f" {uplift.ties} on it, {uplift.losses} below"
        ),
        dots=tuple(
            Dot(across(x), down(y), f"{image.name}: {figure(x)} → {figure(y)}" if named else "")
            for image, (x, y) in zip(comparison.images, pairs, strict=True)
        ),
        x_ticks=tuple(Tick(across(tick), tick_label(tick, axis)) for tick in axis.ticks),
        y_ticks=tuple(Tick(down(tick), tick_label(tick, axis)) for tick in axis.ticks),
        edges=(left, right, top, bottom),
    )


def _axis(uplifts: list[Uplift]) -> Axis:
    means = [-LEAST_REACH, LEAST_REACH, *(uplift.mean for uplift in uplifts)]
    lowest, highest = min(means), max(means)
    # An interval from two or three patients can be wider than everything else together: it runs off the plot.
    reach = highest - lowest
    ends = finite([end for uplift in uplifts for end in (uplift.low, uplift.high)])
    return tight_axis([*means, *(min(max(end, lowest - reach), highest + reach) for end in ends)], 7)


def _noop_bar(run: ComparedRun, axis: Axis) -> Bar:
    p = run.vs_noop.p_value
    return _bar(run.label, "its own no-op", run.vs_noop, p, judge(run.vs_noop, p), axis)


def _bar(name: str, against: str, uplift: Uplift, p: float, judgement: Judgement, axis: Axis) -> Bar:
    low, high = (uplift.mean if math.isnan(end) else end for end in (uplift.low, uplift.high))
    return Bar(
        name=name,
        against=against,
        mean=signed(uplift.mean),
        interval=interval(uplift),
        p=p_value(p),
        at=axis.percent(uplift.mean),
        low=axis.percent(low),
        high=axis.percent(high),
        is_open_low=low < axis.low,
        is_open_high=high > axis.high,
        judgement=judgement,
        judged=f"{MARKS[judgement]} {JUDGED[judgement]}",
    )


def _image_row(image: ComparedImage) -> ImageRow:
    differences = [dice - image.dice[0] for dice in image.dice[1:]]
    return ImageRow(
        name=image.name,
        patient=image.patient,
        dice=tuple(Number(figure(dice), f"{dice:.6f}") for dice in image.dice),
        differences=tuple((Number(signed(d), f"{d:.6f}"), _tone(d)) for d in differences),
    )


def _tone(difference: float) -> str:
    return "good" if difference >= 0.0005 else "bad" if difference <= -0.0005 else "same"
