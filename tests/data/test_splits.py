"""Sides by column, hash and name: no patient on two, none empty."""

import hashlib
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from job.data.samples import SIDES, Sample
from job.data.splits import assign, by_hash, by_patients
from job.errors import InputError
from job.spec.data import AutoSplit, ColumnSplit, DataSpec, FoldSplit, HashSplit, PatientSplit

PATIENTS = st.sets(st.text(min_size=1, max_size=8), max_size=60)
SHARES = st.tuples(st.floats(0, 0.49), st.floats(0, 0.49))


def samples(*rows: str, labelled: bool = True) -> list[Sample]:
    """Each row is `name:patient:split`, the last part optional."""
    parts = [[*row.split(":"), ""] for row in rows]
    mask = Path("mask.png") if labelled else None
    return [Sample(name, patient, split or None, Path(name), mask) for name, patient, split, *_ in parts]


@given(PATIENTS, PATIENTS, SHARES)
def test_hash_is_stable_as_data_grow(patients: set[str], more: set[str], shares: tuple[float, float]) -> None:
    """Adding patients never moves one that was there."""
    validation, test = shares
    before = by_hash(patients, validation=validation, test=test)
    after = by_hash(patients | more, validation=validation, test=test)
    assert {patient: after[patient] for patient in patients} == before


@given(PATIENTS, SHARES)
def test_hash_is_what_the_manual_says(patients: set[str], shares: tuple[float, float]) -> None:
    """The side follows from sha256 of the patient's name, recomputed here with exact fractions."""
    validation, test = shares
    for patient, side in by_hash(patients, validation=validation, test=test).items():
        position = Fraction(int(hashlib.sha256(patient.encode()).hexdigest()[:16], 16), 2**64)
        below = [position < Fraction(test), position < Fraction(test + validation), True]
        # A float holds 53 bits of the hash: at a border of that width either side is right.
        near = min(abs(position - Fraction(test)), abs(position - Fraction(test + validation))) < Fraction(
            1, 2**52
        )
        assert near or side == ("test", "validation", "train")[below.index(True)]


@given(PATIENTS, st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_larger_test_share_only_adds(
    patients: set[str], validation: float, test: float, more: float
) -> None:
    """Raising the test share keeps every test patient: none moves to where it is learned from."""
    small = by_hash(patients, validation=validation, test=test)
    large = by_hash(patients, validation=validation, test=test + more)
    assert {p for p in small if small[p] == "test"} <= {p for p in large if large[p] == "test"}


def test_hash_shares_are_met_on_average() -> None:
    """Of 10,000 patients the shares fall within five standard deviations of what was asked."""
    sides = list(by_hash([f"patient {i}" for i in range(10_000)], validation=0.2, test=0.3).values())
    for side, share in (("validation", 0.2), ("test", 0.3), ("train", 0.5)):
        assert abs(sides.count(side) / 10_000 - share) < 5 * (share * (1 - share) / 10_000) ** 0.5


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=80))
def test_no_patient_is_on_two_sides(rows: list[tuple[int, bool]]) -> None:
    """Whatever images a patient has, annotated or not, they are on one side or unlabelled in training."""
    made = [s for i, (p, has) in enumerate(rows) for s in samples(f"i{i}:{p}", labelled=has)]
    assignment = assign(made, HashSplit(kind="hash"), required=())
    held_out: dict[str, set[str]] = {}
    for sample in assignment.apply(made):
        learned = "train" if sample.split == "unlabelled" else sample.split
        held_out.setdefault(sample.patient, set()).add(str(learned))
    assert all(len(sides) == 1 for sides in held_out.values())
    assert set(assignment.splits) | set(assignment.withheld) == {sample.name for sample in made}


def test_column() -> None:
    """The column decides, unlabelled images stay unlabelled, and the samples carry their side on."""
    made = samples("a:1:train", "b:2:validation", "c:3:test") + samples("d:4", labelled=False)
    assignment = assign(made, ColumnSplit(kind="column"))
    assert assignment.splits == {"a": "train", "b": "validation", "c": "test", "d": "unlabelled"}
    assert assignment.decided_by == "column"
    assert [s.split for s in assignment.apply(made)] == ["train", "validation", "test", "unlabelled"]


def test_column_with_a_torn_patient() -> None:
    """A patient on two sides is a leak and is named."""
    made = samples("a:1:train", "b:2:validation", "c:1:test")
    with pytest.raises(InputError, match=r"1 patient is on two sides: 1 \(test, train\)"):
        assign(made, ColumnSplit(kind="column"))


def test_column_with_gaps() -> None:
    """An annotated image without a split is named when the column must decide."""
    made = samples("a:1:train", "b:2:validation", "c:3:test", "d:4")
    with pytest.raises(InputError, match=r"1 of 4 annotated images have no split: d") as caught:
        assign(made, ColumnSplit(kind="column"))
    assert "hash" in caught.value.advice


def test_auto_takes_the_column_only_when_it_is_full() -> None:
    """With one gap among annotated images the hash decides for all; unlabelled images leave no gap."""
    full = samples(*(f"n{i}:{i}:{SIDES[i % 3]}" for i in range(30))) + samples("u:u", labelled=False)
    gap = full[:-1] + samples("x:x")
    assert assign(full, AutoSplit()).decided_by == "column"
    by_gap = assign(gap, AutoSplit())
    assert by_gap.decided_by == "hash"
    assert by_gap.splits == assign(gap, HashSplit(kind="hash")).splits


def test_unlabelled_images_of_held_out_patients_are_withheld() -> None:
    """An unlabelled image of a test or validation patient is not learned from; a training patient's is."""
    made = samples("a:1:train", "b:2:validation", "c:3:test")
    made += samples("d:1", "e:2", "f:3", "g:new", labelled=False)
    assignment = assign(made, AutoSplit())
    assert assignment.withheld == ("e", "f")
    assert [s.name for s in assignment.apply(made)] == ["a", "b", "c", "d", "g"]


def test_named_patients() -> None:
    """Named patients go where the spec says; the others are left out and returned for the log."""
    made = samples(*(f"{i}{eye}:{i}" for i in range(6) for eye in "LR"))
    split = PatientSplit(kind="patients", train=["0", "1"], validation=["2"], test=["4"])
    assignment = assign(made, split)
    assert assignment.left_out_patients == ("3", "5")
    assert {name for name, side in assignment.splits.items() if side == "train"} == {"0L", "0R", "1L", "1R"}
    assert len(assignment.apply(made)) == 8


def test_unknown_patients_are_named_with_a_guess() -> None:
    """A patient that the data set lacks is an error with its place and a likely meaning."""
    made = samples("a:child_01", "b:child_02", "c:child_03")
    split = PatientSplit(kind="patients", train=["child_1"], validation=["child_02"], test=["child_03", "z"])
    with pytest.raises(InputError, match=r"2 patients are not in the data set") as caught:
        assign(made, split)
    assert "data.split.train: 'child_1' (did you mean 'child_01'?)" in str(caught.value)
    assert "data.split.test: 'z'" in str(caught.value)


def test_patient_named_on_two_sides() -> None:
    """One patient cannot be put on two sides."""
    made = samples("a:1", "b:2", "c:3")
    with pytest.raises(ValueError, match=r"patient '2' is named for train and for validation"):
        by_patients(made, train=["1", "2"], validation=["2"], test=["3"])


def test_an_empty_side_says_which_and_what_to_do() -> None:
    """A side that the hash leaves empty ends with its name, the number of patients, and a way out."""
    side = by_hash(["1", "2", "3"], validation=0.0, test=0.3)
    lacking = [name for name in SIDES if name not in side.values()]
    assert "validation" in lacking
    with pytest.raises(
        InputError, match=rf"{' and '.join(lacking)}: 3 patients have annotated images"
    ) as caught:
        assign(samples("a:1", "b:2", "c:3"), AutoSplit(validation=0.0, test=0.3))
    assert "data.split.kind patients" in caught.value.advice


@pytest.mark.parametrize("split", [AutoSplit(), ColumnSplit(kind="column"), HashSplit(kind="hash")])
def test_too_few_patients_for_the_sides(split: AutoSplit | ColumnSplit | HashSplit) -> None:
    """With fewer patients than sides no split helps, and the advice says how many are needed."""
    with pytest.raises(InputError, match="1 patient has annotated images") as caught:
        assign(samples("a:1:train", "b:1:train"), split)
    assert "three patients with annotated images are needed" in caught.value.advice


@pytest.mark.parametrize("split", [AutoSplit(), ColumnSplit(kind="column"), HashSplit(kind="hash")])
def test_no_mask_at_all_is_told_as_such(split: AutoSplit | ColumnSplit | HashSplit) -> None:
    """Images without a single mask are no matter of splits."""
    with pytest.raises(InputError, match="no image has a mask") as caught:
        assign(samples("a:1", "b:2", "c:3", labelled=False), split)
    assert "split" not in caught.value.advice


def test_folds_are_dealt_before() -> None:
    """A run of folds has no sides of its own: taking it for one is a mistake of the program."""
    with pytest.raises(AssertionError, match="deal the folds first"):
        assign(samples("a:1", "b:2", "c:3"), FoldSplit(kind="folds", k=3))


def test_synthetic_images_have_no_folds() -> None:
    """They come with their split; a dataset folder may be dealt into folds."""
    folds = {"kind": "folds", "k": 4}
    with pytest.raises(ValidationError, match="folds need a dataset folder"):
        DataSpec.model_validate({"split": folds})
    assert DataSpec.model_validate({"uri": "folder", "split": folds}).split == FoldSplit(kind="folds", k=4)


def test_only_required_sides_must_hold_someone() -> None:
    """Judging a finished candidate needs test images alone."""
    made = samples("a:1:test")
    assert assign(made, AutoSplit(), required=["test"]).splits == {"a": "test"}
    with pytest.raises(InputError, match="train and validation"):
        assign(made, AutoSplit())


def test_shares_must_leave_training_images() -> None:
    """Shares that sum to the whole are refused with both numbers."""
    with pytest.raises(ValueError, match=r"validation 0\.5 and test 0\.5"):
        by_hash(["1"], validation=0.5, test=0.5)
