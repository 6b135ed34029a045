"""pull: find the images and give every patient a side.

`splits.json` holds the side of each image by name, so that a dataset folder may move without a stage running
again. Later stages take the digests of the splits they read: the test images' enters evaluate alone.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from job.data import fundus, splits, synthetic
from job.data.dataset import Dataset, Sample, content_digest, read_folder, with_unlabelled
from job.data.samples import SPLITS
from job.errors import InputError
from job.spec.data import ColumnSplit
from job.stages.stage import Stage, StageContext
from job.storage.local import sha256_file, sha256_json, write_atomic

SYNTHETIC_FOLDER = "dataset"


def reads(context: StageContext) -> Mapping[str, Any]:
    """Synthetic settings, or the content of the dataset's files and the rule of the split."""
    data, inputs = context.spec.data, context.inputs
    unlabelled = _digests(read_folder(inputs.unlabelled)) if inputs.unlabelled else None
    if inputs.data is None:
        made = {"synthetic": data.synthetic.model_dump(), "revision": fundus.REVISION}
        return {**made, "unlabelled": unlabelled}
    files = _digests(read_folder(inputs.data))
    return {"split": data.split.model_dump(), "files": files, "unlabelled": unlabelled}


def run(context: StageContext) -> Mapping[str, str]:
    """Make or read the dataset and assign the splits; returns the digest of each split."""
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
    _refuse_leaks(kept)
    write_atomic(context.folder / "splits.json", json.dumps({s.name: s.split for s in kept}, indent=1))
    sides = {split: [s for s in kept if s.split == split] for split in SPLITS}
    context.log.info("data.summary", images=counts(kept), patients=patient_counts(kept))
    return {split: sha256_json(_digests(side)) for split, side in sides.items()}


STAGE = Stage("pull", 1, reads, ("numpy", "scipy", "pillow"), run)


def open_dataset(context: StageContext) -> Dataset:
    """Return the dataset at the working width, every sample with its split."""
    pulled = context.done["pull"].folder
    samples = read_folder(context.inputs.data or pulled / SYNTHETIC_FOLDER)
    if context.inputs.unlabelled is not None:
        samples = with_unlabelled(samples, read_folder(context.inputs.unlabelled))
    of: dict[str, str] = json.loads((pulled / "splits.json").read_text())
    kept = [replace(sample, split=of[sample.name]) for sample in samples if sample.name in of]
    return Dataset(kept, context.spec.data.width)


def counts(samples: list[Sample]) -> dict[str, int]:
    """Return images per split."""
    return {split: sum(s.split == split for s in samples) for split in SPLITS}


def patient_counts(samples: list[Sample]) -> dict[str, int]:
    """Return patients per split."""
    return {split: len({s.patient for s in samples if s.split == split}) for split in SPLITS}


def _refuse_leaks(samples: list[Sample]) -> None:
    """Raise `InputError` when a held-out picture is also one to learn from, under whatever name."""
    learned = {sha256_file(s.image): s for s in samples if s.split in ("train", "unlabelled")}
    held_out = [s for s in samples if s.split in ("validation", "test")]
    twice = [(s, learned[digest]) for s in held_out if (digest := sha256_file(s.image)) in learned]
    if twice:
        held, seen = twice[0]
        raise InputError(
            f"{len(twice)} held-out pictures are also learned from: {held.image.name} ({held.split}) is"
            f" {seen.image.name} ({seen.split})",
            advice="remove the copies, or give both the same patient: `dataset check` lists equal pictures",
        )


def _digests(samples: list[Sample]) -> list[str]:
    return [content_digest(sample) for sample in samples]
