"""Fingerprints that copies keep and other pictures do not share; leaks between sides and nowhere else."""

import io
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from job.checks.result import Thresholds
from job.data import fundus
from job.data import leaks as leaks_module
from job.data.images import read_image
from job.data.leaks import find_copies, find_leaks, fingerprint
from job.data.samples import Sample
from job.errors import Interrupted
from job.spec.checks import ChecksSpec
from tests.questions import Questions

Image8 = NDArray[np.uint8]
THRESHOLD = Thresholds().max_image_similarity


def photograph(index: int, *, size: int = 128, seed: int = 5) -> Image8:
    return fundus.sample(index, seed=seed, size=size, annotation="by_clarity").image_HWC


def as_jpeg(image: Image8, quality: int) -> Image8:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def scaled(image: Image8, factor: float) -> Image8:
    height, width = image.shape[:2]
    size = round(width * factor), round(height * factor)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def levels(image: Image8, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Image8:
    return (255 * np.clip(change(image / 255), 0, 1)).round().astype(np.uint8)


def bordered(image: Image8) -> Image8:
    margin = len(image) // 10
    return np.pad(image, ((margin, 2 * margin), (0, margin), (0, 0)))


COPIES: dict[str, Callable[[Image8], Image8]] = {
    "JPEG 60": lambda image: as_jpeg(image, 60),
    "JPEG 90": lambda image: as_jpeg(image, 90),
    "half size": lambda image: scaled(image, 0.5),
    "double size": lambda image: scaled(image, 2),
    "half size, JPEG 60": lambda image: as_jpeg(scaled(image, 0.5), 60),
    "brighter": lambda image: levels(image, lambda x: 1.1 * x),
    "darker": lambda image: levels(image, lambda x: 0.9 * x),
    "contrast": lambda image: levels(image, lambda x: 1.2 * (x - 0.3) + 0.3),
    "gamma 0.8": lambda image: levels(image, lambda x: x**0.8),
    "gamma 1.25": lambda image: levels(image, lambda x: x**1.25),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "a quarter turn": lambda image: np.rot90(image),
    "mirrored and a quarter turn": lambda image: np.rot90(image[:, ::-1]),
    "bordered": bordered,
    "trimmed": lambda image: image[4:-4, 4:-4],
    "grey": lambda image: np.array(Image.fromarray(image).convert("L").convert("RGB")),
    "its green alone": lambda image: np.repeat(image[..., 1:2], 3, axis=2),
}


def likeness(one: Image8, two: Image8) -> float:
    """Measure two pictures as the job does, one of them held out."""
    pair = [Sample("one", "1", "train", Path("1")), Sample("two", "2", "test", Path("2"))]
    leaks = find_leaks(pair, np.stack([fingerprint(one), fingerprint(two)]))
    return leaks[0].similarity if leaks else 0.0


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_is_told_by_a_margin(copied: Callable[[Image8], Image8]) -> None:
    """Every copy of six synthetic photographs stays well above the threshold."""
    for index in range(6):
        original = photograph(index)
        assert likeness(original, copied(original)) > THRESHOLD + 0.07


def test_other_pictures_stay_below_by_a_margin() -> None:
    """Among 100 synthetic photographs no two come near the threshold."""
    prints_ND = np.stack([fingerprint(photograph(index, size=64)) for index in range(100)])
    assert not list(find_copies(prints_ND, THRESHOLD - 0.15))


def test_real_photographs(chase_db1: Path) -> None:
    """Of 28 real photographs, two eyes a child, none resembles another; copies of each resemble it."""
    photographs = [read_image(path) for path in sorted((chase_db1 / "images").iterdir())]
    prints_ND = np.stack([fingerprint(image) for image in photographs])
    assert len(photographs) == 28
    assert not list(find_copies(prints_ND, THRESHOLD - 0.2))
    for image in photographs[::7]:
        for copied in COPIES.values():
            assert likeness(image, copied(image)) > THRESHOLD + 0.07


def test_a_stop_is_noticed_between_blocks_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of pictures against thousands take minutes; the size of a block changes nothing."""
    prints_ND = np.stack([fingerprint(photograph(index, size=64)) for index in range(6)])
    sides = ["train"] * 3 + ["test"] * 3
    made = [Sample(str(i), str(i), side, Path(str(i))) for i, side in enumerate(sides)]
    questions = Questions()
    whole = find_leaks(made, prints_ND, progress=questions)
    assert questions.asked == 3
    monkeypatch.setattr(leaks_module, "_BLOCK", 1)
    questions = Questions()
    assert find_leaks(made, prints_ND, progress=questions) == whole
    assert questions.asked == 3 + 2 + 2
    with pytest.raises(Interrupted):
        find_leaks(made, prints_ND, progress=Questions(stop_at=5))


def test_likeness_is_the_cosine_of_the_better_of_eight_positions() -> None:
    """Recomputed pair by pair in double precision, with the positions written out."""
    prints_ND = np.stack([fingerprint(photograph(index, size=64)) for index in range(6)])
    sides = ["train"] * 3 + ["validation"] * 3
    made = [Sample(str(i), side, side, Path(str(i))) for i, side in enumerate(sides)]
    found = {leak.held_out: (leak.seen, leak.similarity) for leak in find_leaks(made, prints_ND)}
    grids = prints_ND.astype(np.float64).reshape(6, 48, 48)
    assert np.linalg.norm(grids, axis=(1, 2)) == pytest.approx(1, abs=1e-5)
    for held_out in range(3, 6):
        g = grids[held_out]
        turns = [g, g[::-1], g[:, ::-1], g[::-1, ::-1]]
        cosines = [max((t * grids[i]).sum() for p in turns for t in (p, p.T)) for i in range(3)]
        seen, similarity = found[str(held_out)]
        assert int(seen) == int(np.argmax(cosines))
        assert similarity == pytest.approx(max(cosines), abs=1e-3)


@pytest.mark.parametrize("colour", [0, 90, 255])
def test_a_picture_of_one_colour_resembles_nothing(colour: int) -> None:
    """Black frames in two splits are bad data, but no leak."""
    blank = np.full((64, 80, 3), colour, np.uint8)
    assert not fingerprint(blank).any()
    assert likeness(blank, blank) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (64, 1000)])
def test_pictures_of_any_shape_have_a_fingerprint(shape: tuple[int, int]) -> None:
    """A unit vector or zero, whatever the proportions."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    norm = np.linalg.norm(fingerprint(image))
    assert norm == pytest.approx(1, abs=1e-5) or norm == 0


def test_bright_lines_on_black_are_compared() -> None:
    """Where no field of view can be made out, the whole frame counts: fluorescence is known again too."""
    pictures = []
    for seed in range(6):
        image = np.zeros((160, 200, 3), np.uint8)
        for start, end in np.random.default_rng(seed).integers(0, 160, (12, 2, 2)):
            along = np.linspace(start, end, 400).round().astype(int)
            image[along[:, 0], along[:, 1]] = 255
        pictures.append(ndimage.gaussian_filter(image, (1, 1, 0)))
    assert not list(find_copies(np.stack([fingerprint(image) for image in pictures]), THRESHOLD))
    for image in pictures:
        for copied in (as_jpeg(image, 90), scaled(image, 2), image[::-1], levels(image, lambda x: 0.9 * x)):
            assert likeness(image, copied) > THRESHOLD + 0.07


SIDES = ("train", "unlabelled", "validation", "test", "other:a", "other:b")


def test_leaks_are_what_was_seen_earlier() -> None:
    """With one picture everywhere, each side leaks from every side before it, and from none beside it."""
    made = [Sample(side, side, side, Path(side)) for side in SIDES]
    leaks = find_leaks(made, np.stack([fingerprint(photograph(0))] * len(made)))
    pairs = {(leak.held_out_split, leak.seen_split) for leak in leaks}
    learned = {("validation", "train"), ("validation", "unlabelled")}
    judged = {
        (j, seen) for j in ("test", "other:a", "other:b") for seen in ("train", "unlabelled", "validation")
    }
    assert pairs == learned | judged
    assert len(leaks) == len(pairs)
    assert {(leak.held_out, leak.seen) for leak in leaks} == pairs


def test_each_held_out_picture_is_paired_with_its_copy() -> None:
    """Copies among others are found in whatever block they fall, most alike first; the threshold cuts."""
    rng = np.random.default_rng(1)
    prints_ND = rng.normal(size=(900, 2304)).astype(np.float32)
    prints_ND /= np.linalg.norm(prints_ND, axis=1, keepdims=True)
    prints_ND[850] = prints_ND[3]
    prints_ND[600] = prints_ND[590] = prints_ND[4].reshape(48, 48)[::-1].ravel()
    sides = ["train" if i < 500 else "test" for i in range(900)]
    made = [Sample(f"n{i}", side, side, Path(str(i))) for i, side in enumerate(sides)]
    found = [astuple(leak) for leak in find_leaks(made, prints_ND, THRESHOLD)]
    assert found == [
        ("n590", "test", "n4", "train", 1.0),
        ("n600", "test", "n4", "train", 1.0),
        ("n850", "test", "n3", "train", 1.0),
    ]
    every = find_leaks(made, prints_ND)
    assert len(every) == 400
    assert [leak.similarity for leak in every] == sorted((leak.similarity for leak in every), reverse=True)


def test_copies_are_paired_with_the_first() -> None:
    """Three of a kind, apart by more than a block: both copies name the first."""
    prints_ND = np.random.default_rng(2).normal(size=(600, 2304)).astype(np.float32)
    prints_ND /= np.linalg.norm(prints_ND, axis=1, keepdims=True)
    prints_ND[20] = prints_ND[599] = prints_ND[7]
    assert list(find_copies(prints_ND, THRESHOLD)) == [(7, 20), (7, 599)]


def test_nothing_to_compare() -> None:
    """Samples that no split names, or one side alone, leak nowhere."""
    made = [Sample("a", "1", None, Path("a")), Sample("b", "2", "test", Path("b"))]
    assert find_leaks(made, np.stack([fingerprint(photograph(0))] * 2)) == []
    assert list(find_copies(np.zeros((0, 2304), np.float32), THRESHOLD)) == []


def test_one_threshold() -> None:
    """The spec's default is the one that `dataset check` uses and that these tests have margins to."""
    assert ChecksSpec().max_image_similarity == THRESHOLD


def test_one_photograph_under_many_names_within_a_split_is_a_leak() -> None:
    """Two patients of the test split who share a picture are found; two pictures of one patient are not."""
    rng = np.random.default_rng(5)
    pictures = [photograph_like(rng) for _ in range(3)]
    rows = [("a", 0), ("b", 1), ("c", 0), ("b", 1), ("d", 2)]
    samples = [Sample(f"t{i}", patient, "test", Path("x.png")) for i, (patient, _) in enumerate(rows)]
    prints = np.stack([fingerprint(pictures[picture]) for _, picture in rows])
    found = [leak for leak in find_leaks(samples, prints) if leak.similarity > 0.9]
    assert [(leak.held_out, leak.seen) for leak in found] == [("t2", "t0")]
    assert found[0].held_out_split == found[0].seen_split == "test"


def photograph_like(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return smooth noise in a bright disk."""
    noise = ndimage.gaussian_filter(rng.standard_normal((128, 128, 3)), (2, 2, 0)) * 300 + 120
    y, x = np.ogrid[:128, :128]
    inside = np.hypot(y - 63.5, x - 63.5) < 60
    return np.where(inside[..., None], np.clip(noise, 40, 255), 0).astype(np.uint8)
