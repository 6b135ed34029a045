"""Folds: every patient is tested once, by k runs that each learn without the fold they are tested on."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from job.data.samples import SIDES, Sample
from job.data.splits import FEWEST_TO_LEARN_FROM
from job.errors import InputError
from job.spec.data import PatientSplit


def deal(samples: Sequence[Sample], k: int, seed: int) -> list[PatientSplit]:
    """Deal the patients with annotated images into `k` folds and return the split of each fold's run.

    Run f is tested on fold f, chooses on fold f + 1 (the last on the first) and learns from the others. Folds
    hold about equal numbers of annotated images: patients with most come first, each to the fold that has
    fewest yet (Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 1969); a hash of seed
    and name orders those with equally many. Neither the order of the samples nor unlabelled images count.

    Raises `InputError` for fewer patients than folds, ValueError for fewer folds than sides.
    """
    if k < len(SIDES):
        raise ValueError(f"{k} folds leave nothing to learn from: one is tested on, one chosen on")
    images = Counter(sample.patient for sample in samples if sample.mask is not None)
    if len(images) < k:
        raise _too_few(len(images), k)
    folds: list[list[str]] = [[] for _ in range(k)]
    load = [0] * k
    for patient in sorted(images, key=lambda name: (-images[name], _shuffled(name, seed))):
        smallest = load.index(min(load))
        folds[smallest].append(patient)
        load[smallest] += images[patient]
    return [_run_of(folds, tested) for tested in range(k)]


def require_training_patients(dealt: Sequence[PatientSplit]) -> None:
    """Raise `InputError` where a fold has fewer training patients than training the reward network takes.

    That can only be with three folds: with four, each learns from two.
    """
    if all(len(one.train) >= FEWEST_TO_LEARN_FROM for one in dealt):
        return
    n_patients = sum(len(one.test) for one in dealt)
    advice = "add annotated patients, or set reward.network.epochs to 0"
    if n_patients > len(SIDES):
        advice = f"set data.split.k to {len(SIDES) + 1} or more, {advice}"
    raise InputError(
        f"data.split.k is {len(dealt)}, and {n_patients} patients have annotated images: a fold would"
        f" learn from one patient, and training the reward network takes {FEWEST_TO_LEARN_FROM}",
        advice=advice,
    )


def _run_of(folds: Sequence[Sequence[str]], tested: int) -> PatientSplit:
    chosen_on = (tested + 1) % len(folds)
    rest = [
        patient for f, patients in enumerate(folds) if f not in (tested, chosen_on) for patient in patients
    ]
    return PatientSplit(
        kind="patients", train=sorted(rest), validation=sorted(folds[chosen_on]), test=sorted(folds[tested])
    )


def _shuffled(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _too_few(n_patients: int, k: int) -> InputError:
    have = "patient has" if n_patients == 1 else "patients have"
    advice = f"set data.split.k to at most {n_patients}, or add annotated patients"
    if n_patients < len(SIDES):
        advice = f"{len(SIDES)} patients with annotated images are needed at least: add some"
    return InputError(
        f"data.split.k is {k}, but only {n_patients} {have} annotated images: a fold would be empty",
        advice=advice,
    )
