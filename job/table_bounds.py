"""What the making of a table may hold in memory, and when its work is worth processes."""

from job import workers

BYTES_SCORED = 2**30
"""Of images that are being scored, or wait for it, with their logits: what takes more than half is alone."""
BYTES_PER_LOADED_PIXEL, BYTES_PER_SCORED_PIXEL = 5, 40
"""An image with its masks; and what else scoring needs of it, beside the masks that it makes."""
SHARE_OF_FREE_MEMORY = 3
"""Processes may hold the third part of it in images that are on their way."""
WORTH_PROCESSES = 10**9
"""Pixels of masks whose scoring takes one core 5 to 10 s: so much work is worth the start of processes."""
WORTH_PROCESSES_BESIDE_A_DEVICE = 200_000_000
"""The same where an accelerator makes the masks: it waits for every thread that holds Python's lock."""


def held_bytes(pixels: int, logits: int, copies: int) -> int:
    """Return what an image takes, of so many pixels and bytes of logits, until its row is there."""
    return (pixels * BYTES_PER_LOADED_PIXEL + logits) * copies + pixels * BYTES_PER_SCORED_PIXEL


def bytes_scored(copies: int, free: int | None) -> int:
    """Return how many bytes of images may be on their way to a row at once.

    More where processes score, which hold copies, but no more than a share of the memory that is free.
    """
    most = BYTES_SCORED * copies
    return most if copies == 1 or free is None else max(1, min(most, free // SHARE_OF_FREE_MEMORY))


def in_processes(
    first_pixels: int, n_images: int, n_actions: int, threads: int, *, beside_a_device: bool = False
) -> bool:
    """Return whether so many images, of which the first has so many pixels, are scored in processes."""
    worth = WORTH_PROCESSES_BESIDE_A_DEVICE if beside_a_device else WORTH_PROCESSES
    return may_have_processes(threads, beside_a_device) and first_pixels * n_images * n_actions >= worth


def may_have_processes(threads: int, beside_a_device: bool) -> bool:
    """Return whether there are cores enough: more than threads can use, or one beside the device's own."""
    return threads > (1 if beside_a_device else workers.MOST_THREADS)
