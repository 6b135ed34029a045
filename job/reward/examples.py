"""What the reward network learns from: images and masks on its working grid, with their true Dice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.data.on_demand import OnDemand
from job.progress import SILENT, Progress
from job.reward import terms
from job.reward.corruptions import corruptions_of, n_corruptions
from job.reward.coverage import coverage_bytes
from job.reward.inputs import image_channels, mask_coverage, working_size
from job.storage.digests import tensors_digest


@dataclass(frozen=True)
class LabelledImages:
    """Images `[H, W, 3]`, their truths `[H, W]`, their patients, their actions' masks.

    Images and truths may be made when they are asked for, and `masks_of(i)` yields numbers of actions with
    their masks `[B, H, W]` until all `n_actions` were there: nothing is as large as a data set.
    """

    images: Sequence[NDArray[np.uint8]]
    truths: Sequence[NDArray[np.bool_]]
    patients: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    """(height, width) of every image, in any order."""
    n_actions: int
    masks_of: Callable[[int], Iterator[tuple[Sequence[int], NDArray[np.bool_]]]]


@dataclass(frozen=True)
class Example:
    """One image on the working grid with M masks, of which the first `n_actions` are the actions' own.

    Coverage is kept as bytes (`masks_MHW`, 255 = covered): a table's masks as floats would not fit in memory.
    """

    channels_CHW: Tensor
    truth_HW: Tensor
    masks_MHW: Tensor
    dice_M: NDArray[np.float64]
    n_actions: int

    @cached_property
    def digest(self) -> str:
        """A sha256 over everything."""
        tensors = {
            "channels": self.channels_CHW.numpy(),
            "truth": self.truth_HW.numpy(),
            "masks": self.masks_MHW.numpy(),
            "dice": self.dice_M,
        }
        return tensors_digest(tensors, self.n_actions)

    def coverage(self, which: slice | NDArray[np.intp], device: str = "cpu") -> Tensor:
        """Return the masks of the given rows as shares in 0..1: float32."""
        rows = which if isinstance(which, slice) else torch.from_numpy(which)
        return self.masks_MHW[rows].to(device).to(torch.float32) / 255


def prepare(
    labelled: LabelledImages,
    max_side: int,
    groups: Sequence[int] | None,
    *,
    seed: int,
    memory_bytes: int,
    progress: Progress = SILENT,
    fewest_masks: int = 8,
) -> list[Example]:
    """Bring images to the working grid and score their masks: the actions', with `groups` corrupted ones too.

    A swapped mask comes from an image of the same group, so that no fold learns from another fold's truths.
    When the masks would not all fit into `memory_bytes`, every image keeps the same random choice of them.
    """
    grids = [working_size(height, width, max_side) for height, width in labelled.sizes]
    largest = max((height * width for height, width in grids), default=1)
    room = max(fewest_masks, memory_bytes // (max(1, len(grids)) * largest))
    examples = []
    with progress.task("reward examples", len(labelled.images), "image") as task:
        for i, (image, truth) in enumerate(zip(labelled.images, labelled.truths, strict=True)):
            rng, others, n_masks = np.random.default_rng([seed, 2, i]), None, labelled.n_actions
            if groups is not None:
                others = _others(labelled, groups, i)
                n_masks += n_corruptions(others)
            kept = np.arange(n_masks)
            if n_masks > room:
                # The same rows of each image: what is compared between images must be the same actions.
                kept = np.sort(np.random.default_rng([seed, 3]).choice(n_masks, room, replace=False))
            grid = working_size(truth.shape[0], truth.shape[1], max_side)
            gathered = _Gathered(kept, truth, grid)
            for actions, masks_BHW in labelled.masks_of(i):
                gathered.add(actions, masks_BHW)
                task.advance(0)
            if others is not None:
                for c, mask_HW in enumerate(corruptions_of(truth, others, rng)):
                    gathered.add([labelled.n_actions + c], mask_HW[None])
                    task.advance(0)
            examples.append(
                Example(
                    channels_CHW=image_channels(image, max_side),
                    truth_HW=mask_coverage(truth[None], gathered.size)[0],
                    masks_MHW=gathered.masks_MHW,
                    dice_M=gathered.dice_M,
                    n_actions=int((kept < labelled.n_actions).sum()),
                )
            )
            task.advance()
    return examples


def _others(labelled: LabelledImages, groups: Sequence[int], i: int) -> Sequence[NDArray[np.bool_]]:
    """Return the truths of other patients' images in the group of image `i`."""
    of_group = [
        j
        for j, group in enumerate(groups)
        if group == groups[i] and labelled.patients[j] != labelled.patients[i]
    ]
    return OnDemand(len(of_group), lambda n: labelled.truths[of_group[n]])


class _Gathered:
    """Those masks of an image that are kept, on the working grid, with their true Dice."""

    def __init__(self, kept_M: NDArray[np.intp], truth_HW: NDArray[np.bool_], size: tuple[int, int]) -> None:
        self.masks_MHW = torch.empty((len(kept_M), *size), dtype=torch.uint8)
        self.dice_M = np.full(len(kept_M), np.nan)
        self.size = size
        self._truth_HW = truth_HW
        self._place_of = {int(number): place for place, number in enumerate(kept_M)}

    def add(self, numbers: Sequence[int], masks_BHW: NDArray[np.bool_]) -> None:
        """Take over those masks `[B, H, W]` of the given numbers that are kept."""
        wanted = [b for b, number in enumerate(numbers) if number in self._place_of]
        if not wanted:
            return
        masks_BHW = masks_BHW if len(wanted) == len(numbers) else masks_BHW[wanted]
        places = [self._place_of[numbers[b]] for b in wanted]
        self.masks_MHW[places] = torch.from_numpy(coverage_bytes(masks_BHW, self.size))
        self.dice_M[places] = terms.score(masks_BHW, self._truth_HW, ["dice"])["dice"]
