"""Which side each image is on: by patient, so that no patient is on two sides."""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from job.data.samples import SIDES, UNLABELLED, Sample
from job.errors import InputError
from job.spec.data import AutoSplit, ColumnSplit, FoldSplit, HashSplit, PatientSplit, Split

DecidedBy = Literal["column", "hash", "patients"]

FEWEST_TO_LEARN_FROM = 2
"""Patients on the training side, where the reward network is trained."""
_SHOWN = 5
_NUMBERS = ("no", "one", "two", "three")


@dataclass(frozen=True)
class Assignment:
    """The side of each image, by name, and what takes no part.

    `left_out_patients` are those that the spec names on no side; `withheld` are unlabelled images whose
    patient is held out for validation or test: to learn from them would leak.
    """

    splits: Mapping[str, str]
    decided_by: DecidedBy
    left_out_patients: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()

    def apply(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that take part, each with its split."""
        return [replace(s, split=self.splits[s.name]) for s in samples if s.name in self.splits]


def assign(
    samples: Sequence[Sample],
    split: Split,
    *,
    required: Collection[str] = SIDES,
) -> Assignment:
    """Put every image on a side as `data.split` says; images without a mask are `unlabelled`.

    Folds are dealt before (`folds.deal`): each fold's run comes with the patients of its sides. Raises
    `InputError` when a `required` side stays empty, when a patient is on two sides, and for patients that the
    data set does not know.
    """
    assert not isinstance(split, FoldSplit), "deal the folds first: each is a run with named patients"
    labelled = [sample for sample in samples if sample.mask is not None]
    decided_by: DecidedBy
    match split:
        case PatientSplit():
            decided_by = "patients"
            side_of = by_patients(samples, train=split.train, validation=split.validation, test=split.test)
        case HashSplit():
            decided_by = "hash"
            side_of = by_hash({s.patient for s in samples}, validation=split.validation, test=split.test)
        case AutoSplit() if any(sample.split is None for sample in labelled):
            decided_by = "hash"
            side_of = by_hash({s.patient for s in samples}, validation=split.validation, test=split.test)
        case _:
            decided_by = "column"
            side_of = by_column(labelled)
    assignment = _assignment(samples, side_of, decided_by)
    _require(required, assignment, samples, split)
    return assignment


def require_training_patients(patients: Collection[str]) -> None:
    """Raise `InputError` for fewer training patients than the reward network's training takes."""
    if len(set(patients)) < FEWEST_TO_LEARN_FROM:
        raise InputError(
            f"there are training images of {_count(len(set(patients)), 'patient', 'patients')}: training the"
            f" reward network takes {FEWEST_TO_LEARN_FROM}, as no network judges those that it learned from",
            advice="put annotated images of another patient on the training side (data.split), or set"
            " reward.network.epochs to 0",
        )


def by_hash(patients: Collection[str], *, validation: float, test: float) -> dict[str, str]:
    """Give each patient a side by sha256 of its name alone, so that it keeps it as the data grow.

    The first 64 bits, as a number in [0, 1), fall below `test`, below `test + validation`, or above. Raises
    ValueError when the shares leave nothing to learn from.
    """
    if validation + test >= 1:
        raise ValueError(f"validation {validation:g} and test {test:g} leave nothing to learn from")

    def side(patient: str) -> str:
        position = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
        return "test" if position < test else "validation" if position < test + validation else "train"

    return {patient: side(patient) for patient in patients}


def by_column(labelled: Sequence[Sample]) -> dict[str, str]:
    """Give each patient the side that the `split` of its annotated images names."""
    without = [sample.name for sample in labelled if sample.split is None]
    if without:
        raise InputError(
            f"{len(without)} of {len(labelled)} annotated images have no split: {_some(without)}",
            advice="give each a split in annotations.json, or set data.split.kind to hash",
        )
    sides: dict[str, set[str]] = defaultdict(set)
    for sample in labelled:
        assert sample.split is not None
        sides[sample.patient].add(sample.split)
    torn = [
        f"{patient} ({', '.join(sorted(found))})"
        for patient, found in sorted(sides.items())
        if len(found) > 1
    ]
    if torn:
        raise InputError(
            f"{_count(len(torn), 'patient is', 'patients are')} on two sides: {_some(torn)}",
            advice="give all images of a patient the same split: a test patient must never be learned from",
        )
    return {patient: found.pop() for patient, found in sides.items()}


def by_patients(
    samples: Sequence[Sample], *, train: Sequence[str], validation: Sequence[str], test: Sequence[str]
) -> dict[str, str]:
    """Give each named patient its side; patients that no side names get none.

    Raises `InputError` for patients that the data set does not know, ValueError for one named on two sides.
    """
    known = {sample.patient for sample in samples}
    sides = {"train": train, "validation": validation, "test": test}
    unknown = [
        f"data.split.{side}: {patient!r}{_did_you_mean(patient, known)}"
        for side, patients in sides.items()
        for patient in patients
        if patient not in known
    ]
    if unknown:
        raise InputError(
            f"{_count(len(unknown), 'patient is', 'patients are')} not in the data set: {_some(unknown)}",
            advice=f"its patients are {_some(sorted(known))}",
        )
    side_of: dict[str, str] = {}
    for side, patients in sides.items():
        for patient in patients:
            if side_of.setdefault(patient, side) != side:
                raise ValueError(f"patient {patient!r} is named for {side_of[patient]} and for {side}")
    return side_of


def _assignment(samples: Sequence[Sample], side_of: Mapping[str, str], decided_by: DecidedBy) -> Assignment:
    splits, left_out, withheld = {}, set(), []
    for sample in samples:
        side = side_of.get(sample.patient)
        if sample.mask is None:
            if side in ("validation", "test"):
                withheld.append(sample.name)
            else:
                splits[sample.name] = UNLABELLED
        elif side is None:
            left_out.add(sample.patient)
        else:
            splits[sample.name] = side
    return Assignment(splits, decided_by, tuple(sorted(left_out)), tuple(withheld))


def _require(
    required: Collection[str],
    assignment: Assignment,
    samples: Sequence[Sample],
    split: AutoSplit | ColumnSplit | HashSplit | PatientSplit,
) -> None:
    empty = [side for side in SIDES if side in required and side not in assignment.splits.values()]
    if not empty:
        return
    n_patients = len({sample.patient for sample in samples if sample.mask is not None})
    if not n_patients:
        raise InputError(
            "no image has a mask: there is nothing to learn from or to judge by",
            advice="add masks (docs/data.md), or use the folder as data.unlabelled_uri",
        )
    have = _count(n_patients, "patient has", "patients have")
    sides = " and ".join(empty)
    advice = {
        "hash": "name patients for every side (data.split.kind patients), raise the side's share "
        "(data.split.validation, data.split.test), or add patients",
        "column": f"set the split of some patients to {sides} in annotations.json, "
        "or set data.split.kind to hash",
        "patients": "name patients that have a mask",
    }[assignment.decided_by]
    n_sides = len(set(required) & set(SIDES))
    if n_patients < n_sides:
        advice = (
            f"{_NUMBERS[n_sides]} patients with annotated images are needed, one for each side, and one "
            "more to train the reward network: add some; where the images are of several already, name the "
            "patient of each in annotations.json"
        )
    raise InputError(
        f"data.split ({split.kind}): no annotated image is left for {sides}: {have} annotated images",
        advice=advice,
    )


def _did_you_mean(patient: str, known: Collection[str]) -> str:
    meant = difflib.get_close_matches(patient, sorted(known), n=1)
    return f" (did you mean {meant[0]!r}?)" if meant else ""


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
