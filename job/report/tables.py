"""Tables as plain text cells, which both reports draw: what one of them shows, the other cannot miss."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row: its first cell names it."""

    cells: tuple[str, ...]
    tag: str = ""
    """A word or two on its standing, such as `ships` or `needs the truth`."""
    is_marked: bool = False
    """True for the row that the table is about: what ships, what was chosen."""


@dataclass(frozen=True)
class Table:
    """A table; columns after the first `n_text` hold figures and are set flush right."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    n_text: int = 1


def table(head: Sequence[str], rows: Sequence[Row], n_text: int = 1) -> Table | None:
    """Return a table, None for one without rows; every row has a cell for every column."""
    assert all(len(row.cells) == len(head) for row in rows)
    return Table(tuple(head), tuple(rows), n_text) if rows else None
