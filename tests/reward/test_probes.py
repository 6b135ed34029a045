"""Probes: what masks are made, what they are truly worth, and that judges are told apart."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from skimage import morphology

from job.data.fundus import sample
from job.errors import Interrupted
from job.metrics import overlap
from job.reward.network import NetworkJudge
from job.reward.network_file import load_embedded
from job.reward.probes import Probe, probe, swap_effect
from tests.questions import Questions

N_PROBES = 14


@pytest.fixture(scope="module")
def pictures() -> list:
    """Six synthetic photographs with their vessels."""
    return [sample(index, seed=21, size=96) for index in range(6)]


@pytest.fixture(scope="module")
def images(pictures: list) -> list[np.ndarray]:
    return [picture.image_HWC for picture in pictures]


@pytest.fixture(scope="module")
def truths(pictures: list) -> list[np.ndarray]:
    return [picture.mask_HW for picture in pictures]


def knowing(truths: list[np.ndarray]) -> Callable:
    """A judge of each image that knows its truth."""
    return lambda i: lambda image, masks: overlap.dice(overlap.confusion(masks, truths[i]))


def size_judge(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """A judge that looks at the mask alone: the larger, the better."""
    return masks.mean(axis=(1, 2))


def by_kind(probes: list[Probe]) -> dict[tuple[str, float], Probe]:
    return {(one.kind, one.amount): one for one in probes}


def test_a_judge_that_knows_the_truth_is_right_about_every_probe(images: list, truths: list) -> None:
    """Predicted equals true, each kind and amount stands once, over all images."""
    probes = probe(knowing(truths), images, truths, seed=0)
    assert len(by_kind(probes)) == len(probes) == N_PROBES
    for one in probes:
        assert one.predicted == pytest.approx(one.true, abs=1e-12)
        assert one.n == len(images)
    found = by_kind(probes)
    assert found["truth", 0].true == 1
    assert found["empty", 0].true == 0
    assert found["full", 0].true == pytest.approx(np.mean([2 * t.mean() / (1 + t.mean()) for t in truths]))


def test_a_stop_is_noticed_between_images(images: list, truths: list) -> None:
    """Masks of large photographs take seconds each to make and to judge."""
    questions = Questions()
    probe(knowing(truths), images, truths, seed=0, progress=questions)
    swap_effect(lambda i: size_judge, images, lambda i: truths[i][None], progress=questions)
    assert questions.asked == 2 * len(images)
    with pytest.raises(Interrupted):
        probe(knowing(truths), images, truths, seed=0, progress=Questions(stop_at=2))


def test_true_dice_is_of_the_masks_that_scikit_image_makes(images: list, truths: list) -> None:
    """Disks of scikit-image's morphology give the same dilations and erosions, its skeleton the same Dice."""

    def mean_dice(change: Callable) -> float:
        masks = [change(truth) for truth in truths]
        return float(
            np.mean([2 * (m & t).sum() / (m.sum() + t.sum()) for m, t in zip(masks, truths, strict=True)])
        )

    found = by_kind(probe(knowing(truths), images, truths, seed=0))
    for radius in (1, 2, 3, 4):
        disk = morphology.disk(radius)
        assert found["dilation", radius].true == pytest.approx(
            mean_dice(lambda t, disk=disk: morphology.dilation(t, disk))
        )
    for radius in (1, 2):
        disk = morphology.disk(radius)
        assert found["erosion", radius].true == pytest.approx(
            mean_dice(lambda t, disk=disk: morphology.erosion(t, disk, mode="max"))
        )
    assert found["skeleton", 0].true == pytest.approx(mean_dice(morphology.skeletonize))


def test_more_of_a_fault_is_worth_less(images: list, truths: list) -> None:
    """True Dice falls with the radius and with the number of specks."""
    found = by_kind(probe(knowing(truths), images, truths, seed=0))
    for kind, amounts in (("dilation", (1, 2, 3, 4)), ("erosion", (1, 2)), ("islands", (10, 50, 200))):
        trues = [1.0, *(found[kind, amount].true for amount in amounts)]
        assert all(more < less for less, more in pairwise(trues)), (kind, trues)


def test_lengths_grow_with_the_image(images: list, truths: list) -> None:
    """A radius on an image of twice 128 px is twice as many pixels: Dice stays what it was."""
    large = [np.kron(truth, np.ones((3, 3), dtype=bool)) for truth in truths]
    pictures = [np.kron(image, np.ones((3, 3, 1), dtype=np.uint8)) for image in images]
    found = by_kind(probe(knowing(large), pictures, large, seed=0))
    dilated = [morphology.dilation(truth, morphology.disk(2)) for truth in large]
    expected = [2 * t.sum() / (t.sum() + d.sum()) for t, d in zip(large, dilated, strict=True)]
    assert found["dilation", 1].true == pytest.approx(np.mean(expected))


def test_a_judge_of_size_is_caught_by_the_full_mask(images: list, truths: list) -> None:
    """It likes the full mask best, which is worth little."""
    found = by_kind(probe(lambda i: size_judge, images, truths, seed=0))
    assert max(found.values(), key=lambda one: one.predicted).kind == "full"
    assert found["full", 0].predicted == 1
    assert found["full", 0].true < 0.3


def test_the_embedded_network_is_not_fooled_by_the_coarsest_probes(images: list, truths: list) -> None:
    """The truth scores above empty, full, and another image's truth."""
    judge = NetworkJudge([load_embedded()])
    found = by_kind(probe(lambda i: judge, images, truths, seed=0))
    for kind in ("empty", "full", "swapped image"):
        assert found[kind, 0].predicted + 0.3 < found["truth", 0].predicted


def test_at_most_so_many_images_spread_over_all_are_judged(images: list, truths: list) -> None:
    """Each by its own judge, once; the first and the last are among them."""
    asked: list[int] = []

    def judge_of(i: int) -> Callable:
        asked.append(i)
        return size_judge

    probes = probe(judge_of, images, truths, seed=0, most=3)
    assert {one.n for one in probes} == {3}
    assert len(asked) == 3
    assert {asked[0], asked[-1]} == {0, len(images) - 1}


def test_equal_seeds_give_equal_probes(images: list, truths: list) -> None:
    """Specks lie where the seed says."""
    first, again, other = (probe(knowing(truths), images, truths, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert by_kind(first)["islands", 50] != by_kind(other)["islands", 50]


def test_images_of_several_sizes_and_odd_truths(images: list, truths: list) -> None:
    """Swapped masks are resized; empty and full truths, and a lone image, have probes too."""
    odd = [np.zeros((40, 56), dtype=bool), np.ones((33, 17), dtype=bool)]
    pictures = [np.zeros((*truth.shape, 3), dtype=np.uint8) for truth in odd]
    probes = probe(knowing(odd), pictures, odd, seed=0)
    assert len(probes) == N_PROBES
    assert by_kind(probes)["erosion", 2].true == 1, "nothing to erode in either"
    alone = probe(knowing(truths), images[:1], truths[:1], seed=0)
    assert "swapped image" not in {one.kind for one in alone}
    assert len(alone) == N_PROBES - 1


def test_images_need_their_truths(images: list, truths: list) -> None:
    """No image, or one without a truth, is a mistake of the caller."""
    with pytest.raises(ValueError, match="truth each"):
        probe(lambda i: size_judge, images, truths[:2], seed=0)
    with pytest.raises(ValueError, match="truth each"):
        probe(lambda i: size_judge, [], [], seed=0)


def test_a_swap_moves_the_network_and_not_a_judge_of_masks(images: list, truths: list) -> None:
    """Scores of masks fall with another image for the network, and stay for a judge that ignores images."""

    def masks_of(i: int) -> np.ndarray:
        return np.stack([truths[i], morphology.dilation(truths[i], morphology.disk(1))])

    network = NetworkJudge([load_embedded()])
    own, swapped = swap_effect(lambda i: network, images, masks_of)
    assert own.shape == swapped.shape == (2 * len(images),)
    assert (own - swapped).mean() > 0.2
    own, swapped = swap_effect(lambda i: size_judge, images, masks_of)
    np.testing.assert_array_equal(own, swapped)


def test_a_swap_shows_the_same_masks_with_another_image_of_the_same_size() -> None:
    """The judge of an image gets a few of its masks twice: with its own image, and with a resized other."""
    images = [np.full((20 + i, 30, 3), i, dtype=np.uint8) for i in range(5)]
    masks = [np.random.default_rng(i).random((40, 20 + i, 30)) < 0.5 for i in range(5)]
    seen: dict[int, list[tuple[int, np.ndarray]]] = {}

    def judge_of(i: int) -> Callable:
        def judge(image: np.ndarray, masks_BHW: np.ndarray) -> np.ndarray:
            assert image.shape[:2] == masks_BHW.shape[1:]
            seen.setdefault(i, []).append((int(image[0, 0, 0]), masks_BHW))
            return np.zeros(len(masks_BHW))

        return judge

    own, _ = swap_effect(judge_of, images, lambda i: masks[i], most=4)
    assert len(seen) == 4
    assert len(own) == sum(len(calls[0][1]) for calls in seen.values())
    for i, ((first, shown), (second, shown_again)) in seen.items():
        assert first == i != second
        np.testing.assert_array_equal(shown, shown_again)
        assert 1 < len(shown) < 40


@pytest.mark.parametrize(("n", "most"), [(1, 16), (5, 1), (0, 16)])
def test_one_image_cannot_be_swapped(n: int, most: int) -> None:
    """An image swapped with itself would say that the network ignores images."""
    images = [np.zeros((8, 8, 3), dtype=np.uint8)] * n
    with pytest.raises(ValueError, match="two images"):
        swap_effect(lambda i: size_judge, images, lambda i: np.zeros((1, 8, 8), dtype=bool), most=most)
