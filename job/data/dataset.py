"""Dataset folders: reading, loading at one width, and digests. No decoder is imported before it is needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from job.data.annotations import list_folder
from job.data.names import printable
from job.data.samples import UNLABELLED, Finding, Polygons, Sample, content_digest
from job.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Dataset", "Loaded", "Polygons", "Sample", "content_digest", "listing_digest", "read_folder"]

_SHOWN = 5
_NAMED = 10


def read_folder(root: Path) -> list[Sample]:
    """List the samples of a dataset folder (`docs/data.md` has its layouts); decodes no picture.

    Raises `InputError` with all that is wrong: unreadable JSON, files that are missing or outside of the
    folder, images listed twice, unknown splits.
    """
    listing = list_folder(root)
    errors = [finding for finding in listing.findings if finding.severity == "error"]
    if errors:
        raise InputError(
            f"{printable(root)}: {_summary(errors).removeprefix(f'{printable(root)}: ')}",
            advice=f"`dataset check {printable(root)}` lists all that is wrong",
        )
    return listing.samples


def with_unlabelled(samples: Sequence[Sample], more: Sequence[Sample]) -> list[Sample]:
    """Add the images of a second folder as unlabelled ones: without their masks, under names still unique."""
    taken = {sample.name.lower() for sample in samples}
    added = []
    for sample in more:
        name = sample.name
        while name.lower() in taken:
            name = f"{UNLABELLED}-{name}"
        taken.add(name.lower())
        added.append(replace(sample, name=name, split=UNLABELLED, mask=None))
    return [*samples, *added]


@dataclass(frozen=True)
class Loaded:
    """A sample's pixels: `image` uint8 `[H, W, 3]`; `truth` and `fov` bool `[H, W]` or None."""

    image: NDArray[np.uint8]
    truth: NDArray[np.bool_] | None
    fov: NDArray[np.bool_] | None

    @cached_property
    def digest(self) -> str:
        """The image's `pixel_digest`."""
        from job.data.images import pixel_digest

        return pixel_digest(self.image)


@dataclass(frozen=True)
class Dataset:
    """Samples, decoded on demand and resized to one `width` (None keeps each image's own)."""

    samples: Sequence[Sample]
    width: int | None = None

    def load(self, sample: Sample) -> Loaded:
        """Decode and resize a sample; raises `InputError` for files that are unreadable or differ in size."""
        from job.data.images import read_image, resize_image, resize_mask

        image = read_image(sample.image)
        truth, fov = (_mask_of(sample.image, mask, image.shape) for mask in (sample.mask, sample.fov))
        return Loaded(
            resize_image(image, self.width),
            None if truth is None else resize_mask(truth, self.width),
            None if fov is None else resize_mask(fov, self.width),
        )

    def of(self, *splits: str) -> list[Sample]:
        """Return the samples of the named splits, in order."""
        return [sample for sample in self.samples if sample.split in splits]

    def digest(self, *splits: str) -> str:
        """Return a sha256 over the content of the named splits (all, when none is named) and the width.

        The order of the samples does not count. Reads every file.
        """
        samples: Iterable[Sample] = self.of(*splits) if splits else self.samples
        content = sorted((sample.split or "", content_digest(sample)) for sample in samples)
        return hashlib.sha256(json.dumps([self.width, content]).encode()).hexdigest()


def require_size(mask: Path, shape: tuple[int, ...], image: Path, size: tuple[int, int]) -> None:
    """Raise `InputError` for a mask `shape` [H, W] that is not that of its upright image."""
    if shape != size:
        raise InputError(
            f"{printable(mask)}: has {shape[1]} x {shape[0]} pixels,"
            f" {printable(image.name)} has {size[1]} x {size[0]}",
            advice="give the mask the size of its image, as it looks upright",
        )


def require_readable(root: Path) -> None:
    """Raise `InputError`, naming up to ten, when this user may not read all files and folders below `root`.

    Like a store's refusal, that is no bad image to be skipped: nobody knows what is in there.
    """
    denied: list[Path] = []

    def note(error: OSError) -> None:
        denied.append(Path(error.filename))

    for at, _, names in os.walk(root, onerror=note):
        files = [path for name in names if not name.startswith(".") and (path := Path(at, name)).is_file()]
        denied += [path for path in files if not os.access(path, os.R_OK, effective_ids=True)]
    if denied:
        lines = [printable(path) for path in sorted(denied)[:_NAMED]]
        if len(denied) > _NAMED:
            lines.append(f"and {len(denied) - _NAMED} more")
        of = "file or folder" if len(denied) == 1 else "files or folders"
        raise InputError(
            f"{printable(root)}: {len(denied)} {of} may not be read:\n  " + "\n  ".join(lines),
            advice=f"grant user {os.getuid()} permission to read them (chmod -R a+rX)",
        )


def listing_digest(root: Path) -> str:
    """Return a sha256 over relative path, size and modification time of every file below `root`.

    Reads no file; hidden files do not count. Raises `InputError` when there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder")
    rows = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                path = Path(folder, name)
                stat = path.stat() if path.exists() else path.lstat()  # a link may lead nowhere
                rows.append([path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def _mask_of(image: Path, mask: Path | Polygons | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    from job.data.images import read_mask
    from job.data.polygons import rasterise

    if mask is None:
        return None
    height, width = shape[:2]
    if isinstance(mask, Polygons):
        return rasterise(mask, height, width)
    pixels = read_mask(mask)
    require_size(mask, pixels.shape, image, (height, width))
    return pixels


def _summary(errors: Sequence[Finding]) -> str:
    lines = [f"{e.where}: {e.what}" + (f"; {e.advice}" if e.advice else "") for e in errors[:_SHOWN]]
    if len(errors) > _SHOWN:
        lines.append(f"and {len(errors) - _SHOWN} more")
    return lines[0] if len(lines) == 1 else "\n  ".join([f"{len(errors)} mistakes", *lines])
