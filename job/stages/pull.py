"""pull: find the images, give every patient a side, and look for held-out pictures among those seen before.

`splits.json` holds the side of each image by name, so that a dataset folder may move without a stage running
again. Later stages take the digests of the splits they read: the test images' enters evaluate alone.
`leaks.json` holds what each held-out picture resembles most, and how much: audit has the threshold.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from job.checks.evidence import Leak
from job.data import fundus, splits, synthetic
from job.data.dataset import Dataset, Sample, content_digest, read_folder, with_unlabelled
from job.data.images import read_image
from job.data.leaks import OTHER, find_leaks, fingerprint
from job.data.samples import SPLITS
from job.errors import InputError
from job.progress import track
from job.spec.data import ColumnSplit
from job.stages.stage import Stage, StageContext
from job.storage.local import sha256_json, write_atomic

SYNTHETIC_FOLDER = "dataset"
SPLITS_FILE = "splits.json"
LEAKS_FILE = "leaks.json"


def reads(context: StageContext) -> Mapping[str, Any]:
    """The content of every image and the rule of the split, or the settings of synthetic images."""
    data, inputs = context.spec.data, context.inputs
    more = {
        "unlabelled": _digests(read_folder(inputs.unlabelled)) if inputs.unlabelled else None,
        "others": {name: _digests(_annotated(name, folder)) for name, folder in inputs.others.items()},
    }
    if inputs.data is None:
        return {"synthetic": data.synthetic.model_dump(), "revision": fundus.REVISION, **more}
    return {"split": data.split.model_dump(), "files": _digests(read_folder(inputs.data)), **more}


def run(context: StageContext) -> Mapping[str, str]:
    """Make or read the dataset, assign the splits and compare the pictures across them.

    Returns the digest of each split, of each further dataset (`other:NAME`) and of the `leaks`.
    """
    data, inputs = context.spec.data, context.inputs
    if inputs.data is None:
        root = context.folder / SYNTHETIC_FOLDER
        synthetic.make_dataset(root, **data.synthetic.model_dump(), progress=context.progress)
        samples = read_folder(root)
        assigned = splits.assign(samples, ColumnSplit(kind="column"))
    else:
        samples = read_folder(inputs.data)
        assigned = splits.assign(samples, data.split)
    if assigned.left_out_patients or assigned.withheld:
        context.log.info(
            "data.left_out",
            patients=len(assigned.left_out_patients),
            unlabelled_images=len(assigned.withheld),
        )
    kept = assigned.apply(samples)
    if inputs.unlabelled is not None:
        kept = with_unlabelled(kept, read_folder(inputs.unlabelled))
    write_atomic(context.folder / SPLITS_FILE, json.dumps({s.name: s.split for s in kept}, indent=1))
    context.log.info("data.summary", images=counts(kept), patients=patient_counts(kept))
    sides = {split: [s for s in kept if s.split == split] for split in SPLITS}
    sides |= {OTHER + name: _annotated(name, folder) for name, folder in inputs.others.items()}
    leaks = [asdict(leak) for leak in _compare(context, sides)]
    write_atomic(context.folder / LEAKS_FILE, json.dumps(leaks, indent=1))
    digests = {split: sha256_json(_digests(side)) for split, side in sides.items()}
    return {**digests, "leaks": sha256_json(leaks)}


STAGE = Stage("pull", 3, reads, ("numpy", "scipy", "pillow"), run)


def open_dataset(context: StageContext) -> Dataset:
    """Return the dataset at the working width, every sample with its split."""
    pulled = context.done["pull"].folder
    samples = read_folder(context.inputs.data or pulled / SYNTHETIC_FOLDER)
    if context.inputs.unlabelled is not None:
        samples = with_unlabelled(samples, read_folder(context.inputs.unlabelled))
    of: dict[str, str] = json.loads((pulled / SPLITS_FILE).read_text())
    kept = [replace(sample, split=of[sample.name]) for sample in samples if sample.name in of]
    return Dataset(kept, context.spec.data.width)


def open_other(context: StageContext, name: str) -> Dataset:
    """Return the annotated images of a dataset of `evaluate.datasets` at the working width, all as `test`."""
    samples = [replace(s, split="test") for s in _annotated(name, context.inputs.others[name])]
    return Dataset(samples, context.spec.data.width)


def load_leaks(context: StageContext) -> tuple[Leak, ...]:
    """Return what each held-out picture resembles most in each split seen before it, most alike first."""
    rows = json.loads((context.done["pull"].folder / LEAKS_FILE).read_text())
    return tuple(Leak(**row) for row in rows)


def counts(samples: list[Sample]) -> dict[str, int]:
    """Return images per split."""
    return {split: sum(s.split == split for s in samples) for split in SPLITS}


def patient_counts(samples: list[Sample]) -> dict[str, int]:
    """Return patients per split."""
    return {split: len({s.patient for s in samples if s.split == split}) for split in SPLITS}


def _compare(context: StageContext, sides: Mapping[str, Sequence[Sample]]) -> list[Leak]:
    """Decode every picture once; raises `InputError` for one that cannot be."""
    samples = [replace(sample, split=split) for split, side in sides.items() for sample in side]
    images = track(context.progress, "comparing images", samples, len(samples), "images")
    return find_leaks(samples, np.stack([fingerprint(read_image(sample.image)) for sample in images]))


def _annotated(name: str, folder: Path) -> list[Sample]:
    samples = [sample for sample in read_folder(folder) if sample.mask is not None]
    if not samples:
        raise InputError(
            f"evaluate.datasets: {name} ({folder}) has no image with a mask: there is nothing to judge by",
            advice="add masks (docs/data.md), or take it out of evaluate.datasets",
        )
    return samples


def _digests(samples: list[Sample]) -> list[str]:
    return [content_digest(sample) for sample in samples]
