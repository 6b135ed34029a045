from job.report.sweep import sweep_table
from tests.report.factory import BROKEN, make_info


def test_every_setting_has_a_row_and_one_is_chosen() -> None:
    """Dice, interval, difference to the first, seeds and what was shared stand beside each setting."""
    points = make_info().sweep
    table = sweep_table(points)
    assert table is not None
    assert [row.cells[0] for row in table.rows] == [point.label for point in points]
    assert [row.tag for row in table.rows if row.is_marked] == ["chosen"]
    chosen = next(row for row in table.rows if row.is_marked)
    point = next(point for point in points if point.chosen)
    assert point.validation_dice is not None
    assert point.vs_first is not None
    assert chosen.cells[1] == "pull, table, reward, audit"
    assert chosen.cells[2] == f"{point.validation_dice.mean:.3f}"
    assert chosen.cells[4].startswith(f"{point.vs_first.mean:+.3f} (")
    assert chosen.cells[5] == ", ".join(f"{dice:.3f}" for dice in point.seeds_dice)
    assert table.rows[0].cells[4] == "–"


def test_a_setting_that_was_invalid_says_so() -> None:
    """Nothing was trained for it: dashes, not figures."""
    table = sweep_table(make_info().sweep)
    assert table is not None
    assert table.rows[BROKEN].tag == "invalid: not trained"
    assert set(table.rows[BROKEN].cells[2:6]) == {"–"}


def test_no_sweep_is_no_table() -> None:
    """A run without a sweep has nothing to show."""
    assert sweep_table([]) is None
