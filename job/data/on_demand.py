"""Pictures that are not held: each is made again whenever it is asked for."""

from collections.abc import Callable, Sequence
from threading import local
from typing import Generic, TypeVar

T = TypeVar("T")


class OnDemand(Sequence[T], Generic[T]):
    """`n` items that `make` gives by their number; of each thread only what it asked for last is held."""

    def __init__(self, n: int, make: Callable[[int], T]) -> None:
        self._n, self._make = n, make
        self._of_thread = local()

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> T:  # type: ignore[override]
        if not 0 <= i < self._n:
            raise IndexError(f"no item {i} of {self._n}")
        last: tuple[int, T] | None = getattr(self._of_thread, "last", None)
        if last is None or last[0] != i:
            last = self._of_thread.last = None  # the old one goes before the new one comes
            last = self._of_thread.last = (i, self._make(i))
        return last[1]
