"""What the reward network learns from: images and masks on its working grid, with their true Dice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.progress import SILENT, Progress
from job.reward import terms
from job.reward.corruptions import corrupted
from job.reward.inputs import image_channels, mask_coverage, working_size
from job.storage.digests import tensors_digest


@dataclass(frozen=True)
class LabelledImages:
    """Images `[H, W, 3]`, their truths `[H, W]`, their patients, the masks `[K, H, W]` of their actions."""

    images: Sequence[NDArray[np.uint8]]
    truths: Sequence[NDArray[np.bool_]]
    patients: Sequence[str]
    masks_of: Callable[[int], NDArray[np.bool_]]


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
    sizes = [working_size(image.shape[0], image.shape[1], max_side) for image in labelled.images]
    room = max(fewest_masks, memory_bytes // (len(sizes) * max(height * width for height, width in sizes)))
    examples = []
    with progress.task("reward examples", len(labelled.images), "image") as task:
        for i, (image, truth) in enumerate(zip(labelled.images, labelled.truths, strict=True)):
            rng = np.random.default_rng([seed, 2, i])
            masks = labelled.masks_of(i)
            n_actions = len(masks)
            if groups is not None:
                others = [
                    labelled.truths[j]
                    for j, group in enumerate(groups)
                    if group == groups[i] and labelled.patients[j] != labelled.patients[i]
                ]
                masks = np.concatenate([masks, corrupted(truth, others, rng)])
            if len(masks) > room:
                # The same rows of each image: what is compared between images must be the same actions.
                kept = np.sort(np.random.default_rng([seed, 3]).choice(len(masks), room, replace=False))
                masks, n_actions = masks[kept], int((kept < n_actions).sum())
            examples.append(
                Example(
                    channels_CHW=image_channels(image, max_side),
                    truth_HW=mask_coverage(truth[None], sizes[i])[0],
                    masks_MHW=(mask_coverage(masks, sizes[i]) * 255).round().to(torch.uint8),
                    dice_M=terms.score(masks, truth, ["dice"])["dice"],
                    n_actions=n_actions,
                )
            )
            task.advance()
    return examples
