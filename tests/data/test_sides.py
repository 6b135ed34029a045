"""What `plan` says of a folder's sides."""

from pathlib import Path

import pytest

from job.data.sides import sides_in_words
from job.errors import InputError
from job.spec.data import AutoSplit, FoldSplit, PatientSplit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four annotated patients and an unlabelled one; the pictures hold nothing, and are not opened."""
    for folder, n in (("images", 5), ("masks", 4)):
        (tmp_path / folder).mkdir()
        for i in range(n):
            (tmp_path / folder / f"p{i}.png").touch()
    return tmp_path


def test_images_and_patients_of_each_side(folder: Path) -> None:
    """In the order of the sides; sides without images are not mentioned."""
    split = PatientSplit(kind="patients", train=["p0", "p1"], validation=["p2"], test=["p3"])
    words = "patients: 2 train, 1 validation, 1 test, 1 unlabelled images of 5 patients"
    assert sides_in_words(folder, split, seed=0) == words


def test_folds_are_dealt(folder: Path) -> None:
    """How many patients there are, and how many a fold tests."""
    for k, words in ((4, "each tested on 1, every"), (3, "each tested on 1 to 2, every")):
        told = sides_in_words(folder, FoldSplit(kind="folds", k=k), seed=0, trains_network=False)
        assert told == f"folds, k = {k} of 4 patients: as many runs, {words} patient once"


def test_what_would_end_the_run_is_raised(folder: Path) -> None:
    """An empty side, too few patients for the folds, a folder without images."""
    with pytest.raises(InputError, match="no annotated image is left for"):
        sides_in_words(folder, AutoSplit(validation=0.0, test=0.3), seed=0)
    with pytest.raises(InputError, match="a fold would be empty"):
        sides_in_words(folder, FoldSplit(kind="folds", k=5), seed=0)
    with pytest.raises(InputError, match="a fold would learn from one patient") as caught:
        sides_in_words(folder, FoldSplit(kind="folds", k=3), seed=0)
    assert "data.split.k to 4 or more" in caught.value.advice
    one = PatientSplit(kind="patients", train=["p0"], validation=["p2"], test=["p3"])
    with pytest.raises(InputError, match=r"training images of 1 patient: .* takes 2"):
        sides_in_words(folder, one, seed=0)
    assert "1 train" in sides_in_words(folder, one, seed=0, trains_network=False)
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        sides_in_words(folder / "empty", AutoSplit(), seed=0)
