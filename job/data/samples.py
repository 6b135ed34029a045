"""What a data set is made of: samples with their files, and findings about what is wrong with them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]

SIDES = ("train", "validation", "test")
UNLABELLED = "unlabelled"
SPLITS = (*SIDES, UNLABELLED)


@dataclass(frozen=True)
class Polygons:
    """A mask given as outlines: `rings[i]` is `(x1, y1, x2, y2, ...)` in pixels of the upright image.

    The mask is the union of all rings, whatever text each belongs to. `texts` are the descriptions that came
    with them.
    """

    rings: tuple[tuple[float, ...], ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One image of a data set; `name` is unique in the data set and safe as a file name.

    `split` is what the data set says (None where it says nothing); `mask` is None for an unlabelled image.
    """

    name: str
    patient: str
    split: str | None
    image: Path
    mask: Path | Polygons | None = None
    fov: Path | None = None


@dataclass(frozen=True)
class Finding:
    """Something wrong (`error`) or suspicious (`warning`) with a data set, and what to do about it."""

    severity: Severity
    where: str
    what: str
    advice: str = ""


def content_digest(sample: Sample) -> str:
    """Return a sha256 over the bytes of a sample's files, its name and its patient; reads the files."""
    mask = sample.mask
    content = {
        "name": sample.name,
        "patient": sample.patient,
        "image": _file_digest(sample.image),
        "mask": mask.rings if isinstance(mask, Polygons) else _file_digest(mask),
        "fov": _file_digest(sample.fov),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path | None) -> str | None:
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
