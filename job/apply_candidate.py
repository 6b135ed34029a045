"""`evaluate` and `predict`: put a shipped candidate to work on images that the job never saw."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job import device as machines
from job.candidate_at_work import CandidateAtWork, Photograph
from job.candidate_segmenter import AS_BEFORE, Opening, open_segmenter, open_today
from job.data.dataset import Dataset, Loaded, Sample, read_folder
from job.data.images import pixel_digest, resize_image, resize_mask
from job.errors import InputError, SpecError
from job.evaluation import candidate as candidates
from job.evaluation.candidate import Candidate, Prediction
from job.exchange import Inbox, Outbox, find_folder, find_images, outbox
from job.logs import Output, ReportedProgress
from job.measurement import Measurement
from job.metrics.statistics import Interval, paired_uplift, patient_means, t_interval
from job.progress import Progress
from job.publish.local_run import local_run
from job.reward.terms import METRICS, measure
from job.spec.runtime import RuntimeSpec
from job.storage.local import write_atomic
from job.storage.uris import parent_and_name

COLUMNS = ("image", "mask", "action", "prompt", "postprocess", "quality", "low", "high", "review", "error")
"""Of predictions.csv; of an image that could not be read, all but the first and the last are empty."""
PREDICTIONS = "predictions.csv"


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
        machine = machines.prepare(RuntimeSpec.model_validate({"device": device}))
        candidate = _open(place, machine.device)
        at_work = _at_work(candidate, place, opening, machine, inbox, reporting)
        if candidate.file.today_key is not None:
            today = open_today(candidate, candidate.file.today_key, place, machine.device, inbox, reporting)
            at_work = replace(at_work, today=today)
        root = inbox.bring(found)
        labelled = [sample for sample in read_folder(root) if sample.mask is not None][:max_samples]
        if not labelled:
            raise InputError(
                f"{data}: no image has a mask", advice="name a dataset folder with masks, or use predict"
            )
        return _measure(at_work, labelled, data, progress)


def _measure(
    at_work: CandidateAtWork, labelled: Sequence[Sample], data: str, progress: Progress
) -> Measurement:
    candidate = at_work.candidate
    dataset = Dataset(labelled, candidate.file.width)

    def read(sample: Sample) -> Photograph:
        loaded = dataset.load(sample)
        return Photograph(sample, loaded, loaded.image.shape[:2])

    def scored(one: Photograph, prediction: Prediction) -> tuple[dict[str, NDArray[np.float64]], bool]:
        assert one.loaded.truth is not None
        values = measure(np.stack([prediction.noop_HW, prediction.mask_HW]), one.loaded.truth)
        return values, pixel_digest(one.loaded.image) in candidate.file.trained_on

    before, after, seen = [], [], 0
    with closing(at_work.each(labelled, read, scored, what="evaluate", progress=progress)) as found:
        for one in found:
            assert not isinstance(one, InputError)  # `read` raises it
            values, was_seen = one
            seen += was_seen
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
        machine = machines.prepare(RuntimeSpec.model_validate({"device": device}))
        candidate = _open(place, machine.device)
        with outbox(output) as out:
            at_work = _at_work(candidate, place, opening, machine, inbox, reporting)
            source = inbox.bring(found)
            samples = (
                read_folder(source)
                if source.is_dir()
                else [Sample(source.stem, source.stem, None, source, None, None)]
            )
            named = _named(samples, source)
            _keep_inputs(named, images, out, is_folder=source.is_dir())
            predicted = _predict_each(at_work, named, out, inbox, progress)
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
    at_work: CandidateAtWork,
    named: Mapping[str, Sample],
    out: Outbox,
    inbox: Inbox,
    progress: Progress,
) -> _Predicted:
    file = at_work.candidate.file

    def read(sample: Sample) -> Photograph | InputError:
        try:
            original = Dataset([], width=None).load(replace(sample, mask=None))
        except InputError as error:
            return error
        fov = None if original.fov is None else resize_mask(original.fov, file.width)
        resized = Loaded(resize_image(original.image, file.width), None, fov)
        return Photograph(sample, resized, original.image.shape[:2])

    def written(one: Photograph, prediction: Prediction) -> dict[str, Any]:
        mask = f"{one.sample.name}.png"
        write_atomic(out.folder / mask, _png(prediction.mask_HW, one.own_size))
        action = file.space[prediction.action]
        quality = {key: f"{getattr(prediction, key):.4f}" for key in ("quality", "low", "high")}
        chosen = {
            "action": prediction.action,
            "prompt": action.prompt,
            "postprocess": action.postprocess.label,
        }
        return {"mask": mask, **chosen, **quality, "review": int(prediction.review)}

    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    flagged, failed = 0, []
    samples = list(named.values())
    with closing(at_work.each(samples, read, written, what="predict", progress=progress)) as found:
        for name, row in zip(named, found, strict=True):
            if isinstance(row, InputError):
                writer.writerow({"image": name, "error": inbox.as_users_know(str(row))})
                failed.append(name)
            else:
                writer.writerow({"image": name, **row})
                flagged += row["review"]
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


def _at_work(
    candidate: Candidate,
    place: str,
    opening: Opening,
    machine: machines.Machine,
    inbox: Inbox,
    reporting: Output,
) -> CandidateAtWork:
    names: dict[str, str] = {}
    segmenter = open_segmenter(candidate, place, opening, machine.device, inbox, reporting, names)
    return CandidateAtWork(candidate, segmenter, names, machine.threads)


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
