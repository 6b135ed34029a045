"""What ships against the champion, and what is new since the champion was made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from job.evaluation.drift import WARNING
from job.metrics.statistics import Interval, Uplift
from job.publish.training_info import Drift, DriftStatistic, Promotion, TrainingInfo
from job.report.charts import Axis, Tick, tick_label, tight_axis
from job.report.numbers import MISSING, count, figure, interval, p_value, percent, signed, spread
from job.report.strips import Mark, StripChart, StripRow
from job.report.summary import significance
from job.report.tables import Row, Table, table
from job.report.words import Judgement, VerdictWords, candidate_name, decision_words, judge

MOST_ACTIONS = 8
LEAST_REACH = 1.0
"""Standard deviations on either side of no shift: shifts that do not matter should not look large."""


@dataclass(frozen=True)
class Difference:
    """The paired Dice difference, challenger minus champion."""

    uplift: Uplift
    judgement: Judgement
    basis: str
    """Its interval and p value."""


@dataclass(frozen=True)
class Contest:
    """Challenger against champion."""

    words: VerdictWords
    sentence: str
    table: Table | None
    difference: Difference | None
    """None where nothing was compared."""
    opponent: str
    """`champion`, or `today` where there is none."""
    basis: str
    """On which test images; empty where nothing was compared."""


@dataclass(frozen=True)
class ActionShare:
    """How often the champion chooses an action, as shares of known and of new images."""

    label: str
    known: float
    new: float

    @property
    def figures(self) -> tuple[str, str]:
        """Both shares in percent."""
        return percent(self.known), percent(self.new)

    @property
    def lengths(self) -> tuple[float, float]:
        """Both shares in percent as the lengths of bars."""
        known, new = (
            round(100 * share, 2) if math.isfinite(share) else 0.0 for share in (self.known, self.new)
        )
        return known, new


@dataclass(frozen=True)
class DriftView:
    """What is new since the champion was made."""

    sentence: str
    size: str
    shifts: StripChart | None
    actions: tuple[ActionShare, ...]
    """Most frequent first, the rest of them as one."""
    dice: Table | None

    @property
    def is_warning(self) -> bool:
        """Whether somebody should look."""
        return self.sentence.startswith(WARNING)


def contest(info: TrainingInfo) -> Contest | None:
    """Lay out the comparison with the champion; None for a run that does not promote."""
    promotion = info.promotion
    if promotion is None:
        return None
    return Contest(
        words=decision_words(promotion),
        sentence=promotion.sentence,
        table=_contestants(info, promotion),
        difference=_difference(promotion.vs_champion, significance(info)),
        opponent="champion" if promotion.champion is not None else "today",
        basis=_basis(promotion),
    )


def drift_view(info: TrainingInfo) -> DriftView | None:
    """Lay out what is new since the champion was made; None without a champion."""
    drift = info.promotion.drift if info.promotion is not None else None
    if drift is None:
        return None
    return DriftView(
        sentence=drift.sentence,
        size=f"{count(drift.new_images, 'new image')}, {drift.known_images:,} known",
        shifts=shift_chart(drift.statistics),
        actions=tuple(action_shares(drift)),
        dice=dice_table(drift),
    )


def shift_chart(statistics: Sequence[DriftStatistic]) -> StripChart | None:
    """Lay out how far the new images' means lie from the known ones', in the latter's standard deviations."""
    if not statistics:
        return None
    axis = tight_axis([-LEAST_REACH, LEAST_REACH, *(one.shift for one in statistics)], 5)
    return StripChart(
        rows=tuple(_shift_row(one, axis) for one in statistics),
        ticks=tuple(Tick(axis.percent(tick), tick_label(tick, axis)) for tick in axis.ticks),
        keys=(("diamond", "mean of known images"), ("dot", "mean of new images")),
        heading="shift in sd",
    )


def shift_table(drift: Drift) -> Table | None:
    """Set the figures of `shift_chart` beside each other, for where nothing can be drawn."""
    return table(
        ("Image statistic", "Known images", "New images", "Shift in sd"),
        [
            Row((_name(one), figure(one.mean_known), figure(one.mean_new), signed(one.shift, 2)))
            for one in drift.statistics
        ],
    )


def action_shares(drift: Drift) -> list[ActionShare]:
    """Return the champion's actions, most frequent first, the rest of them as one."""
    labels = drift.actions_labels
    known, new = (shares or [math.nan] * len(labels) for shares in (drift.actions_known, drift.actions_new))
    chosen = [ActionShare(*one) for one in zip(labels, known, new, strict=True) if any(one[1:])]
    chosen.sort(key=lambda one: -max(one.lengths))
    shown, rest = chosen[:MOST_ACTIONS], chosen[MOST_ACTIONS:]
    if rest:
        known_rest, new_rest = sum(one.known for one in rest), sum(one.new for one in rest)
        shown.append(ActionShare(f"{count(len(rest), 'other action')}", known_rest, new_rest))
    return shown


def action_table(drift: Drift) -> Table | None:
    """Set how often the champion chooses its actions on known and on new images beside each other."""
    return table(
        ("Action of the champion", "Known images", "New images"),
        [Row((one.label, *one.figures)) for one in action_shares(drift)],
    )


def dice_table(drift: Drift) -> Table | None:
    """Set the champion's Dice on known and on new images beside each other."""
    rows = (("Known", drift.champion_dice_known), ("New", drift.champion_dice_new))
    return table(
        ("Images", "Champion's Dice", "Interval", "Patients"),
        [Row((name, *_mean(dice), str(dice.n))) for name, dice in rows if dice is not None],
    )


def _contestants(info: TrainingInfo, promotion: Promotion) -> Table | None:
    if promotion.decision == "invalid":
        return None
    uplift = promotion.vs_champion
    against = MISSING if uplift is None else f"{signed(uplift.mean)} ({spread(uplift)})"
    does = _does(info, info.results.verdict.ships)
    challenger = ("Challenger", does, *_mean(promotion.challenger_dice), against)
    rows = [Row(challenger, "this run", is_marked=True)]
    if promotion.champion is not None:
        does = f"{promotion.champion_candidate} ({promotion.champion})"
        champion = ("Champion", does, *_mean(promotion.champion_dice), MISSING)
        rows.append(Row(champion, f"generation {promotion.generation}"))
    rows.append(_noop(info, promotion))
    return table(("Candidate", "What it does", "Dice", "Interval", "Against the champion"), rows, n_text=2)


def _noop(info: TrainingInfo, promotion: Promotion) -> Row:
    cells = (candidate_name("noop"), _does(info, "noop"), *_mean(info.results.verdict.dice_before), MISSING)
    if promotion.champion is None:
        return Row(cells, "in the champion's place")
    return Row(cells, "on all test images" if promotion.left_out else "")


def _does(info: TrainingInfo, candidate: str) -> str:
    described = (row.description for row in info.results.ladder if row.candidate == candidate)
    return next(described, candidate_name(candidate))


def _difference(uplift: Uplift | None, significance: float) -> Difference | None:
    if uplift is None:
        return None
    p = p_value(uplift.p_value)
    basis = interval(uplift) + ("" if p == MISSING else f", p {p}")
    return Difference(uplift, judge(uplift, uplift.p_value, significance), basis)


def _basis(promotion: Promotion) -> str:
    if promotion.vs_champion is None:
        return ""
    images = f"{count(promotion.n_images, 'test image')}, {count(promotion.n_patients, 'patient')}"
    if not promotion.left_out:
        return images
    return f"{images}; without {promotion.left_out:,} that the champion learned from"


def _mean(of: Interval | None) -> tuple[str, str]:
    return (MISSING, MISSING) if of is None else (figure(of.mean), spread(of))


def _shift_row(one: DriftStatistic, axis: Axis) -> StripRow:
    marks = [Mark(axis.percent(0.0), "diamond", f"known images {figure(one.mean_known)}")]
    if not math.isnan(one.shift):
        new = f"new images {figure(one.mean_new)}, {signed(one.shift, 2)} standard deviations"
        marks.append(Mark(axis.percent(one.shift), "dot", new))
    return StripRow(
        name=_name(one),
        tag="",
        marks=tuple(marks),
        figures=signed(one.shift, 2),
        note=f"{figure(one.mean_known)} → {figure(one.mean_new)}",
    )


def _name(statistic: DriftStatistic) -> str:
    return statistic.name.replace("_", " ")
