"""Every picture of a data set looked at once, before anything slow: what is of no use, what may surprise."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from job.data.dataset import require_size
from job.data.images import grey_share, is_foreground, read_image, read_levels, stored_pixels
from job.data.leaks import fingerprint
from job.data.names import printable
from job.data.polygons import rasterise
from job.data.samples import Polygons, Sample
from job.errors import InputError
from job.in_order import each
from job.progress import SILENT_TASK, Task
from job.workers import MOST_THREADS

GREY = 0.01
"""A mask with a larger share of grey pixels was smoothed, or saved as JPEG."""
SHOWN = 10
BYTES_PER_PIXEL = 30
"""Of a picture that is looked at."""
WORTH_PROCESSES = 10**8
"""Pixels whose looking at takes one core 5 to 10 s."""


@dataclass(frozen=True)
class Look:
    """What was seen of a sample whose files are all of use.

    `size` is the image's [H, W] as it is stored, upright; `is_empty`, `is_grey` and `covers_most` (of the
    image) tell of its mask.
    """

    sample: Sample
    size: tuple[int, int]
    fingerprint_D: NDArray[np.float32]
    is_empty: bool
    is_grey: bool
    covers_most: bool


@dataclass(frozen=True)
class BadImage:
    """A sample that cannot be used: `file`, below the folder of `dataset`, is what is wrong with it."""

    dataset: str
    """The spec's field that names the folder."""
    name: str
    """The sample's name."""
    file: str
    what: str
    advice: str = ""


def look(sample: Sample) -> Look:
    """Decode the image of a sample, its mask and its field of view; raises `InputError` for one of no use."""
    image = read_image(sample.image)
    size = (image.shape[0], image.shape[1])
    if sample.fov is not None:
        require_size(sample.fov, read_levels(sample.fov).shape, sample.image, size)
    share, is_grey = 0.0, False
    if isinstance(sample.mask, Polygons):
        share = float(rasterise(sample.mask, *size).mean())
    elif sample.mask is not None:
        levels = read_levels(sample.mask)
        require_size(sample.mask, levels.shape, sample.image, size)
        share, is_grey = float(is_foreground(levels).mean()), grey_share(levels) > GREY
    return Look(sample, size, fingerprint(image), share == 0, is_grey, share > 0.5)


def look_at(dataset: str, root: Path, sample: Sample, task: Task = SILENT_TASK) -> Look | BadImage:
    """Return what was seen of a sample of the folder `root`, or what is wrong with it."""
    task.advance(0)
    try:
        return look(sample)
    except InputError as error:
        file, what = _blamed(error, sample)
        return BadImage(dataset, sample.name, _below(root, file), what, error.advice)


def look_at_each(
    items: Sequence[tuple[str, Path, Sample]], *, threads: int, task: Task
) -> Iterator[Look | BadImage]:
    """Yield `look_at` of each item in order, on so many cores; `task` advances."""

    def n_bytes(dataset: str, root: Path, sample: Sample) -> int:
        return _pixels(sample) * BYTES_PER_PIXEL

    is_large = threads > MOST_THREADS and bool(items) and _pixels(items[0][2]) * len(items) >= WORTH_PROCESSES
    seen = each(look_at, items, n_bytes=n_bytes, threads=threads, is_large=is_large, task=task)
    with closing(seen):
        yield from seen


def refuse_bad(
    bad: Sequence[BadImage], n_images: int, root: Path, *, on_bad: Literal["fail", "skip"], max_share: float
) -> None:
    """Raise `InputError`, which names up to ten of them, unless bad images of one data set may be skipped."""
    if not bad or (on_bad == "skip" and len(bad) <= max_share * n_images):
        return
    first = bad[0]
    where = printable(root)
    if on_bad == "fail" and len(bad) == 1:
        raise InputError(
            f"{where}/{first.file}: {first.what}",
            advice=f"{first.advice}; or let data.on_bad_image skip it".removeprefix("; "),
        )
    bound = "" if on_bad == "fail" else f", more than data.max_bad_share {max_share:g} allows"
    lines = [f"{where}/{one.file}: {one.what}" for one in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"and {len(bad) - SHOWN} more")
    skipping = "set data.on_bad_image to skip" if on_bad == "fail" else "raise data.max_bad_share"
    raise InputError(
        f"{first.dataset}: {len(bad)} of {n_images} images cannot be used{bound}:\n  " + "\n  ".join(lines),
        advice=f"mend them or take them out (`dataset check {where}` lists all), or {skipping}",
    )


def refuse_empty(looks: Sequence[Look], where: str) -> None:
    """Raise `InputError` where there are masks, and all of them are empty."""
    labelled = [one for one in looks if one.sample.mask is not None]
    if labelled and all(one.is_empty for one in labelled):
        raise InputError(
            f"the masks of all {len(labelled)} {where} images are empty: nothing to learn from or judge by",
            advice="check the masks' grey levels and the annotations: `dataset check` says more",
        )


def oddities(looks: Sequence[Look]) -> Iterator[str]:
    """Yield, in counts alone, what is allowed but may not be meant."""
    labelled = [one for one in looks if one.sample.mask is not None]
    grey = sum(one.is_grey for one in labelled)
    if grey:
        yield (
            f"{grey} of {len(labelled)} masks have grey levels: what exceeds half of the highest counts;"
            " `dataset check` names them"
        )
    inverted = sum(one.covers_most for one in labelled)
    if inverted:
        yield (
            f"{inverted} of {len(labelled)} masks cover more than half of their image: are they inverted?"
            " the structure must be bright; `dataset check` names them"
        )
    empty = Counter(one.sample.split or "" for one in labelled if one.is_empty)
    if empty:
        sides = ", ".join(f"{n} {side}" for side, n in sorted(empty.items()))
        yield f"{empty.total()} of {len(labelled)} masks are empty ({sides}): no structure is the truth there"


def _blamed(error: InputError, sample: Sample) -> tuple[Path, str]:
    """Return which file of a sample an error is about, and what it says of it."""
    for path in (sample.image, sample.mask, sample.fov):
        if isinstance(path, Path) and str(error).startswith(f"{printable(path)}: "):
            return path, str(error).removeprefix(f"{printable(path)}: ")
    return sample.image, str(error)


def _pixels(sample: Sample) -> int:
    """Return the pixels of the largest picture of a sample, before any is decoded."""
    files = [path for path in (sample.image, sample.mask, sample.fov) if isinstance(path, Path)]
    return max(map(stored_pixels, files))


def _below(root: Path, file: Path) -> str:
    return printable(file.relative_to(root.resolve()).as_posix())
