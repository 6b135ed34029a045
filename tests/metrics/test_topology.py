from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from skimage import measure, morphology

from job.metrics.overlap import confusion, dice
from job.metrics.topology import betti_errors, betti_numbers, cldice

masks = st.tuples(st.integers(1, 10), st.integers(1, 10)).flatmap(lambda shape: hnp.arrays(np.bool_, shape))


def _count_components(mask_HW, neighbours):
    """Count components by flood fill, pixel by pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask_HW)}
    count = 0
    while left:
        count += 1
        queue = deque([left.pop()])
        while queue:
            y, x = queue.popleft()
            reached = {(y + dy, x + dx) for dy, dx in neighbours} & left
            left -= reached
            queue.extend(reached)
    return count


FOUR = [(0, 1), (1, 0), (0, -1), (-1, 0)]
EIGHT = [*FOUR, (1, 1), (1, -1), (-1, 1), (-1, -1)]


@settings(deadline=None)
@given(masks)
def test_betti_numbers_equal_a_flood_fill(mask_HW):
    """b0 counts 8-connected foreground, b1 the 4-connected background pieces off the border."""
    outside_and_holes = _count_components(~np.pad(mask_HW, 1), FOUR)
    assert betti_numbers(mask_HW) == (_count_components(mask_HW, EIGHT), outside_and_holes - 1)


@settings(deadline=None)
@given(masks)
def test_betti_numbers_differ_by_the_euler_number(mask_HW):
    """b0 - b1 is scikit-image's Euler number and b0 its number of labels."""
    b0, b1 = betti_numbers(mask_HW)
    assert b0 - b1 == measure.euler_number(mask_HW, connectivity=2)
    assert b0 == measure.label(mask_HW, connectivity=2).max()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["..."], (0, 0)),
        (["#"], (1, 0)),
        (["##", "##"], (1, 0)),
        (["#.", ".#"], (1, 0)),
        ([".#.", "#.#", ".#."], (1, 1)),
        (["###.#", "#.#..", "###.#"], (3, 1)),
        (["#####", "#.#.#", "#####"], (1, 2)),
        (["##", "#.", "##"], (1, 0)),
    ],
    ids=["empty", "pixel", "full", "diagonal", "diamond", "ring-and-dots", "eight", "bay-at-border"],
)
def test_betti_numbers_of_shapes_known_by_sight(rows, expected):
    """A ring has a hole, a diagonal is one piece, a bay that opens at the border is no hole."""
    assert betti_numbers(np.array([[c == "#" for c in row] for row in rows])) == expected


def test_betti_errors_are_absolute_differences_per_mask():
    """Missing and surplus components and holes count alike."""
    ring = np.pad(np.ones((3, 3), bool), 1)
    ring[2, 2] = False
    broken = ring.copy()
    broken[1, 2] = broken[3, 2] = False
    b0_error, b1_error = betti_errors(np.stack([ring, broken, np.zeros_like(ring)]), ring)
    assert b0_error.tolist() == [0, 1, 1]
    assert b1_error.tolist() == [0, 1, 1]
    assert b0_error.dtype == b1_error.dtype == np.int64


def test_cldice_equals_its_definition_on_sets_of_pixels():
    """clDice is the harmonic mean of the skeletons' shares, recomputed with sets."""
    rng = np.random.default_rng(2)
    smooth = morphology.isotropic_dilation(rng.random((40, 50)) < 0.02, 3)
    masks_BHW = np.stack([smooth ^ (rng.random(smooth.shape) < flip) for flip in (0.0, 0.02, 0.1, 0.4)])
    truth_HW = np.roll(smooth, 2, axis=1)

    def pixels(mask_HW):
        return set(map(tuple, np.argwhere(mask_HW)))

    for mask_HW, got in zip(masks_BHW, cldice(masks_BHW, truth_HW), strict=True):
        skeleton, truth_skeleton = (pixels(morphology.skeletonize(m)) for m in (mask_HW, truth_HW))
        topology_precision = len(skeleton & pixels(truth_HW)) / len(skeleton)
        topology_sensitivity = len(truth_skeleton & pixels(mask_HW)) / len(truth_skeleton)
        assert got == pytest.approx(2 / (1 / topology_precision + 1 / topology_sensitivity))


@pytest.mark.parametrize("shift", [0, 3, 20])
def test_cldice_of_one_pixel_lines_is_dice(shift):
    """A straight line of one pixel is its own skeleton, so that clDice and Dice agree."""
    truth_HW = np.zeros((9, 40), bool)
    truth_HW[4, 5:20] = True
    mask_HW = np.roll(truth_HW, shift, axis=1)
    assert cldice(mask_HW[None], truth_HW)[0] == pytest.approx(dice(confusion(mask_HW[None], truth_HW))[0])


def test_cldice_forgives_width_and_punishes_breaks():
    """A vessel twice as wide keeps clDice 1 though Dice falls; a gap in it lowers clDice."""
    truth_HW = np.zeros((30, 60), bool)
    truth_HW[13:16, 5:55] = True
    wide_HW = np.zeros_like(truth_HW)
    wide_HW[11:18, 3:57] = True
    broken_HW = truth_HW.copy()
    broken_HW[:, 20:40] = False
    scores = cldice(np.stack([wide_HW, broken_HW]), truth_HW)
    assert scores[0] > 0.95 > dice(confusion(wide_HW[None], truth_HW))[0] + 0.2
    assert 0.6 < scores[1] < 0.8


@settings(deadline=None, max_examples=50)
@given(masks, st.data())
def test_cldice_is_bounded_symmetric_and_one_for_equal_masks(a, data):
    """clDice lies in [0, 1], is the same both ways round, and 1 for a mask against itself."""
    b = data.draw(hnp.arrays(np.bool_, a.shape))
    forward, same = cldice(np.stack([a, b]), b)
    assert 0 <= forward <= 1
    assert same == 1.0
    assert forward == cldice(b[None], a)[0]


def test_cldice_of_empty_and_full_masks_is_defined():
    """Two empty masks agree, one empty mask scores 0, a full mask against a full truth 1: never 0/0."""
    empty, full, pixel = np.zeros((6, 6), bool), np.ones((6, 6), bool), np.zeros((6, 6), bool)
    pixel[0, 0] = True
    masks_BHW = np.stack([empty, full, pixel])
    assert cldice(masks_BHW, empty).tolist() == [1.0, 0.0, 0.0]
    assert cldice(masks_BHW, full)[:2].tolist() == [0.0, 1.0]
    assert cldice(masks_BHW, pixel)[[0, 2]].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("metric", [cldice, betti_errors])
def test_probabilities_are_refused(metric):
    """Topology of anything but a boolean mask raises."""
    with pytest.raises(ValueError, match="boolean"):
        metric(np.zeros((1, 3, 3)), np.zeros((3, 3), bool))


def test_no_masks_give_no_scores():
    """A batch of no masks gives arrays of length zero."""
    none, truth_HW = np.zeros((0, 3, 3), bool), np.ones((3, 3), bool)
    assert cldice(none, truth_HW).shape == betti_errors(none, truth_HW)[1].shape == (0,)


def test_a_mask_of_pillow_whose_true_is_255_is_a_mask():
    """A picture of one bit becomes booleans of bytes 255: the skeleton of those crashed the process."""
    truth_HW = np.zeros((40, 40), np.bool_)
    truth_HW[5:9] = truth_HW[:, 20:23] = True
    from_pillow_HW = np.asarray(Image.fromarray(truth_HW))
    assert from_pillow_HW.view(np.uint8).max() == 255
    other_HW = np.roll(truth_HW, 3, axis=0)
    assert cldice(from_pillow_HW[None], other_HW) == cldice(truth_HW[None], other_HW)
    assert cldice(other_HW[None], from_pillow_HW) == cldice(other_HW[None], truth_HW)
