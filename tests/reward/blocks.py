"""Masks of labelled images, which come in blocks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from job.reward.examples import LabelledImages


def all_masks(images: LabelledImages, i: int) -> np.ndarray:
    """Return the masks `[K, H, W]` of all actions of an image."""
    masks = dict[int, np.ndarray]()
    for actions, masks_BHW in images.masks_of(i, images.images[i]):
        masks |= zip(actions, masks_BHW, strict=True)
    return np.stack([masks[k] for k in range(images.n_actions)])


def with_masks(images: LabelledImages, change: Callable[[int, np.ndarray], np.ndarray]) -> LabelledImages:
    """Return images with `change(i, masks_BHW)` for the masks."""
    return replace(
        images,
        masks_of=lambda i, image: (
            (actions, change(i, masks)) for actions, masks in images.masks_of(i, image)
        ),
    )
