"""Folds: every annotated patient is tested once, and learned from in all runs but two."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.data.dataset import read_folder
from job.data.folds import deal, require_training_patients
from job.data.samples import Sample
from job.data.splits import assign
from job.errors import InputError

IMAGES_OF_PATIENTS = st.lists(st.integers(1, 9), min_size=3, max_size=40)


def samples(images_of: list[int], *, unlabelled: int = 0) -> list[Sample]:
    """Make patients p0, p1, ... with the given numbers of annotated images, and some without."""
    annotated = [
        Sample(f"p{p}_{i}", f"p{p}", None, Path("i.png"), Path("m.png"))
        for p, n in enumerate(images_of)
        for i in range(n)
    ]
    return annotated + [Sample(f"u{i}", f"u{i}", None, Path("i.png")) for i in range(unlabelled)]


@given(IMAGES_OF_PATIENTS, st.integers(3, 12), st.integers(0, 2**31 - 1))
def test_every_patient_is_tested_once_and_chosen_on_once(images_of: list[int], k: int, seed: int) -> None:
    """Over all runs each patient is a test patient once and a validation patient once, and in no run both."""
    k = min(k, len(images_of))
    made = samples(images_of, unlabelled=2)
    patients = {f"p{p}" for p in range(len(images_of))}
    splits = deal(made, k, seed)
    assert len(splits) == k
    for side in ("test", "validation"):
        assert Counter(p for split in splits for p in getattr(split, side)) == Counter(patients)
    for f, split in enumerate(splits):
        assert split.validation == splits[(f + 1) % k].test
        assert sorted(split.train + split.validation + split.test) == sorted(patients)
        assert not assign(made, split).left_out_patients


@given(IMAGES_OF_PATIENTS, st.integers(3, 12), st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_count(
    images_of: list[int], k: int, seed: int, shuffler: random.Random
) -> None:
    """A folder that is listed in another order gives the same folds."""
    k = min(k, len(images_of))
    made = samples(images_of)
    mixed = shuffler.sample(made, len(made))
    assert deal(mixed, k, seed) == deal(made, k, seed)


@given(IMAGES_OF_PATIENTS, st.integers(3, 12), st.integers(0, 99))
def test_folds_hold_about_equal_numbers_of_images(images_of: list[int], k: int, seed: int) -> None:
    """The largest and the smallest fold differ by no more than the images of one patient."""
    k = min(k, len(images_of))
    tested = [sum(images_of[int(p[1:])] for p in split.test) for split in deal(samples(images_of), k, seed)]
    assert max(tested) - min(tested) <= max(images_of)


def test_the_seed_deals_anew() -> None:
    """Twenty patients are grouped otherwise by nearly every seed."""
    made = samples([2] * 20)
    dealt = {tuple(tuple(split.test) for split in deal(made, 5, seed)) for seed in range(10)}
    assert len(dealt) == 10


@pytest.mark.parametrize(("n", "advice"), [(4, "at most 4"), (2, "3 patients"), (0, "3 patients")])
def test_fewer_patients_than_folds(n: int, advice: str) -> None:
    """Unlabelled patients fill no fold, and the advice says what k would do, if any does."""
    with pytest.raises(InputError, match=rf"data\.split\.k is 5, but only {n} patients have") as caught:
        deal(samples([3] * n, unlabelled=9), 5, 0)
    assert advice in caught.value.advice


@pytest.mark.parametrize(("n", "k", "is_enough"), [(3, 3, False), (5, 3, False), (6, 3, True), (4, 4, True)])
def test_a_fold_learns_from_two_patients_to_train_a_network(n: int, k: int, is_enough: bool) -> None:
    """With three folds of less than two patients each one learns from a single patient; with four never."""
    dealt = deal(samples([1] * n), k, 0)
    if is_enough:
        require_training_patients(dealt)
    else:
        with pytest.raises(InputError, match="would learn from one patient"):
            require_training_patients(dealt)
    assert (min(len(one.train) for one in dealt) > 1) is is_enough


def test_two_folds_leave_nothing_to_learn_from() -> None:
    """One is tested on, the other chosen on."""
    with pytest.raises(ValueError, match="2 folds"):
        deal(samples([1] * 5), 2, 0)


def test_chase_db1_in_seven_folds(chase_db1: Path) -> None:
    """Fourteen children, two in each fold, both eyes on one side."""
    found = read_folder(chase_db1)
    for split in deal(found, 7, 0):
        counted = Counter(sample.split for sample in assign(found, split).apply(found))
        assert counted == {"train": 20, "validation": 4, "test": 4}
