"""Synthetic images as a dataset folder: the same layout that users' data have."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.data.annotations import ANNOTATIONS
from job.data.fundus import Annotation, sample
from job.data.images import write_image, write_mask
from job.data.samples import SPLITS, UNLABELLED
from job.errors import InputError
from job.progress import Progress, track

INDICES_OF_A_SPLIT = 1_000_000
"""Each split draws from its own range of image indices: more test images never change a training image."""


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
) -> None:
    """Write `images/`, `masks/`, `fov/` and, last, `annotations.json`, whose `split` column names the sides.

    Every image is a patient of its own; unlabelled ones have no mask. Equal arguments give equal pixels.
    Raises `InputError` when `root` holds a data set already, ValueError for counts beyond a split's range.
    """
    counts = dict(zip(SPLITS, (train, validation, test, unlabelled), strict=True))
    if not all(0 <= count <= INDICES_OF_A_SPLIT for count in counts.values()):
        raise ValueError(f"a split holds 0 to {INDICES_OF_A_SPLIT:,} images, got {counts}")
    if (root / ANNOTATIONS).exists():
        raise InputError(
            f"{root}: holds a data set already", advice="name another folder, or remove this one"
        )
    images = track(progress, "making images", _indices(counts), sum(counts.values()), "images")
    entries = [_write(root, split, i, index, size, seed, annotation) for split, i, index in images]
    root.mkdir(parents=True, exist_ok=True)
    (root / ANNOTATIONS).write_text(json.dumps(entries, indent=1) + "\n")


def _indices(counts: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    for offset, (split, count) in enumerate(counts.items()):
        for i in range(count):
            yield split, i, offset * INDICES_OF_A_SPLIT + i


def _write(
    root: Path, split: str, i: int, index: int, size: int, seed: int, annotation: Annotation
) -> dict[str, Any]:
    made = sample(index, seed=seed, size=size, annotation=annotation)
    name = f"{split}_{i:05d}"
    image, mask, fov = (f"{folder}/{name}.png" for folder in ("images", "masks", "fov"))
    write_image(root / image, made.image_HWC)
    write_mask(root / fov, made.fov_HW)
    labelled = split != UNLABELLED
    if labelled:
        write_mask(root / mask, made.mask_HW)
    return {"image": image, "mask": mask if labelled else None, "fov": fov, "patient": name, "split": split}
