"""What some segmenters can tell besides masks: odd events, counted, and how far two ways to a mask agree."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from job.segmenters.protocol import Segmenter


@runtime_checkable
class Counting(Protocol):
    """A segmenter that counts what is out of the ordinary."""

    def counts(self) -> Mapping[str, int]:
        """Return counts over its life by the name of what is counted; the same names each time."""


@runtime_checkable
class Comparing(Protocol):
    """A segmenter with a faster way than the model's own, which it can compare with it."""

    def compare(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], n: int, seed: int
    ) -> Mapping[str, float] | None:
        """Compute n random pairs both ways, and return figures of their agreement; None: it cannot here."""


@runtime_checkable
class _Guard(Protocol):
    """A segmenter that stands before another one."""

    @property
    def segmenter(self) -> Segmenter: ...


def counts(segmenter: Segmenter) -> dict[str, int]:
    """Return what a segmenter counted, nothing for one that does not count."""
    adapter = _adapter(segmenter)
    return dict(adapter.counts()) if isinstance(adapter, Counting) else {}


def compare(
    segmenter: Segmenter, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], n: int, seed: int
) -> dict[str, float] | None:
    """Return how far a segmenter's two ways agree on n random pairs; None for one that cannot tell."""
    adapter = _adapter(segmenter)
    found = adapter.compare(images, prompts, n, seed) if isinstance(adapter, Comparing) else None
    return None if found is None else dict(found)


def _adapter(segmenter: Segmenter) -> Segmenter:
    while isinstance(segmenter, _Guard):
        segmenter = segmenter.segmenter
    return segmenter
