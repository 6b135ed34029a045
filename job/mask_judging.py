"""Judging masks without the truth: the segmenter works in one thread, judges of its images in others."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from job import device, workers
from job.actions import ActionSpace, iter_masks
from job.data.dataset import Dataset, Sample
from job.in_order import Begun, in_order
from job.progress import SharedTask, Task
from job.reward.terms import Judge, score
from job.segmenters.cache import SegmentationCache
from job.table_making import n_pixels, read_ahead
from job.workers import Workers

PIXELS_JUDGED = 4_000_000
"""Of images that are judged side by side: a judge makes floats of all their masks."""
BYTES_PER_JUDGED_PIXEL = 16
"""What decides how many masks a judge sees together; with it, a few bits of its scores."""


def judge_rows(
    dataset: Dataset,
    samples: Sequence[Sample],
    space: ActionSpace,
    cache: SegmentationCache,
    judge_of: Callable[[Sample], Judge],
    *,
    memory_bytes: int,
    threads: int,
    task: SharedTask,
) -> Generator[NDArray[np.float64], None, None]:
    """Score each sample's masks without the truth, by the judge that `judge_of` names for it: yields `[K]`.

    The segmenter is asked in the caller's thread; judges work in `threads` others, each on one core. `task`
    is looked at for a stop request; its steps are the caller's.
    """

    def judged(judges: Workers) -> Generator[Begun[NDArray[np.float64]], None, None]:
        with closing(read_ahead(dataset.load, samples, threads, n_pixels)) as read:
            for sample, loaded in zip(samples, read, strict=True):
                logits_PHW = cache.get([loaded.image])[0].logits_PHW
                future = judges.submit(
                    _judged, space, loaded.image, logits_PHW, judge_of(sample), memory_bytes
                )
                yield Begun(future, n_pixels(loaded))

    with (
        device.threads_of_one_core() as start,
        workers.threads(threads, task, start) as judges,
        closing(in_order(judged(judges), most=PIXELS_JUDGED, look=lambda: task.advance(0))) as found,
    ):
        yield from found


def _judged(
    space: ActionSpace,
    image: NDArray[np.uint8],
    logits_PHW: NDArray[np.float16],
    judge: Judge,
    memory_bytes: int,
    task: Task,
) -> NDArray[np.float64]:
    size = (image.shape[0], image.shape[1])
    fitting = max(1, memory_bytes // (size[0] * size[1] * BYTES_PER_JUDGED_PIXEL))
    # A judge reads the image once a call: few large blocks cost less than many small ones.
    at_once = fitting if fitting >= len(space) else min(fitting, len(space.postprocess))
    scores = []
    for _, masks_BHW in iter_masks(space, logits_PHW, size, at_once):
        task.advance(0)
        scores.append(score(masks_BHW, None, ["reward_net"], image_HWC=image, judge=judge)["reward_net"])
    return np.concatenate(scores)
