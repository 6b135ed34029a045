"""Thinning many masks at once, against scikit-image's `skeletonize` of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage
from skimage.morphology import skeletonize

from job.metrics import thinning
from job.metrics.thinning import MASKS_AT_ONCE, skeleton, skeletons


def drawn(masks_BHW: np.ndarray) -> np.ndarray:
    """Return the skeletons as pictures."""
    pictures_BX = []
    for some in skeletons(masks_BHW):
        pictures = np.zeros((some.of_NB.shape[1], masks_BHW[0].size), np.bool_)
        pictures[:, some.at_N] = some.of_NB.T
        pictures_BX.append(pictures)
    return np.concatenate(pictures_BX).reshape(masks_BHW.shape)


def one_by_one(masks_BHW: np.ndarray) -> np.ndarray:
    return np.stack([skeletonize(mask_HW) for mask_HW in masks_BHW])


def blobs(n: int, size: tuple[int, int], *, width_px: float, seed: int) -> np.ndarray:
    """Return masks of about a third foreground whose parts are some `width_px` wide."""
    noise = np.random.default_rng(seed).standard_normal((n, *size))
    smooth = ndimage.gaussian_filter(noise, (0, width_px / 2, width_px / 2))
    return smooth > np.quantile(smooth, 0.66)


def test_every_picture_of_4_by_4_pixels_has_the_skeleton_of_scikit_image() -> None:
    """All 65,536: each of the 256 surroundings of a pixel in both turns, and the border on every side."""
    numbers = np.arange(2**16, dtype=">u2")
    masks_BHW = np.unpackbits(numbers.view(np.uint8).reshape(-1, 2), axis=1).view(np.bool_).reshape(-1, 4, 4)
    np.testing.assert_array_equal(drawn(masks_BHW), one_by_one(masks_BHW))


@pytest.mark.parametrize("width_px", [1, 3, 8, 25])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 17, 32, 33, 64, 65, 130])
def test_any_number_of_masks_is_thinned_as_one_by_one(n: int, width_px: float) -> None:
    """Also where the masks fill an integer to its last bit, and one more."""
    masks_BHW = blobs(n, (61, 45), width_px=width_px, seed=n)
    np.testing.assert_array_equal(drawn(masks_BHW), one_by_one(masks_BHW))


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: hnp.arrays(np.bool_, shape)
    )
)
def test_noise_of_any_shape_is_thinned_as_by_scikit_image(masks_BHW: np.ndarray) -> None:
    """Single rows and columns, empty and full pictures among them."""
    np.testing.assert_array_equal(drawn(masks_BHW), one_by_one(masks_BHW))


def test_how_many_pixels_are_looked_at_together_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is judged by what was there before any part lost a pixel."""
    masks_BHW = blobs(5, (40, 40), width_px=9, seed=0)
    for at_once in (1, 7, 100):
        monkeypatch.setattr(thinning, "_POSITIONS_AT_ONCE", at_once)
        np.testing.assert_array_equal(drawn(masks_BHW), one_by_one(masks_BHW))


def test_one_mask_and_a_mask_of_pillow_have_their_skeletons() -> None:
    """Pillow's booleans have bytes of 255; whole pictures and empty ones are no exception."""
    for mask_HW in (*blobs(3, (30, 50), width_px=6, seed=1), np.ones((9, 5), bool), np.zeros((4, 4), bool)):
        np.testing.assert_array_equal(skeleton(mask_HW), skeletonize(mask_HW))
        np.testing.assert_array_equal(skeleton(np.asarray(Image.fromarray(mask_HW))), skeletonize(mask_HW))


def test_masks_are_thinned_in_order_and_in_lots() -> None:
    """A lot has at most `MASKS_AT_ONCE`; no masks are no lot."""
    masks_BHW = blobs(MASKS_AT_ONCE + 3, (12, 12), width_px=3, seed=2)
    assert [some.of_NB.shape[1] for some in skeletons(masks_BHW)] == [MASKS_AT_ONCE, 3]
    assert list(skeletons(masks_BHW[:0])) == []
    np.testing.assert_array_equal(masks_BHW, blobs(MASKS_AT_ONCE + 3, (12, 12), width_px=3, seed=2))
