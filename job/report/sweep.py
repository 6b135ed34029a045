"""The settings that a sweep tried."""

from collections.abc import Sequence

from job.publish.training_info import SweepPoint
from job.report.numbers import MISSING, duration, figure, signed, spread
from job.report.tables import Row, Table, table

CHOSEN = "Chosen on validation; the test images judged the chosen one alone."

HEAD = ("Setting", "Shared with others", "Validation Dice", "Interval", "Against the first", "Seeds", "Time")


def sweep_table(points: Sequence[SweepPoint]) -> Table | None:
    """Set every setting of a sweep beside the first; None without a sweep."""
    return table(HEAD, [_row(point, is_first=i == 0) for i, point in enumerate(points)], n_text=2)


def _row(point: SweepPoint, *, is_first: bool) -> Row:
    reused = ", ".join(point.reused) or "nothing"
    dice, vs_first = point.validation_dice, point.vs_first
    against = MISSING if is_first or vs_first is None else f"{signed(vs_first.mean)} ({spread(vs_first)})"
    return Row(
        (
            point.label,
            reused,
            figure(dice.mean) if dice is not None else MISSING,
            spread(dice) if dice is not None else MISSING,
            against,
            ", ".join(figure(dice) for dice in point.seeds_dice) or MISSING,
            duration(point.seconds),
        ),
        "chosen" if point.chosen else "" if point.valid else "invalid: not trained",
        is_marked=point.chosen,
    )
