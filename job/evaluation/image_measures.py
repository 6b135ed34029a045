"""One image's masks, measured: what processes do for `stages/measuring.py`, so nothing here needs torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from job.actions import ActionSpace, Logits, apply
from job.data.dataset import Dataset, Loaded, Sample
from job.data.features import estimate_field
from job.data.images import pixel_digest
from job.evaluation.conventions import NATIVE, SCORING, Counts, Key, count_image
from job.progress import Task
from job.reward.terms import METRICS, measure
from job.storage.local import sha256_json


@dataclass(frozen=True)
class Map:
    """What one mask is made of: logits `[h, w]`, and the post-processing by its number."""

    logits_HW: NDArray[np.float16]
    postprocess: int

    @classmethod
    def of(cls, logits_PHW: Logits, action: int, space: ActionSpace) -> "Map":
        """Return what an action of the space needs of an image's logits."""
        prompt, postprocess = divmod(action, len(space.postprocess))
        return cls(logits_PHW[prompt], postprocess)


def plain_of(space: ActionSpace) -> ActionSpace:
    """Return the space whose actions are the post-processing of one map."""
    return replace(space, prompts=space.prompts[:1])


@dataclass(frozen=True)
class MeasuredImage:
    """Metrics by rung, counts by convention, the pixels' digest, masks of the rungs that are shown."""

    metrics: dict[str, dict[str, float]]
    counts: dict[Key, Counts]
    pixels: str
    shown: dict[str, NDArray[np.bool_]]


def measure_image(
    plain: ActionSpace,
    sample: Sample,
    loaded: Loaded,
    native: Dataset | None,
    maps: Sequence[Map],
    row_of: Mapping[str, int],
    shown_rungs: Sequence[str],
    task: Task,
) -> MeasuredImage:
    """Make the masks of `maps` with `plain_of` the space, and measure them; `row_of[rung]` numbers its map.

    With `native` masks are compared with the truth at its own resolution too.
    """
    assert loaded.truth is not None
    size = (loaded.image.shape[0], loaded.image.shape[1])
    masks_BHW = np.stack([apply(plain, one.postprocess, one.logits_HW[None], size) for one in maps])
    task.advance(0)
    values = measure(masks_BHW, loaded.truth)
    task.advance(0)
    shown = {name: masks_BHW[row_of[name]].copy() for name in shown_rungs}
    counts = _counted(loaded, shown, SCORING)
    if native is not None:
        counts |= _counted(native.load(sample), shown, NATIVE)
    return MeasuredImage(
        metrics={
            name: {metric: float(values[metric][row]) for metric in METRICS} for name, row in row_of.items()
        },
        counts=counts,
        pixels=sha256_json([pixel_digest(loaded.image), pixel_digest(loaded.truth)]),
        shown=shown,
    )


def _counted(loaded: Loaded, masks: Mapping[str, NDArray[np.bool_]], resolution: str) -> dict[Key, Counts]:
    assert loaded.truth is not None
    inside_HW = loaded.fov if loaded.fov is not None else estimate_field(loaded.image)
    return count_image(masks, loaded.truth, inside_HW, resolution)
