"""The ladder as rows of a dot plot, as a table of every metric and as the numbers behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from job.evaluation.results import LadderRow
from job.metrics.statistics import Interval, Uplift
from job.report.charts import Axis, Tick, tick_label, tight_axis
from job.report.numbers import figure, finite, interval, p_value, percent, signed, spread
from job.report.summary import detail
from job.report.tables import Row, Table, table
from job.report.words import (
    JUDGED,
    LOWER_IS_BETTER,
    MARKS,
    SIGNIFICANCE,
    Judgement,
    candidate_name,
    judge_row,
    metric_name,
    standing,
)

LEAST_REACH = 0.01
"""Dice on either side of the no-op: differences that do not matter should not look large."""


@dataclass(frozen=True)
class Rung:
    """A candidate in the dot plot; places are percents of the plot's width."""

    candidate: str
    name: str
    detail: str
    dice: str
    uplift: str
    interval: str
    at: float | None
    """None where the mean itself runs off the plot."""
    low: float
    high: float
    is_open_low: bool
    is_open_high: bool
    ships: bool
    is_apart: bool
    """True for what cannot ship or was dropped."""
    tag: str
    """Whether it ships, or why it could not."""
    judgement: Judgement
    judged: str


@dataclass(frozen=True)
class DotPlot:
    """All candidates on one scale: Dice against the no-op."""

    rungs: tuple[Rung, ...]
    ticks: tuple[Tick, ...]
    zero: float


@dataclass(frozen=True)
class Cell:
    """A metric of a candidate."""

    mean: str
    spread: str
    is_best: bool


@dataclass(frozen=True)
class MetricTable:
    """Every candidate x every metric; the best of those that can ship are marked."""

    metrics: tuple[tuple[str, bool], ...]
    """Name, and whether lower is better."""
    rows: tuple[tuple[Rung, tuple[Cell, ...]], ...]


def dot_plot(ladder: Sequence[LadderRow], significance: float = SIGNIFICANCE) -> DotPlot:
    """Lay the candidates out by their paired difference to the no-op.

    Random actions, which may be far below all else, run off the plot rather than squeeze it.
    Paired: the spread of a mean Dice is mostly that of easy and hard patients, and would hide what changed.
    """
    axis = _axis([row.vs_noop for row in ladder if row.candidate != "uniform"])
    return DotPlot(
        rungs=tuple(_rung(row, axis, significance) for row in ladder),
        ticks=tuple(Tick(axis.percent(tick), _tick_label(tick, axis)) for tick in axis.ticks),
        zero=axis.percent(0.0),
    )


def metric_table(ladder: Sequence[LadderRow], plot: DotPlot) -> MetricTable:
    """Collect the test means of every candidate of a ladder and its plot."""
    metrics = list(ladder[0].test) if ladder else []
    best = {metric: _best(ladder, metric) for metric in metrics}
    return MetricTable(
        metrics=tuple((metric_name(metric), metric in LOWER_IS_BETTER) for metric in metrics),
        rows=tuple(
            (
                rung,
                tuple(
                    Cell(
                        figure(row.test[metric].mean),
                        spread(_possible(row.test[metric], metric)),
                        _may_ship(row) and row.test[metric].mean == best[metric],
                    )
                    for metric in metrics
                ),
            )
            for rung, row in zip(plot.rungs, ladder, strict=True)
        ),
    )


def numbers_behind(ladder: Sequence[LadderRow]) -> Table | None:
    """Collect what the plot cannot show: p values, regret, the share of the gap closed, wins and losses."""
    return table(
        (
            "Candidate", "Against today", "Interval", "p (sign-flip)", "p (Holm)", "Regret", "Gap closed",
            "Left-out Dice", "Better / equal / worse",
        ),
        [_numbers(row) for row in ladder],
    )  # fmt: skip


def small_ladder(ladder: Sequence[LadderRow]) -> Table | None:
    """Collect the figures of the plot alone, for where a plot would be too much."""
    head = ("Candidate", "Dice", "Against today", "Interval", "Better / equal / worse")
    return table(
        head,
        [
            _row(
                row, figure(row.test["dice"].mean), signed(row.vs_noop.mean), spread(row.vs_noop), _tally(row)
            )
            for row in ladder
        ],
    )


def _numbers(row: LadderRow) -> Row:
    return _row(
        row,
        signed(row.vs_noop.mean),
        spread(row.vs_noop),
        p_value(row.vs_noop.p_value),
        p_value(row.holm_p),
        figure(row.regret),
        percent(row.gap_closed),
        figure(row.left_out_dice),
        _tally(row),
    )


def _row(row: LadderRow, *figures: str) -> Row:
    return Row((candidate_name(row.candidate), *figures), standing(row), is_marked=row.ships)


def _tally(row: LadderRow) -> str:
    return f"{row.vs_noop.wins} / {row.vs_noop.ties} / {row.vs_noop.losses}"


def _may_ship(row: LadderRow) -> bool:
    return row.can_ship and not row.dropped_by


def _possible(of: Interval, metric: str) -> Interval:
    """Cut an interval to what the metric can be: a share lies in 0..1, an error is not negative."""
    highest = math.inf if metric in LOWER_IS_BETTER else 1.0
    if of.n < 2:  # without ends there is nothing to cut
        return of
    return replace(of, low=max(0.0, of.low), high=min(highest, of.high))


def _axis(uplifts: Sequence[Uplift]) -> Axis:
    means = [-LEAST_REACH, LEAST_REACH, *finite([uplift.mean for uplift in uplifts])]
    lowest, highest = min(means), max(means)
    # An interval from two or three patients can be wider than everything else together: it runs off the plot.
    reach = highest - lowest
    ends = finite([end for uplift in uplifts for end in (uplift.low, uplift.high)])
    return tight_axis([*means, *(min(max(end, lowest - reach), highest + reach) for end in ends)], 7)


def _rung(row: LadderRow, axis: Axis, significance: float) -> Rung:
    uplift = row.vs_noop
    low, high = (uplift.mean if math.isnan(end) else end for end in (uplift.low, uplift.high))
    judgement = judge_row(row, significance)
    return Rung(
        candidate=row.candidate,
        name=candidate_name(row.candidate),
        detail=detail(row),
        dice=figure(row.test["dice"].mean),
        uplift=signed(uplift.mean),
        interval=interval(uplift),
        at=axis.percent(uplift.mean) if axis.low <= uplift.mean <= axis.high else None,
        low=axis.percent(low),
        high=axis.percent(high),
        is_open_low=low < axis.low,
        is_open_high=high > axis.high,
        ships=row.ships,
        is_apart=not _may_ship(row),
        tag=standing(row),
        judgement=judgement,
        judged=f"{MARKS[judgement]} {JUDGED[judgement]}",
    )


def _tick_label(tick: float, axis: Axis) -> str:
    text = tick_label(tick, axis)
    return "today" if not text.strip("0.") else f"+{text}" if tick > 0 else text


def _best(ladder: Sequence[LadderRow], metric: str) -> float | None:
    means = finite([row.test[metric].mean for row in ladder if _may_ship(row)])
    if not means:
        return None
    return min(means) if metric in LOWER_IS_BETTER else max(means)
