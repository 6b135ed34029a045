import pytest

from job.report.tables import Row, table


def test_a_table_without_rows_is_none() -> None:
    """Nothing to show is no table, so that no report draws an empty one."""
    assert table(("a", "b"), []) is None


def test_every_row_has_a_cell_for_every_column() -> None:
    """A row that is too short would shift all figures by a column."""
    made = table(("a", "b"), [Row(("x", "1"))])
    assert made is not None
    assert made.rows[0].cells == ("x", "1")
    with pytest.raises(AssertionError):
        table(("a", "b"), [Row(("x",))])
