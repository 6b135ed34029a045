"""Items that are made when they are asked for."""

import pytest

from job.data.on_demand import OnDemand


def test_only_the_item_asked_for_last_is_held() -> None:
    """Asked for again at once it is not made again; after another one it is."""
    made = list[int]()

    def make(i: int) -> str:
        made.append(i)
        return f"item {i}"

    items = OnDemand(3, make)
    assert (len(items), made) == (3, [])
    assert [items[0], items[0], items[2], items[0]] == ["item 0", "item 0", "item 2", "item 0"]
    assert made == [0, 2, 0]


def test_is_a_sequence_that_ends() -> None:
    """Loops end behind the last item; a negative number is no item."""
    assert list(OnDemand(3, lambda i: i * i)) == [0, 1, 4]
    assert not OnDemand(0, lambda i: i)
    for outside in (-1, 3):
        with pytest.raises(IndexError, match="of 3"):
            OnDemand(3, lambda i: i)[outside]
