"""What the reward network learns from: images and masks on its working grid, with their true Dice."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job import workers
from job.in_order import Begun, bytes_at_once, in_order
from job.progress import SILENT, Progress, SharedTask, Task
from job.reward.corruptions import CORRUPTIONS, n_corruptions, swap
from job.reward.gathering import BYTES_PER_PIXEL, Blocks, Gathered, Spoiling, gather
from job.reward.inputs import image_channels, mask_coverage, working_size
from job.storage.digests import tensors_digest
from job.table_bounds import in_processes

BYTES_PER_READ_PIXEL = 30
"""Of an image that is read, or on its way to and from a process, with its logits."""


@dataclass(frozen=True)
class LabelledImages:
    """Images `[H, W, 3]`, their truths `[H, W]`, their patients, their actions' masks.

    Images and truths may be made when they are asked for, in several threads: nothing is as large as a data
    set. `masks_of(i, image)` is asked in the caller's thread; what it gives is iterated over once, elsewhere,
    until all `n_actions` were there, and has to be what pickle takes where the work is worth processes.
    """

    images: Sequence[NDArray[np.uint8]]
    truths: Sequence[NDArray[np.bool_]]
    patients: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    """(height, width) of every image, in any order."""
    n_actions: int
    masks_of: Callable[[int, NDArray[np.uint8]], Blocks]


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
    threads: int = 1,
    progress: Progress = SILENT,
    fewest_masks: int = 8,
) -> list[Example]:
    """Bring images to the working grid and score their masks: the actions', with `groups` corrupted ones too.

    A swapped mask comes from an image of the same group, so that no fold learns from another fold's truths.
    When the masks would not all fit into `memory_bytes`, every image keeps the same random choice of them.
    On any number of `threads` the examples are the same to the bit.
    """
    making = _Making(labelled, max_side, groups, seed, _room(labelled, max_side, memory_bytes, fewest_masks))
    examples = []
    with progress.task("reward examples", len(labelled.images), "image") as task:
        shared = SharedTask(task)
        with closing(making.examples(threads, shared)) as made:
            for example in made:
                examples.append(example)
                shared.advance()
    return examples


def _room(labelled: LabelledImages, max_side: int, memory_bytes: int, fewest_masks: int) -> int:
    """Return how many masks of each image there is memory for."""
    grids = [working_size(height, width, max_side) for height, width in labelled.sizes]
    largest = max((height * width for height, width in grids), default=1)
    return max(fewest_masks, memory_bytes // (max(1, len(grids)) * largest))


@dataclass(frozen=True)
class _Read:
    """An image and its truth, and what of both is part of the example."""

    image_HWC: NDArray[np.uint8]
    truth_HW: NDArray[np.bool_]
    channels_CHW: Tensor
    coverage_HW: Tensor


@dataclass(frozen=True)
class _Making:
    """Reads images ahead of their masks, which all cores make, and completes examples behind them."""

    labelled: LabelledImages
    max_side: int
    groups: Sequence[int] | None
    seed: int
    room: int

    def examples(self, threads: int, task: SharedTask) -> Generator[Example, None, None]:
        """Yield the examples in the images' order."""
        n_images, n_masks = len(self.labelled.images), self.labelled.n_actions + len(CORRUPTIONS)
        largest = max((height * width for height, width in self.labelled.sizes), default=1)
        is_large = in_processes(largest, n_images, n_masks, threads)
        reading = largest * BYTES_PER_READ_PIXEL
        most = bytes_at_once() // 4

        def read() -> Generator[Begun[_Read], None, None]:
            for i in range(n_images):
                yield Begun(helpers.submit(self._read, i), max(reading, most // (2 * helpers.n)))

        def gathered() -> Generator[Begun[Gathered], None, None]:
            least = 2 * most // (2 * makers.n + 2)
            with closing(in_order(read(), most=most, look=look)) as found:
                for i, one in enumerate(found):
                    reads.append(one)
                    held = one.truth_HW.size * (BYTES_PER_PIXEL + BYTES_PER_READ_PIXEL * makers.copies)
                    held += min(self.room, n_masks) * one.coverage_HW.numel() * makers.copies
                    yield Begun(makers.submit(gather, *self._to_gather(i, one)), max(held, least))

        def completed() -> Generator[Begun[Example], None, None]:
            with closing(in_order(gathered(), most=2 * most, look=look)) as found:
                for i, one in enumerate(found):
                    complete = helpers.submit(self._complete, i, reads.popleft(), one)
                    yield Begun(complete, max(reading, most // (2 * helpers.n)))

        def look() -> None:
            task.advance(0)

        reads = deque[_Read]()
        with (
            workers.threads(threads, task) as helpers,
            workers.many(threads, task, is_large=is_large) as makers,
            closing(in_order(completed(), most=most, look=look)) as found,
        ):
            yield from found

    def _read(self, i: int, task: Task) -> _Read:
        task.advance(0)
        image, truth = self.labelled.images[i], self.labelled.truths[i]
        channels = image_channels(image, self.max_side)
        size = working_size(truth.shape[0], truth.shape[1], self.max_side)
        return _Read(image, truth, channels, mask_coverage(truth[None], size)[0])

    def _to_gather(
        self, i: int, one: _Read
    ) -> tuple[Blocks, NDArray[np.bool_], NDArray[np.intp], tuple[int, ...], Spoiling | None]:
        n_masks, spoiling = self.labelled.n_actions, None
        if self.groups is not None:
            n_others = len(self._others(i))
            spoiling = Spoiling(n_masks, n_others, (self.seed, 2, i))
            n_masks += n_corruptions(n_others)
        kept = np.arange(n_masks)
        if n_masks > self.room:
            # The same rows of each image: what is compared between images must be the same actions.
            rng = np.random.default_rng([self.seed, 3])
            kept = np.sort(rng.choice(n_masks, self.room, replace=False))
        blocks = self.labelled.masks_of(i, one.image_HWC)
        return blocks, one.truth_HW, kept, tuple(one.coverage_HW.shape), spoiling

    def _complete(self, i: int, one: _Read, gathered: Gathered, task: Task) -> Example:
        task.advance(0)
        if gathered.swapped is not None:
            number, other = gathered.swapped
            truth_HW = self.labelled.truths[self._others(i)[other]]
            gathered.add(one.truth_HW, [number], swap(one.truth_HW, truth_HW)[None])
        return Example(
            channels_CHW=one.channels_CHW,
            truth_HW=one.coverage_HW,
            masks_MHW=torch.from_numpy(gathered.masks_MHW),
            dice_M=gathered.dice_M,
            n_actions=int((gathered.kept_M < self.labelled.n_actions).sum()),
        )

    def _others(self, i: int) -> list[int]:
        """Return the images of other patients in the group of image `i`."""
        groups, patients = self.groups or (), self.labelled.patients
        return [j for j, of in enumerate(groups) if of == groups[i] and patients[j] != patients[i]]
