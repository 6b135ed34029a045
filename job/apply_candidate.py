"""`evaluate` and `predict`: put a shipped candidate to work on images that the job never saw."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job import device as machines
from job import segmenters, trust
from job.data.dataset import Dataset, Sample, read_folder
from job.data.image_names import ImageNames
from job.data.images import pixel_digest, resize_image, resize_mask
from job.errors import InputError, SpecError
from job.evaluation import candidate as candidates
from job.evaluation.candidate import Candidate
from job.exchange import Inbox, Outbox, find_folder, find_images, outbox
from job.inputs import find_segmenter
from job.logs import Output, ReportedProgress
from job.metrics.statistics import Interval, Uplift, paired_uplift, patient_means, t_interval
from job.progress import Progress, track
from job.publish.local_run import local_run
from job.reward.terms import METRICS, measure
from job.segmenters.protocol import Segmenter
from job.spec.runtime import RuntimeSpec
from job.storage import strict_json
from job.storage.local import write_atomic
from job.storage.uris import parent_and_name

SHOWN = ("dice", "iou", "recall", "precision", "specificity", "cldice")
"""The metrics that people are shown: shares, all of them."""
COLUMNS = ("image", "mask", "action", "prompt", "postprocess", "quality", "low", "high", "review", "error")
"""Of predictions.csv; of an image that could not be read, all but the first and the last are empty."""
PREDICTIONS = "predictions.csv"
NO_INTERVAL = "one patient: no interval"


@dataclass(frozen=True)
class Opening:
    """How a candidate's segmenter is opened, where that differs from what its candidate.json says."""

    uri: str | None = None
    """Where it lies now."""
    trust_code: str | None = None
    """Digest of the code that the caller vouches for: what the candidate says of it counts for nothing."""


AS_BEFORE = Opening()


@dataclass(frozen=True)
class Measurement:
    """What a candidate and the no-op score on a dataset, in the mean over patients."""

    candidate: str
    data: str
    images: int
    seen_in_training: int
    """Images that shaped the candidate: their scores say nothing about new patients."""
    before: dict[str, Interval]
    after: dict[str, Interval]
    uplift: Uplift

    def to_json(self) -> dict[str, Any]:
        """Return plain values, NaN and infinities as null."""
        document: dict[str, Any] = strict_json.plain(asdict(self), null=True)
        return document

    def to_text(self) -> str:
        """Return the answer first, then a table of metrics before and after."""
        up = self.uplift
        spread = f"95 % interval {up.low:+.3f} to {up.high:+.3f}" if up.n_patients > 1 else NO_INTERVAL
        lines = [
            f"{self.candidate} on {self.images} images of {up.n_patients} patients ({self.data})",
            f"Dice {self.before['dice'].mean:.3f} -> {self.after['dice'].mean:.3f}"
            f" ({up.mean:+.3f}, {spread};"
            f" {up.wins} better, {up.ties} equal, {up.losses} worse)",
        ]
        if self.seen_in_training:
            lines.append(
                f"WARNING: {self.seen_in_training} of these images shaped the candidate;"
                " what it scores on them says nothing about new patients"
            )
        lines.append(f"{'':14}{'before':>10}{'after':>10}{'95 % interval after':>27}")
        lines += [
            f"{metric:14}{self.before[metric].mean:>10.3f}{self.after[metric].mean:>10.3f}"
            f"{_share_interval(self.after[metric]):>27}"
            for metric in SHOWN
        ]
        return "\n".join(lines)


def evaluate(
    place: str, data: str, *, max_samples: int | None, device: str, opening: Opening = AS_BEFORE
) -> Measurement:
    """Measure a candidate (a place as `local_run` takes it) on the images with masks of a dataset folder.

    `data` is a path, `file://` or `s3://`. Raises `InputError`, `SpecError` for data that are no folder, and
    `IntegrityError` for code that nobody vouches for.
    """
    if data.startswith("synthetic:"):
        raise SpecError(
            f"--data: {data} is made within a job, evaluate reads a folder",
            advice="write synthetic images with `dataset make FOLDER`, then name that folder",
        )
    reporting = Output(stream=sys.stderr)  # the answer alone goes to the standard output
    progress = ReportedProgress(reporting, every_s=10.0)
    with closing(Inbox(progress, reporting.log)) as inbox, inbox.named():
        found = find_folder(data)
        if isinstance(found, Path) and not found.is_dir():
            raise InputError(
                f"--data: {found} is not a folder", advice="name a dataset folder with images and masks"
            )
        on = machines.prepare(RuntimeSpec.model_validate({"device": device})).device
        candidate = _open(place, on)
        names: dict[str, str] = {}
        segmenter = _segmenter(candidate, place, opening, on, inbox, reporting, names)
        root = inbox.bring(found)
        labelled = [sample for sample in read_folder(root) if sample.mask is not None][:max_samples]
        if not labelled:
            raise InputError(
                f"{data}: no image has a mask", advice="name a dataset folder with masks, or use predict"
            )
        return _measure(candidate, segmenter, names, labelled, data, progress)


def _measure(
    candidate: Candidate,
    segmenter: Segmenter,
    names: dict[str, str],
    labelled: Sequence[Sample],
    data: str,
    progress: Progress,
) -> Measurement:
    dataset = Dataset(labelled, candidate.file.width)
    before, after, seen = [], [], 0
    for sample in track(progress, "evaluate", labelled, len(labelled), "images"):
        loaded = dataset.load(sample)
        assert loaded.truth is not None
        pixels = pixel_digest(loaded.image)
        names[pixels] = sample.name
        seen += pixels in candidate.file.trained_on
        segmentation = segmenter.segment([loaded.image], candidate.file.prompts)[0]
        prediction = candidate.predict(loaded.image, segmentation, loaded.fov)
        values = measure(np.stack([prediction.noop_HW, prediction.mask_HW]), loaded.truth)
        before.append({metric: float(values[metric][0]) for metric in METRICS})
        after.append({metric: float(values[metric][1]) for metric in METRICS})
    patients = [sample.patient for sample in labelled]
    dice_before, dice_after = ([row["dice"] for row in rows] for rows in (before, after))
    return Measurement(
        candidate=candidates.describe(candidate.file),
        data=data,
        images=len(labelled),
        seen_in_training=seen,
        before=_means(before, patients),
        after=_means(after, patients),
        uplift=paired_uplift(dice_after, dice_before, patients),
    )


def predict(place: str, images: str, output: str, *, device: str, opening: Opening = AS_BEFORE) -> str:
    """Write a mask for every image and `predictions.csv`; returns a summary.

    Images and output are paths, `file://` or `s3://`. In a store, masks appear when all are made, and
    predictions.csv after them. An image that cannot be read has its error in the table and keeps no other
    from its mask; when all is written, `InputError` says how many there were.
    """
    reporting = Output(stream=sys.stderr)
    progress = ReportedProgress(reporting, every_s=10.0)
    with closing(Inbox(progress, reporting.log)) as inbox, inbox.named():
        found = find_images(images)
        if isinstance(found, Path) and not found.exists():
            raise InputError(f"{images} does not exist", advice="name an image or a folder of images")
        on = machines.prepare(RuntimeSpec.model_validate({"device": device})).device
        candidate = _open(place, on)
        with outbox(output) as out:
            names: dict[str, str] = {}
            segmenter = _segmenter(candidate, place, opening, on, inbox, reporting, names)
            source = inbox.bring(found)
            samples = (
                read_folder(source)
                if source.is_dir()
                else [Sample(source.stem, source.stem, None, source, None, None)]
            )
            named = _named(samples, source)
            _keep_inputs(named, images, out, is_folder=source.is_dir())
            predicted = _predict_each(candidate, segmenter, names, named, out, inbox, progress)
            out.send(PREDICTIONS, predicted.table)
    if predicted.failed:
        raise InputError(
            f"{len(predicted.failed)} of {len(samples)} images could not be read, the first is"
            f" {predicted.failed[0]}; the other masks and {PREDICTIONS} are in {output}",
            advice="the column `error` of predictions.csv says why; mend those images and predict again",
        )
    return f"{len(samples)} masks and {PREDICTIONS} in {output}; {predicted.flagged} flagged for review"


@dataclass(frozen=True)
class _Predicted:
    table: str
    flagged: int
    failed: list[str]


def _predict_each(
    candidate: Candidate,
    segmenter: Segmenter,
    names: dict[str, str],
    named: Mapping[str, Sample],
    out: Outbox,
    inbox: Inbox,
    progress: Progress,
) -> _Predicted:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    flagged, failed = 0, []
    for name, sample in track(progress, "predict", named.items(), len(named), "images"):
        try:
            original = Dataset([], width=None).load(replace(sample, mask=None))
        except InputError as error:
            writer.writerow({"image": name, "error": inbox.as_users_know(str(error))})
            failed.append(name)
            continue
        image = resize_image(original.image, candidate.file.width)
        fov = None if original.fov is None else resize_mask(original.fov, candidate.file.width)
        names[pixel_digest(image)] = sample.name
        segmentation = segmenter.segment([image], candidate.file.prompts)[0]
        prediction = candidate.predict(image, segmentation, fov)
        mask = f"{sample.name}.png"
        write_atomic(out.folder / mask, _png(prediction.mask_HW, original.image.shape[:2]))
        action = candidate.file.space[prediction.action]
        quality = {key: f"{getattr(prediction, key):.4f}" for key in ("quality", "low", "high")}
        chosen = {
            "action": prediction.action,
            "prompt": action.prompt,
            "postprocess": action.postprocess.label,
        }
        writer.writerow({"image": name, "mask": mask, **chosen, **quality, "review": int(prediction.review)})
        flagged += prediction.review
    return _Predicted(table.getvalue(), flagged, failed)


def _named(samples: Sequence[Sample], source: Path) -> dict[str, Sample]:
    """Return samples by the path of their image below the folder, or by the name of the one image."""
    root = source.resolve() if source.is_dir() else source.parent
    return {sample.image.relative_to(root).as_posix(): sample for sample in samples}


def _keep_inputs(named: Mapping[str, Sample], images: str, out: Outbox, *, is_folder: bool) -> None:
    if out.store is None:
        inputs = {str(sample.image.resolve()) for sample in named.values()}
        places = [str((out.folder / f"{sample.name}.png").resolve()) for sample in named.values()]
    else:
        root = images.rstrip("/") if is_folder else parent_and_name(images)[0]
        inputs = {f"{root}/{name}" for name in named}
        places = [f"{out.uri}/{sample.name}.png" for sample in named.values()]
    lost = [place for place in places if place in inputs]
    if lost:
        raise InputError(
            f"--output: {lost[0]} is an image to segment, which its mask would replace",
            advice="name another folder",
        )


def _open(place: str, device: str) -> Candidate:
    return candidates.load(local_run(place, only=candidates.PARTS), device)


def _segmenter(
    candidate: Candidate,
    place: str,
    opening: Opening,
    device: str,
    inbox: Inbox,
    reporting: Output,
    names: Mapping[str, str],
) -> Segmenter:
    """Open a candidate's segmenter; `names`, by pixel digest, may grow with the images it is asked for."""
    spec = trust.vouched_by(candidate.file.segmenter, opening.trust_code)
    if opening.uri is not None:
        spec = spec.model_copy(update={"uri": opening.uri})
    found = find_segmenter(spec.uri, "--segmenter")
    trust.require_vouched(spec, found, "--trust-code")
    folder = inbox.bring(found)
    try:
        segmenters.require_same(spec, folder, candidate.file.segmenter_key)
    except InputError as error:
        raise InputError(f"{place}: {error}", advice=error.advice) from error
    return segmenters.load(spec, folder, device, reporting.log, names=ImageNames(lambda: names))


def _share_interval(interval: Interval) -> str:
    if interval.n == 1:
        return NO_INTERVAL
    # Student's t knows nothing of the ends of a share.
    return f"{max(0.0, interval.low):.3f} to {min(1.0, interval.high):.3f}"


def _means(rows: list[dict[str, float]], patients: Sequence[str]) -> dict[str, Interval]:
    return {m: t_interval(patient_means([row[m] for row in rows], patients)) for m in METRICS}


def _png(mask_HW: NDArray[np.bool_], size: tuple[int, ...]) -> bytes:
    """Return the mask at the image's own size: pixels are taken from the nearest of the working size."""
    buffer = io.BytesIO()
    picture = Image.fromarray(mask_HW)
    if mask_HW.shape != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.NEAREST)
    picture.save(buffer, "PNG")
    return buffer.getvalue()
