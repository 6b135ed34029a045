"""pull: find the images, give every patient a side, look at every picture, and for held-out ones seen before.

`splits.json` holds the side of each image by name, so that a dataset folder may move without a stage running
again. Later stages take the digests of the splits they read: the test images' enters evaluate alone.
`leaks.json` holds what each held-out picture resembles most, and how much: audit has the threshold.
`bad_images.json` lists what was left out because it cannot be used, `sizes.json` how large the others are.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from job.checks.evidence import Leak
from job.data import fundus, inspection, splits, synthetic
from job.data.dataset import Dataset, Sample, content_digest, read_folder, with_unlabelled
from job.data.images import working_size
from job.data.inspection import BadImage, Look
from job.data.leaks import OTHER, find_leaks
from job.data.samples import SIDES, SPLITS
from job.errors import InputError
from job.spec.data import ColumnSplit
from job.stages.stage import Stage, StageContext
from job.storage.local import sha256_json, write_atomic

SYNTHETIC_FOLDER = "dataset"
SPLITS_FILE = "splits.json"
LEAKS_FILE = "leaks.json"
BAD_FILE = "bad_images.json"
SIZES_FILE = "sizes.json"


def reads(context: StageContext) -> Mapping[str, Any]:
    """The content of every image, and the rules of the split and for bad images; or synthetic settings."""
    data, inputs = context.spec.data, context.inputs
    more = {
        "unlabelled": _digests(read_folder(inputs.unlabelled)) if inputs.unlabelled else None,
        "others": {name: _digests(_annotated(name, folder)) for name, folder in inputs.others.items()},
        "bad": [data.on_bad_image, data.max_bad_share if data.on_bad_image == "skip" else None],
    }
    if inputs.data is None:
        return {"synthetic": data.synthetic.model_dump(), "revision": fundus.REVISION, **more}
    return {"split": data.split.model_dump(), "files": _digests(read_folder(inputs.data)), **more}


def run(context: StageContext) -> Mapping[str, str]:
    """Make or read the datasets, assign the splits, look at every picture and compare them across splits.

    Returns the digest of each split, of each further dataset (`other:NAME`) and of the `leaks`.
    """
    data, inputs = context.spec.data, context.inputs
    if inputs.data is None:
        root = context.folder / SYNTHETIC_FOLDER
        synthetic.make_dataset(
            root, **data.synthetic.model_dump(), progress=context.progress, threads=context.machine.threads
        )
        samples = read_folder(root)
        assigned = splits.assign(samples, ColumnSplit(kind="column"))
    else:
        root = inputs.data
        samples = read_folder(root)
        assigned = splits.assign(samples, data.split)
    if assigned.left_out_patients or assigned.withheld:
        context.log.info(
            "data.left_out",
            patients=len(assigned.left_out_patients),
            unlabelled_images=len(assigned.withheld),
        )
        names = [*assigned.left_out_patients, *assigned.withheld]
        context.log.debug("names", of="data.left_out", names=names)
    own = assigned.apply(samples)
    if context.spec.reward.network.epochs:  # else found after the table, by the training itself
        splits.require_training_patients({sample.patient for sample in own if sample.split == "train"})
    seen = _look(context, _parts(context, root, own))
    kept = [look.sample for look in seen.looks if look.sample.split in SPLITS]
    _require_sides(kept, seen.bad)
    write_atomic(context.folder / SPLITS_FILE, json.dumps({s.name: s.split for s in kept}, indent=1))
    write_atomic(context.folder / BAD_FILE, json.dumps([asdict(one) for one in seen.bad], indent=1))
    sizes = [(look.sample.split, *look.size) for look in seen.looks]
    write_atomic(context.folder / SIZES_FILE, json.dumps(sizes))
    context.log.info("data.summary", images=counts(kept), patients=patient_counts(kept))
    leaks = [
        asdict(leak)
        for leak in find_leaks(
            [look.sample for look in seen.looks],
            np.stack([look.fingerprint_D for look in seen.looks]),
            progress=context.progress,
        )
    ]
    write_atomic(context.folder / LEAKS_FILE, json.dumps(leaks, indent=1))
    sides = {split: seen.of(split) for split in (*SPLITS, *(OTHER + name for name in inputs.others))}
    digests = {split: sha256_json(_digests(side)) for split, side in sides.items()}
    return {**digests, "leaks": sha256_json(leaks)}


STAGE = Stage("pull", 4, reads, ("numpy", "scipy", "pillow"), run)


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
    bad = {one.name for one in load_bad(context) if one.dataset == _field_of(name)}
    samples = [replace(s, split="test") for s in _annotated(name, context.inputs.others[name])]
    return Dataset([sample for sample in samples if sample.name not in bad], context.spec.data.width)


def load_leaks(context: StageContext) -> tuple[Leak, ...]:
    """Return what each held-out picture resembles most in each split seen before it, most alike first."""
    rows = json.loads((context.done["pull"].folder / LEAKS_FILE).read_text())
    return tuple(Leak(**row) for row in rows)


def load_bad(context: StageContext) -> list[BadImage]:
    """Return the images that were left out because they cannot be used."""
    rows = json.loads((context.done["pull"].folder / BAD_FILE).read_text())
    return [BadImage(**row) for row in rows]


def load_sizes(context: StageContext) -> list[tuple[str, int, int]]:
    """Return split, height and width of every picture at the working width; `other:NAME` for those beside."""
    rows: list[tuple[str, int, int]] = json.loads((context.done["pull"].folder / SIZES_FILE).read_text())
    return [(split, *working_size(h, w, context.spec.data.width)) for split, h, w in rows]


def counts(samples: list[Sample]) -> dict[str, int]:
    """Return images per split."""
    return {split: sum(s.split == split for s in samples) for split in SPLITS}


def patient_counts(samples: list[Sample]) -> dict[str, int]:
    """Return patients per split."""
    return {split: len({s.patient for s in samples if s.split == split}) for split in SPLITS}


@dataclass(frozen=True)
class _Part:
    """The images of one folder that take part."""

    field: str
    root: Path
    samples: list[Sample]


@dataclass(frozen=True)
class _Seen:
    looks: list[Look]
    bad: list[BadImage]

    def of(self, split: str) -> list[Sample]:
        return [look.sample for look in self.looks if look.sample.split == split]


def _parts(context: StageContext, root: Path, own: list[Sample]) -> list[_Part]:
    inputs = context.inputs
    parts = [_Part("data.uri", root, own)]
    if inputs.unlabelled is not None:
        more = with_unlabelled(own, read_folder(inputs.unlabelled))[len(own) :]
        parts.append(_Part("data.unlabelled_uri", inputs.unlabelled, more))
    for name, folder in inputs.others.items():
        judged = [replace(sample, split=OTHER + name) for sample in _annotated(name, folder)]
        parts.append(_Part(_field_of(name), folder, judged))
    return parts


def _look(context: StageContext, parts: Sequence[_Part]) -> _Seen:
    """Look at every picture of every part before the first error: whoever mends one mends all."""
    data, looks, bad = context.spec.data, list[Look](), list[BadImage]()
    n_images = sum(len(part.samples) for part in parts)
    with context.progress.task("looking at images", n_images, "images") as task:
        items = [(part.field, part.root, sample) for part in parts for sample in part.samples]
        seen = iter(list(inspection.look_at_each(items, threads=context.machine.threads, task=task)))
    found = {part.field: list(islice(seen, len(part.samples))) for part in parts}
    for part in parts:
        of_part = [one for one in found[part.field] if isinstance(one, BadImage)]
        inspection.refuse_bad(
            of_part, len(part.samples), part.root, on_bad=data.on_bad_image, max_share=data.max_bad_share
        )
        if of_part:
            context.log.warning(
                "data.bad_image", dataset=part.field, images=len(of_part), of=len(part.samples)
            )
        for one in of_part:
            context.log.debug("data.bad_image", dataset=part.field, file=one.file, what=one.what)
        good = [one for one in found[part.field] if isinstance(one, Look)]
        for message in inspection.oddities(good):
            context.log.warning("job.warning", message=f"{part.field}: {message}")
        looks += good
        bad += of_part
    for split in (*SIDES, *(OTHER + name for name in context.inputs.others)):
        inspection.refuse_empty([one for one in looks if one.sample.split == split], split)
    return _Seen(looks, bad)


def _require_sides(kept: Sequence[Sample], bad: Sequence[BadImage]) -> None:
    """Raise `InputError` when leaving bad images out leaves a side empty that the split had filled."""
    have = Counter(sample.split for sample in kept)
    empty = [side for side in SIDES if not have[side]]
    if empty:
        raise InputError(
            f"no annotated image is left for {' and '.join(empty)} without the {len(bad)} of no use:"
            f" {', '.join(one.file for one in bad[: inspection.SHOWN])}",
            advice="mend them: the splits of other images do not move to fill a gap",
        )


def _field_of(name: str) -> str:
    return f"evaluate.datasets {name}"


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
