"""Judging masks without the truth: the segmenter works in one thread, judges of its images in others."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from job import workers
from job.actions import ActionSpace, blocks_of, iter_masks
from job.data.dataset import Dataset, Loaded, Sample
from job.device import threads_of_one_core
from job.in_order import Begun, in_order
from job.progress import SharedTask, Task
from job.reward.terms import Judge, score
from job.scoring import unpacked
from job.segmenters.cache import SegmentationCache
from job.table_making import n_pixels, read_ahead
from job.workers import Workers

PIXELS_JUDGED = 4_000_000
"""Of images that are judged side by side: a judge makes floats of all their masks."""
IMAGES_TOGETHER = 16
"""Of which an accelerator makes the masks in one go, where the memory for masks holds their bits; twice that
is held, while the next are made."""
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
    device: str = "cpu",
) -> Generator[NDArray[np.float64], None, None]:
    """Score each sample's masks without the truth, by the judge that `judge_of` names for it: yields `[K]`.

    Masks are made on `device`, where that is an accelerator whose memory holds them: they are the same.
    The segmenter is asked in the caller's thread; judges work in `threads` others, each on one core. `task`
    is looked at for a stop request; its steps are the caller's.
    """

    def judged(judges: Workers) -> Generator[Begun[NDArray[np.float64]], None, None]:
        most_bytes = 0 if device == "cpu" else memory_bytes
        with closing(read_ahead(dataset.load, samples, threads, n_pixels)) as read:
            for few in _together(zip(samples, read, strict=True), len(space), most_bytes):
                logits = [cache.get([loaded.image])[0].logits_PHW for _, loaded in few]
                masks = _masks(space, [loaded for _, loaded in few], logits, memory_bytes, device, task)
                for (sample, loaded), logits_PHW, packed_KX in zip(few, logits, masks, strict=True):
                    future = judges.submit(
                        _judged, space, loaded.image, logits_PHW, packed_KX, judge_of(sample), memory_bytes
                    )
                    yield Begun(future, n_pixels(loaded))

    with (
        threads_of_one_core() as start,
        workers.threads(threads, task, start) as judges,
        closing(in_order(judged(judges), most=PIXELS_JUDGED, look=lambda: task.advance(0))) as found,
    ):
        yield from found


def _together(
    images: Iterable[tuple[Sample, Loaded]], n_masks: int, most_bytes: int
) -> Iterator[list[tuple[Sample, Loaded]]]:
    """Yield images whose masks, as bits, take `most_bytes` together, or more than that alone."""
    some: list[tuple[Sample, Loaded]] = []
    n_bytes = 0
    for one in images:
        own = n_masks * n_pixels(one[1]) // 8
        if some and (n_bytes + own > most_bytes or len(some) == IMAGES_TOGETHER):
            yield some
            some, n_bytes = [], 0
        some.append(one)
        n_bytes += own
    if some:
        yield some


def _masks(
    space: ActionSpace,
    images: Sequence[Loaded],
    logits: Sequence[NDArray[np.float16]],
    memory_bytes: int,
    device: str,
    task: Task,
) -> Iterator[NDArray[np.uint8] | None]:
    """Yield each image's masks as packed bits `[K, X]`, made on an accelerator; None: left to judges."""
    packed_bytes = len(space) * sum(n_pixels(loaded) for loaded in images) // 8
    if device == "cpu" or packed_bytes > memory_bytes:
        yield from [None] * len(images)
        return
    from job import masks_on_device

    asked = [
        masks_on_device.Asked(one, (loaded.image.shape[0], loaded.image.shape[1]), None, whole=True)
        for loaded, one in zip(images, logits, strict=True)
    ]
    for some in masks_on_device.groups(asked, space, device):
        for measured in masks_on_device.measure_those_that_fit(some, space, device, task):
            yield measured.masks_KX if measured else None


def _judged(
    space: ActionSpace,
    image: NDArray[np.uint8],
    logits_PHW: NDArray[np.float16],
    packed_KX: NDArray[np.uint8] | None,
    judge: Judge,
    memory_bytes: int,
    task: Task,
) -> NDArray[np.float64]:
    size = (image.shape[0], image.shape[1])
    fitting = max(1, memory_bytes // (size[0] * size[1] * BYTES_PER_JUDGED_PIXEL))
    # A judge reads the image once a call: few large blocks cost less than many small ones.
    at_once = fitting if fitting >= len(space) else min(fitting, len(space.postprocess))
    if packed_KX is None:
        blocks = iter_masks(space, logits_PHW, size, at_once)
    else:
        blocks = unpacked(packed_KX, size, blocks_of(space, at_once))
    scores = []
    for _, masks_BHW in blocks:
        task.advance(0)
        scores.append(score(masks_BHW, None, ["reward_net"], image_HWC=image, judge=judge)["reward_net"])
    return np.concatenate(scores)
