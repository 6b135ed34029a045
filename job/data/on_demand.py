"""Pictures that are not held: each is made again whenever it is asked for."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class OnDemand(Sequence[T], Generic[T]):
    """`n` items that `make` gives by their number; only the one that was asked for last is held."""

    def __init__(self, n: int, make: Callable[[int], T]) -> None:
        self._n, self._make = n, make
        self._last: tuple[int, T] | None = None

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> T:  # type: ignore[override]
        if not 0 <= i < self._n:
            raise IndexError(f"no item {i} of {self._n}")
        if self._last is None or self._last[0] != i:
            self._last = None  # the old one goes before the new one comes
            self._last = (i, self._make(i))
        return self._last[1]
