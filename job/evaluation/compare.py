"""Compare what runs ship on the test images that they share, paired by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.errors import InputError, IntegrityError, SpecError
from job.evaluation.arms import MEASURED, Arms
from job.metrics.statistics import Interval, Uplift, holm, paired_uplift, patient_means, t_interval
from job.publish.local_run import TRAINING_INFO, local_run
from job.publish.training_info import TrainingInfo
from job.reward.terms import METRICS
from job.spec.secrets import redact
from job.spec.showing import printable
from job.storage.documents import parse_as, read_bytes
from job.storage.manifest import MARKER

CONFIDENCE = 0.95
"""Of every interval here: runs may have been judged at different ones."""
NOOP = "noop"
"""Written here again: the module that owns it brings torch, which a comparison has no use for."""

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Run:
    """A finished run as it lies on the disk; `label` tells it from the others."""

    label: str
    info: TrainingInfo
    arms: Arms


@dataclass(frozen=True)
class ComparedRun:
    """One run on the shared test images."""

    label: str
    info: TrainingInfo
    left_out: int
    """Its test images that not every run has."""
    before: dict[str, Interval]
    """Metric -> mean of its no-op over patients."""
    after: dict[str, Interval]
    """Metric -> mean of what it ships over patients."""
    vs_noop: Uplift
    """Paired Dice difference to its own no-op."""


@dataclass(frozen=True)
class Difference:
    """What a run ships against what the first run ships, paired by image."""

    run: ComparedRun
    by_metric: dict[str, Uplift]
    """Metric -> the run's minus the first run's."""
    holm_p: float
    """Sign-flip p of the Dice difference, corrected for all runs that are compared (Holm 1979)."""

    @property
    def dice(self) -> Uplift:
        """The difference that runs are judged by."""
        return self.by_metric["dice"]


@dataclass(frozen=True)
class ComparedImage:
    """The Dice of what each run ships on one image, in the order of runs."""

    name: str
    patient: str
    dice: tuple[float, ...]

    @property
    def worst_difference(self) -> float:
        """The lowest of the other runs' differences to the first."""
        return min(self.dice[1:]) - self.dice[0]


@dataclass(frozen=True)
class Comparison:
    """Two or more runs on the test images that all of them have."""

    runs: tuple[ComparedRun, ...]
    differences: tuple[Difference, ...]
    """Of every run but the first, in their order."""
    images: tuple[ComparedImage, ...]
    """The worst difference first."""
    n_patients: int
    equal_noop: bool
    """True where all runs start from the same scores: their no-ops have equal Dice on every shared image."""
    equal_patients: bool
    """False where runs disagree on which images are of one patient; the first run's patients count."""

    @property
    def first(self) -> ComparedRun:
        """The run that all others are compared with."""
        return self.runs[0]


def open_runs(places: Sequence[str]) -> list[Run]:
    """Read the runs that places name, on this disk or in a store: a run folder, its candidate.json, runs/NAME
    (the newest run) or models/NAME (the champion).

    Raises InputError for what is missing, not finished or invalid (nothing in such a run can be trusted),
    IntegrityError for damaged files and SpecError for fewer than two runs or one that is named twice.
    """
    folders = [local_run(place, only=[TRAINING_INFO, f"evaluation/{MEASURED}"]) for place in places]
    if len(folders) < 2:
        raise SpecError("one run has nothing to be compared with", advice="name two runs or more")
    for i, folder in enumerate(folders):
        if folder.resolve() in [earlier.resolve() for earlier in folders[:i]]:
            raise SpecError(f"{places[i]} is named twice", advice="name every run once")
    infos = [_info(folder) for folder in folders]
    labels = _labels(places, infos)
    return [
        Run(label, info, _arms(folder, info))
        for label, folder, info in zip(labels, folders, infos, strict=True)
    ]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare what runs ship with what the first of them ships, on the test images that all of them have.

    Means, intervals and tests are over patients (those of the first run). Raises InputError when no test
    image is common to all.
    """
    rows = _shared_rows(runs)
    patients = [runs[0].arms.patients[i] for i in rows[0]]
    scores = [_Scores(run, at) for run, at in zip(runs, rows, strict=True)]
    compared = [
        ComparedRun(
            label=of.run.label,
            info=of.run.info,
            left_out=len(of.run.arms.names) - len(patients),
            before={metric: _interval(of.before(metric), patients) for metric in METRICS},
            after={metric: _interval(of.after(metric), patients) for metric in METRICS},
            vs_noop=_uplift(of.after("dice"), of.before("dice"), patients),
        )
        for of in scores
    ]
    first = scores[0]
    against = [
        {metric: _uplift(other.after(metric), first.after(metric), patients) for metric in METRICS}
        for other in scores[1:]
    ]
    holm_p = holm([by_metric["dice"].p_value for by_metric in against])
    images = [
        ComparedImage(runs[0].arms.names[at], patients[i], tuple(float(of.after("dice")[i]) for of in scores))
        for i, at in enumerate(rows[0])
    ]
    groups = [_groups([run.arms.patients[i] for i in at]) for run, at in zip(runs, rows, strict=True)]
    return Comparison(
        runs=tuple(compared),
        differences=tuple(map(Difference, compared[1:], against, holm_p)),
        images=tuple(sorted(images, key=lambda image: (image.worst_difference, image.name))),
        n_patients=len(set(patients)),
        equal_noop=all(np.array_equal(of.before("dice"), first.before("dice")) for of in scores),
        equal_patients=all(group == groups[0] for group in groups),
    )


@dataclass(frozen=True)
class _Scores:
    """A run's scores on the shared images."""

    run: Run
    rows: Indices

    def before(self, metric: str) -> NDArray[np.float64]:
        return self.run.arms[NOOP].test[metric][self.rows]

    def after(self, metric: str) -> NDArray[np.float64]:
        return self.run.arms[self.run.info.results.verdict.ships].test[metric][self.rows]


def _info(folder: Path) -> TrainingInfo:
    path = folder / TRAINING_INFO
    info = parse_as(
        TrainingInfo,
        read_bytes(path),
        str(path),
        what="a record of this version",
        advice="run its spec again with this version: what has not changed is not computed again",
    )
    if info.results.verdict.verdict == "invalid":
        failed = [check.name for check in info.checks if check.failed and check.severity == "validity"]
        raise InputError(
            f"{folder}: the run is invalid and its figures prove nothing"
            + (f"; failed: {', '.join(failed)}" if failed else ""),
            advice="leave it out, or mend what its report names and run it again",
        )
    if not (folder / MARKER).exists():
        raise InputError(f"{folder}: the run is not finished ({MARKER} is missing)", advice="finish it first")
    return info


def _arms(folder: Path, info: TrainingInfo) -> Arms:
    path = folder / "evaluation" / MEASURED
    if not path.is_file():
        raise InputError(
            f"{path}: missing, so that images cannot be paired",
            advice="fetch the whole run folder, or run its spec again with this version",
        )
    try:
        arms = Arms.load(path)
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"a part is missing: {error}") from error
    n, needed = len(arms.names), (NOOP, info.results.verdict.ships)
    if absent := [name for name in needed if name not in arms]:
        raise _damaged(path, f"nothing about {absent[0]}")
    values = [arms[name].test[metric] for name in needed for metric in METRICS]
    is_whole = len(arms.patients) == len(arms.pixels) == n > 0
    if not (is_whole and all(v.shape == (n,) and np.isfinite(v).all() for v in values)):
        raise _damaged(path, "scores, names, patients and digests are not of the same images")
    return arms


def _damaged(path: Path, problem: str) -> IntegrityError:
    return IntegrityError(f"{path}: {problem}", advice="fetch an undamaged copy of the run folder")


def _labels(places: Sequence[str], infos: Sequence[TrainingInfo]) -> list[str]:
    """Return the shortest of name, name with run_id, and place as the user wrote it that tells runs apart."""
    choices = (
        [info.name for info in infos],
        [f"{info.name}/{info.run_id}" for info in infos],
        list(places),
    )
    shown = [[printable(redact(label)) for label in labels] for labels in choices]
    return next((labels for labels in shown if len(set(labels)) == len(labels)), shown[-1])


def _shared_rows(runs: Sequence[Run]) -> list[Indices]:
    """Return per run the rows of the test images that all runs have, in the first run's order."""
    row_of = [_row_of(run.arms.pixels) for run in runs]
    shared = [image for image in row_of[0] if all(image in others for others in row_of[1:])]
    if not shared:
        widths = sorted({"their own" if w is None else f"{w} px" for w in (r.info.data.width for r in runs)})
        raise InputError(
            f"no test image is common to {', '.join(run.label for run in runs)}",
            advice="compare runs on the same test images"
            + (f"; these work at different widths ({', '.join(widths)})" if len(widths) > 1 else ""),
        )
    return [np.array([rows[image] for image in shared], dtype=np.intp) for rows in row_of]


def _row_of(pixels: Sequence[str]) -> dict[tuple[str, int], int]:
    """Return the row of every image; the second of two equal images meets the second in another run."""
    rows: dict[tuple[str, int], int] = {}
    seen: dict[str, int] = {}
    for row, digest in enumerate(pixels):
        rows[digest, seen.get(digest, 0)] = row
        seen[digest] = seen.get(digest, 0) + 1
    return rows


def _groups(patients: Sequence[str]) -> list[int]:
    """Number patients in the order in which they come: equal for equal groups, whatever their names."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(patient, len(numbers)) for patient in patients]


def _interval(values: NDArray[np.float64], patients: Sequence[str]) -> Interval:
    return t_interval(patient_means(values, patients), CONFIDENCE)


def _uplift(after: NDArray[np.float64], before: NDArray[np.float64], patients: Sequence[str]) -> Uplift:
    return paired_uplift(after, before, patients, CONFIDENCE)
