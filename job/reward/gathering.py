"""The masks of one example: made, brought to the working grid and scored, on whatever core.

Without torch, whose import costs a process of workers seconds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.progress import Task
from job.reward import terms
from job.reward.corruptions import corruptions_of
from job.reward.coverage import coverage_bytes

BYTES_PER_PIXEL = 90
"""Of an image whose masks are made, whatever the number of actions: measured at 4 million pixels."""

Blocks = Iterable[tuple[Sequence[int], NDArray[np.bool_]]]
"""Numbers of masks with those masks `[B, H, W]`, one block after the other."""


@dataclass(frozen=True)
class Spoiling:
    """How an image's truth is spoilt: by a generator of this seed, with so many other images to swap with.

    The masks are numbered from `first` on.
    """

    first: int
    n_others: int
    seed: tuple[int, ...]


@dataclass
class Gathered:
    """Those masks of an image that are kept, on the working grid as bytes (255 = covered); their Dice."""

    kept_M: NDArray[np.intp]
    masks_MHW: NDArray[np.uint8]
    dice_M: NDArray[np.float64]
    swapped: tuple[int, int] | None = None
    """The number of a mask that is still to be added, and which other image's it is."""

    def add(self, truth_HW: NDArray[np.bool_], numbers: Sequence[int], masks_BHW: NDArray[np.bool_]) -> None:
        """Take over those masks `[B, H, W]` of the given numbers that are kept."""
        is_kept_B = np.isin(numbers, self.kept_M)
        if not is_kept_B.any():
            return
        masks_BHW = masks_BHW if is_kept_B.all() else masks_BHW[is_kept_B]
        places = np.searchsorted(self.kept_M, np.asarray(numbers)[is_kept_B])
        height, width = self.masks_MHW.shape[1:]
        self.masks_MHW[places] = coverage_bytes(masks_BHW, (height, width))
        self.dice_M[places] = terms.score(masks_BHW, truth_HW, ["dice"])["dice"]


def gather(
    blocks: Blocks,
    truth_HW: NDArray[np.bool_],
    kept_M: NDArray[np.intp],
    size: tuple[int, int],
    spoiling: Spoiling | None,
    task: Task,
) -> Gathered:
    """Gather those masks whose numbers, in ascending order, are kept: the actions' own, then spoilt ones.

    Of another image's mask only the number is there: that image's truth is somewhere else.
    """
    masks_MHW = np.empty((len(kept_M), *size), dtype=np.uint8)
    gathered = Gathered(kept_M, masks_MHW, np.full(len(kept_M), np.nan))
    for numbers, masks_BHW in blocks:
        gathered.add(truth_HW, numbers, masks_BHW)
        task.advance(0)
    if spoiling is not None:
        spoilt = corruptions_of(truth_HW, spoiling.n_others, np.random.default_rng(spoiling.seed))
        for number, one in enumerate(spoilt, spoiling.first):
            if not isinstance(one, int):
                gathered.add(truth_HW, [number], one[None])
            elif number in kept_M:
                gathered.swapped = number, one
            task.advance(0)
    return gathered
