"""Whether the pictures fit into memory, told before hours of work: the kernel ends a job without a word."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from job.data.images import working_size
from job.errors import InputError
from job.memory import available_memory
from job.reward import gathering
from job.stages.pull import load_sizes
from job.stages.stage import StageContext
from job.table_bounds import BYTES_PER_LOADED_PIXEL, in_processes
from job.table_making import PIXELS_OF_A_BATCH
from job.workers import COPIES

BYTES_PER_PIXEL_OF_SEGMENTER = {("promptable_unet", "cpu"): 150}
"""Of the host's memory, by kind and device: 182 were measured at 36 million pixels."""
BYTES_PER_PIXEL = 16
"""Of the image at work: itself, its masks, and a logit map as float32 with its components' labels."""
BYTES_PER_HELD_PIXEL, GRID_PIXELS = 24, 256 * 256
"""The reward stage holds every training and validation image on the network's grid."""
_NARROWEST = 32
_TRIAL_WIDTH = 1024


LOGITS_OF_IMAGE_SIZE = ("promptable_unet", "precomputed")
"""Kinds whose logits have the size of the image; others have one of their own, which is small or unknown."""


@dataclass(frozen=True)
class Held:
    """What the table holds besides the image that it works on."""

    n_prompts: int
    batch_size: int
    """Images whose logits the segmenter hands over together."""
    copies: int
    """Of an image and its logits while it is scored: more than one in processes."""
    logits_of_image_size: bool
    bytes_of_segmenter: int


@dataclass(frozen=True)
class Need:
    """What pictures take at least: `largest` is (height, width) of the one that takes most."""

    n_bytes: int
    largest: tuple[int, int]


def require_memory(context: StageContext, free: int | None = None) -> None:
    """Raise `InputError` where the pictures surely do not fit, at the working width, into what is `free`.

    `free` is asked of the system when None. A need that is only just met may still be too much: libraries and
    other processes take their share too.
    """
    free = available_memory() if free is None else free
    sizes, space, segmenter = load_sizes(context), context.space, context.spec.segmenter
    of_segmenter = BYTES_PER_PIXEL_OF_SEGMENTER.get((segmenter.kind, context.machine.device), 0)

    def need_of(sizes: Sequence[tuple[str, int, int]]) -> Need:
        _, height, width = sizes[0]
        spread = in_processes(
            height * width, len(sizes), len(space), context.machine.threads,
            beside_a_device=context.machine.device != "cpu",
        )  # fmt: skip
        copies = COPIES if spread else 1
        of_size = segmenter.kind in LOGITS_OF_IMAGE_SIZE
        return memory_need(
            sizes, Held(len(space.prompts), segmenter.batch_size, copies, of_size, of_segmenter)
        )

    need = need_of(sizes)
    if free is None or need.n_bytes <= free:
        return
    height, width = need.largest
    # data.width makes all pictures equally wide, the small ones too; memory goes with its square.
    trial = need_of([(split, *working_size(h, w, _TRIAL_WIDTH)) for split, h, w in sizes])
    fitting = math.floor(_TRIAL_WIDTH * math.sqrt(0.8 * free / trial.n_bytes)) // _NARROWEST * _NARROWEST
    narrower = f"set data.width, to {fitting} or less" if fitting >= _NARROWEST else "set data.width"
    raise InputError(
        f"the pictures are too large for the memory that is free: the largest, {width} x {height} pixels at"
        f" the working width, and those held with it take {need.n_bytes / 2**30:.1f} GiB at least,"
        f" {free / 2**30:.1f} GiB are free",
        advice=f"{narrower}; or give the job more memory (of a Pod: resources.limits.memory)",
    )


def memory_need(sizes: Sequence[tuple[str, int, int]], held: Held) -> Need:
    """Return what pictures, given as (split, height, width), take at least in the stage that takes most."""
    _, height, width = max(sizes, key=lambda row: row[1] * row[2])
    pixels = height * width
    logits = 2 * held.n_prompts if held.logits_of_image_size else 0
    carried = BYTES_PER_LOADED_PIXEL + logits
    segmenting = (
        pixels * (BYTES_PER_PIXEL + logits + held.bytes_of_segmenter)
        + pixels * carried * (held.copies - 1)
        + _company(sizes, held.batch_size) * carried
    )
    learnt_from = [h * w for split, h, w in sizes if split in ("train", "validation")]
    on_grid = sum(min(one, GRID_PIXELS) for one in learnt_from) * BYTES_PER_HELD_PIXEL
    learning = on_grid + max(learnt_from, default=0) * (gathering.BYTES_PER_PIXEL + logits)
    return Need(max(segmenting, learning), (height, width))


def _company(sizes: Sequence[tuple[str, int, int]], batch_size: int) -> int:
    """Return the pixels that are segmented with the largest picture at least: the smallest ones."""
    *others, pixels = sorted(height * width for _, height, width in sizes)
    company = 0
    for one in others[: batch_size - 1]:
        if pixels + company >= PIXELS_OF_A_BATCH:
            break
        company += one
    return company
