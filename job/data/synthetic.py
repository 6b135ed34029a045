"""Synthetic images as a dataset folder: the same layout that users' data have."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from job.data.annotations import ANNOTATIONS
from job.data.fundus import Annotation, sample
from job.data.images import write_image, write_mask
from job.data.names import printable
from job.data.samples import SPLITS, UNLABELLED
from job.errors import InputError
from job.in_order import each
from job.progress import Progress, Task

INDICES_OF_A_SPLIT = 1_000_000
"""Each split draws from its own range of image indices: more test images never change a training image."""
SIZES = range(64, 1024 + 1, 16)
"""What `data.synthetic.size` may be."""
BYTES_PER_PIXEL = 140
"""Of a photograph while it is drawn."""
WORTH_PROCESSES = 10**7
"""Pixels that take one core 5 to 10 s."""
UNFINISHED = ".unfinished"
"""A file of this name lies in a folder that is being made, or whose making was interrupted."""


def make_dataset(
    root: Path,
    *,
    train: int,
    validation: int,
    test: int,
    unlabelled: int,
    size: int,
    seed: int,
    annotation: Annotation,
    progress: Progress,
    threads: int = 1,
) -> None:
    """Write `images/`, `masks/`, `fov/` and, last, `annotations.json`, whose `split` column names the sides.

    Every image is a patient of its own; unlabelled ones have no mask. Equal arguments give equal pixels, on
    any number of `threads`.
    A marker file tells what an interruption left from what somebody else put there: the one is completed,
    the other left alone. Raises `InputError` when `root` holds anything else, for a size that the spec would
    refuse, for no image at all, and for more images than a split has.
    """
    counts = dict(zip(SPLITS, (train, validation, test, unlabelled), strict=True))
    _refuse_counts(counts)
    if size not in SIZES:
        raise InputError(
            f"images of {size} x {size} pixels cannot be made",
            advice=f"name a multiple of {SIZES.step} from {SIZES[0]} to {SIZES[-1]}, as 128",
        )
    _refuse_used(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / UNFINISHED).touch()
    n_images = sum(counts.values())
    items = ((root, *image, size, seed, annotation) for image in _indices(counts))
    with progress.task("making images", n_images, "images") as task:
        written = each(
            _write,
            items,
            n_bytes=lambda *_: size * size * BYTES_PER_PIXEL,
            threads=threads,
            is_large=n_images * size * size >= WORTH_PROCESSES,
            task=task,
        )
        with closing(written):
            entries = list(written)
    (root / ANNOTATIONS).write_text(json.dumps(entries, indent=1) + "\n")
    (root / UNFINISHED).unlink()


def _refuse_counts(counts: dict[str, int]) -> None:
    if not all(0 <= count <= INDICES_OF_A_SPLIT for count in counts.values()):
        raise InputError(
            f"cannot make {', '.join(f'{count:,} {split}' for split, count in counts.items())} images",
            advice=f"name 0 to {INDICES_OF_A_SPLIT:,} images for each split",
        )
    if not any(counts.values()):
        raise InputError(
            "a data set of no image cannot be made", advice="name a positive number for one split at least"
        )


def _refuse_used(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise InputError(f"{printable(root)}: is not a folder", advice="name a new folder")
    if root.exists() and any(root.iterdir()) and not (root / UNFINISHED).is_file():
        what = "holds a data set already" if (root / ANNOTATIONS).exists() else "is not empty"
        raise InputError(f"{printable(root)}: {what}", advice="name a new folder, or an empty one")


def _indices(counts: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    for offset, (split, count) in enumerate(counts.items()):
        for i in range(count):
            yield split, i, offset * INDICES_OF_A_SPLIT + i


def _write(
    root: Path, split: str, i: int, index: int, size: int, seed: int, annotation: Annotation, task: Task
) -> dict[str, Any]:
    task.advance(0)
    made = sample(index, seed=seed, size=size, annotation=annotation)
    name = f"{split}_{i:05d}"
    image, mask, fov = (f"{folder}/{name}.png" for folder in ("images", "masks", "fov"))
    write_image(root / image, made.image_HWC)
    write_mask(root / fov, made.fov_HW)
    labelled = split != UNLABELLED
    if labelled:
        write_mask(root / mask, made.mask_HW)
    return {"image": image, "mask": mask if labelled else None, "fov": fov, "patient": name, "split": split}
