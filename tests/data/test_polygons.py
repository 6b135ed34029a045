"""Outlines to pixels, against scikit-image's own rasteriser."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import polygon as skimage_polygon

from job.data.polygons import rasterise
from job.data.samples import Polygons

# Multiples of 1/8 off the pixel centres: on a centre, either answer is right.
COORDINATE = st.integers(-24, 200).map(lambda eighths: eighths / 8 + 1 / 16)


@given(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=3, unique=True))
def test_triangles_agree_with_scikit_image(corners: list[tuple[float, float]]) -> None:
    """A pixel is set exactly where scikit-image finds its centre inside."""
    ring = np.array(corners)
    expected = np.zeros((20, 20), bool)
    expected[skimage_polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, expected.shape)] = True
    found = rasterise(Polygons((tuple(ring.ravel()),)), 20, 20)
    # An edge may still pass through a centre; there scikit-image counts the edge in.
    assert not (found & ~expected).any()
    assert np.count_nonzero(expected & ~found) <= _centres_on_edges(ring)


def _centres_on_edges(ring: np.ndarray) -> int:
    ys, xs = np.mgrid[:20, :20] + 0.5
    on_edge = np.zeros((20, 20), bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        on_edge |= np.abs((x1 - x0) * (ys - y0) - (y1 - y0) * (xs - x0)) < 1e-9
    return int(on_edge.sum())


def test_rectangles_cover_their_pixels() -> None:
    """Corners at pixel borders give exactly the pixels between them: x from 2 to 5, y from 1 to 3."""
    mask = rasterise(Polygons(((2, 1, 5, 1, 5, 3, 2, 3),)), 6, 8)
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(mask, expected)


def test_rings_are_united_and_cut_at_the_border() -> None:
    """Overlapping rings do not cancel, and what lies outside of the picture is cut off."""
    first, second = (-5.0, -5.0, 4.0, -5.0, 4.0, 4.0, -5.0, 4.0), (2.0, 2.0, 99.0, 2.0, 99.0, 99.0, 2.0, 99.0)
    mask = rasterise(Polygons((first, second)), 10, 10)
    expected = np.zeros((10, 10), bool)
    expected[:4, :4] = True
    expected[2:, 2:] = True
    np.testing.assert_array_equal(mask, expected)


def test_holes_by_self_intersection() -> None:
    """A ring that encloses an area twice leaves it out (even-odd rule)."""
    ring = (0, 0, 10, 0, 10, 10, 0, 10, 0, 0, 3, 3, 7, 3, 7, 7, 3, 7, 3, 3)
    mask = rasterise(Polygons((tuple(map(float, ring)),)), 10, 10)
    assert mask.sum() == 100 - 16
    assert not mask[3:7, 3:7].any()


def test_no_ring_is_an_empty_mask() -> None:
    """`Polygons` without rings is a mask without foreground."""
    assert not rasterise(Polygons(()), 3, 4).any()
