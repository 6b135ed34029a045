"""What is wrong or suspicious with a dataset folder: everything at once, before a job stumbles over it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.checks.result import Thresholds
from job.data.annotations import list_folder, not_listed
from job.data.images import grey_share, is_foreground, read_image, read_levels
from job.data.inspection import GREY
from job.data.leaks import find_copies, fingerprint
from job.data.names import printable
from job.data.polygons import rasterise
from job.data.samples import SIDES, Finding, Polygons, Sample, Severity
from job.data.splits import FEWEST_TO_LEARN_FROM, assign
from job.errors import InputError
from job.progress import SILENT, Progress, track
from job.spec.data import AutoSplit

_FEW_PATIENTS = 10
_SMALL_PX = 64
_OUTSIDE = 0.05
_SHOWN = 5
_EMPTY = "the mask is empty"


def check_folder(
    root: Path, progress: Progress = SILENT, as_users_know: Callable[[str], str] = str
) -> list[Finding]:
    """Decode every file of a dataset folder and return all findings, errors first; never raises for bad data.

    `as_users_know` gives places in texts the names that users know, where `root` is a copy of a folder.

    Errors make a job fail or its result worthless (unreadable, sizes that differ, leaks); warnings are for a
    person to look at.
    """
    listing = list_folder(root)
    findings = list(listing.findings)
    decoded: list[tuple[Sample, NDArray[np.float32]]] = []
    for sample in track(progress, "checking images", listing.samples, len(listing.samples), "images"):
        image = _decode_image(sample, findings)
        if image is not None:
            decoded.append((sample, fingerprint(image)))
            findings += _about_image(sample, image)
            findings += _about_masks(sample, (image.shape[0], image.shape[1]))
    findings += _copies(decoded)
    if listing.samples:
        findings += _about_patients(listing.samples)
        findings += _all_empty(listing.samples, {one.where for one in findings if one.what == _EMPTY})
        # Where an entry has a mistake its image is listed, though it is no sample.
        if not any(finding.severity == "error" for finding in listing.findings):
            findings += [
                Finding(
                    "warning",
                    printable(path.relative_to(root.resolve())),
                    "is not listed and will not be used",
                )
                for path in not_listed(root, listing.samples)
            ]
    named = [
        replace(
            finding,
            where=as_users_know(finding.where),
            what=as_users_know(finding.what),
            advice=as_users_know(finding.advice),
        )
        for finding in findings
    ]
    return sorted(named, key=lambda finding: finding.severity)


def _decode_image(sample: Sample, findings: list[Finding]) -> NDArray[np.uint8] | None:
    try:
        return read_image(sample.image)
    except InputError as error:
        findings.append(_unreadable(error, sample))
        return None


def _about_image(sample: Sample, image: NDArray[np.uint8]) -> Iterator[Finding]:
    height, width = image.shape[:2]
    if min(height, width) < _SMALL_PX:
        yield Finding("warning", sample.name, f"the image has only {width} x {height} pixels")
    if image.min() == image.max():
        yield Finding("warning", sample.name, "the image is of one colour", "look at the file")


def _about_masks(sample: Sample, size: tuple[int, int]) -> list[Finding]:
    findings: list[Finding] = []
    truth = _decode_mask(sample, sample.mask, "mask", size, findings)
    fov = _decode_mask(sample, sample.fov, "field of view", size, findings)

    def warn(what: str, advice: str = "") -> None:
        findings.append(Finding("warning", sample.name, what, advice))

    if truth is not None and not truth.any():
        warn(_EMPTY, "set it to null if nobody annotated the image")
    elif truth is not None and truth.mean() > 0.5:
        advice = "the structure must be bright, the background dark"
        warn(f"the mask covers {truth.mean():.0%} of the image: it looks inverted", advice)
    if fov is not None and not fov.any():
        warn("the field of view is empty", "set it to null to have it estimated")
    elif truth is not None and fov is not None and (truth & ~fov).sum() > _OUTSIDE * truth.sum():
        warn(f"more than {_OUTSIDE:.0%} of the mask lies outside the field of view")
    return findings


def _decode_mask(
    sample: Sample, mask: Path | Polygons | None, what: str, size: tuple[int, int], findings: list[Finding]
) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    if isinstance(mask, Polygons):
        return rasterise(mask, *size)
    try:
        levels = read_levels(mask)
    except InputError as error:
        findings.append(_unreadable(error, sample))
        return None
    if levels.shape != size:
        sizes = f"{levels.shape[1]} x {levels.shape[0]} pixels, the image {size[1]} x {size[0]}"
        advice = "give both the same size, as the image looks upright"
        findings.append(Finding("error", sample.name, f"the {what} has {sizes}", advice))
        return None
    unsure = grey_share(levels)
    if unsure > GREY:
        text = f"{unsure:.1%} of the {what}'s pixels are grey: what exceeds {levels.max() / 2:g} counts"
        findings.append(Finding("warning", sample.name, text, "save it with two levels, not as JPEG"))
    return is_foreground(levels)


def _copies(decoded: Sequence[tuple[Sample, NDArray[np.float32]]]) -> Iterator[Finding]:
    if not decoded:
        return
    fingerprints_ND = np.stack([fingerprint_D for _, fingerprint_D in decoded])
    for original, copy in find_copies(fingerprints_ND, Thresholds().max_image_similarity):
        one, two = decoded[original][0], decoded[copy][0]
        leaks = one.patient != two.patient or one.split != two.split
        what = "the same picture under several patients or splits: a leak" if leaks else "the same picture"
        severity: Severity = "error" if leaks else "warning"
        yield Finding(severity, f"{one.name}, {two.name}", what, "keep one of them")


def _about_patients(samples: Sequence[Sample]) -> Iterator[Finding]:
    labelled = [sample for sample in samples if sample.mask is not None]
    patients = {sample.patient for sample in labelled}
    if len(patients) < len(SIDES):
        have = "patient has a mask" if len(patients) == 1 else "patients have a mask"
        what = f"{len(patients)} {have}: three are needed, one each for train, validation and test"
        advice = "add annotated images, or use the folder as data.unlabelled_uri"
        yield Finding("error", "patients", what if patients else "no image has a mask", advice)
    elif len(patients) < _FEW_PATIENTS:
        what = f"only {len(patients)} patients have a mask: results will be uncertain"
        advice = "data.split.kind folds tests every patient once"
        if len(patients) < len(SIDES) + FEWEST_TO_LEARN_FROM - 1:
            advice = (
                f"add patients: to train the reward network takes {FEWEST_TO_LEARN_FROM} (none with"
                " reward.network.epochs 0), to choose and to test takes one each"
            )
        yield Finding("warning", "patients", what, advice)
    if 0 < len(labelled) < len(samples):
        without = [sample.name for sample in samples if sample.mask is None]
        what = f"{len(without)} images have no mask and count as unlabelled: {_some(without)}"
        yield Finding("warning", "masks", what)
    yield from _about_splits(samples, labelled)
    if len(patients) >= len(SIDES) and any(sample.split is None for sample in labelled):
        yield from _about_hash(samples)


def _about_hash(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Try the split that a spec has if it says nothing."""
    try:
        assign(samples, AutoSplit())
    except InputError as error:
        yield Finding("warning", "split", str(error), error.advice)


def _all_empty(samples: Sequence[Sample], empty: set[str]) -> Iterator[Finding]:
    labelled = [sample for sample in samples if sample.mask is not None]
    sides = {sample.split for sample in labelled}
    for side in sorted(side for side in sides if side) if None not in sides else [None]:
        names = [sample.name for sample in labelled if sample.split == side or side is None]
        if names and empty.issuperset(names):
            what = f"the masks of all {len(names)}{f' {side}' if side else ''} images are empty"
            yield Finding("error", "masks", what, "check their grey levels, and the annotations")


def _about_splits(samples: Sequence[Sample], labelled: Sequence[Sample]) -> Iterator[Finding]:
    sides: dict[str, set[str]] = defaultdict(set)
    for sample in labelled:
        if sample.split is not None:
            sides[sample.patient].add(sample.split)
    if not sides:
        return
    torn = sorted(patient for patient, found in sides.items() if len(found) > 1)
    if torn:
        advice = "give all images of a patient the same split"
        yield Finding("error", "split", f"patients on two sides: {_some(torn)}", advice)
    without = [sample.name for sample in labelled if sample.split is None]
    if without:
        what = f"{len(without)} annotated images have no split ({_some(without)}), so a hash decides for all"
        yield Finding("warning", "split", what, "give each a split, or none")
    empty = [side for side in SIDES if not any(side in found for found in sides.values())]
    if empty and not without:
        yield Finding("error", "split", f"no annotated image is on the side {' or '.join(empty)}")
    learned_from = [patient for patient, found in sides.items() if "train" in found]
    if 0 < len(learned_from) < FEWEST_TO_LEARN_FROM and not without:
        what = (
            f"training images of one patient only ({learned_from[0]}): the reward network cannot be trained"
        )
        advice = "put another patient on the training side, or set reward.network.epochs to 0"
        yield Finding("warning", "split", what, advice)
    held_out = {patient for patient, found in sides.items() if found & {"validation", "test"}}
    withheld = [sample.name for sample in samples if sample.mask is None and sample.patient in held_out]
    if withheld:
        what = f"unlabelled images of patients that are held out will not be used: {_some(withheld)}"
        yield Finding("warning", "split", what)


def _unreadable(error: InputError, sample: Sample) -> Finding:
    return Finding("error", sample.name, str(error), error.advice)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
