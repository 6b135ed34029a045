"""Synthetic photographs: the same pixels each time, exact masks, and a clarity that the eye could tell."""

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from job.data.fundus import REVISION, Sample, render, sample, smooth_noise, to_bytes, usual_tree_style
from job.data.vessel_tree import Frame

# Change it only together with REVISION, which names the generator in the keys of caches.
GOLDEN = (1, "e69674a538620f60b8aa2917800b6c3f8af8cf9361debb96ae7ef0adc3dfa7be")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample(index, seed=20_000, size=128) for index in range(24)]


def digest(samples: list[Sample]) -> str:
    sha256 = hashlib.sha256()
    for one in samples:
        for array in (one.image_HWC, one.mask_HW, one.fov_HW):
            sha256.update(array.tobytes())
    return sha256.hexdigest()


def test_golden_digest(samples: list[Sample]) -> None:
    """A seed and the pinned libraries give the pixels they always gave."""
    assert (REVISION, digest(samples[:4])) == GOLDEN


def test_an_image_is_the_same_in_any_company() -> None:
    """Image 7 of a seed does not depend on which images were drawn before it, and other names give others."""
    first = sample(7, seed=5, size=64)
    sample(3, seed=5, size=64)
    again = sample(7, seed=5, size=64)
    assert np.array_equal(first.image_HWC, again.image_HWC)
    for other in (sample(8, seed=5, size=64), sample(7, seed=6, size=64)):
        assert not np.array_equal(first.image_HWC, other.image_HWC)


def test_masks_nest() -> None:
    """Major vessels are vessels, vessels lie in the field of view, and fine vessels exist."""
    for seed in range(12):
        fundus = render(np.random.default_rng(seed), 128)
        assert not (fundus.major_HW & ~fundus.vessels_HW).any()
        assert not (fundus.vessels_HW & ~fundus.fov_HW).any()
        assert 0.04 < fundus.vessels_HW.sum() / fundus.fov_HW.sum() < 0.35
        assert 0.2 < fundus.major_HW.sum() / fundus.vessels_HW.sum() < 1


def test_hazy_images_have_only_their_major_vessels_annotated() -> None:
    """The annotation style changes the mask, never the picture: hazy images lose their fine vessels."""
    for index in range(16):
        by_clarity = sample(index, seed=1, size=96)
        everything = sample(index, seed=1, size=96, annotation="all")
        fundus = render(np.random.default_rng([1, index]), 96)
        assert np.array_equal(by_clarity.image_HWC, everything.image_HWC)
        assert np.array_equal(everything.mask_HW, fundus.vessels_HW)
        expected = fundus.major_HW if fundus.clarity < 0.5 else fundus.vessels_HW
        assert np.array_equal(by_clarity.mask_HW, expected)


def test_about_half_of_the_images_are_hazy() -> None:
    """Clarity has two groups of about equal size, with nothing between."""
    clarity = np.array([sample(index, seed=9, size=32).clarity for index in range(100)])
    assert 35 <= (clarity < 0.5).sum() <= 65
    assert not ((clarity > 0.3) & (clarity < 0.7)).any()


def test_clarity_shows_in_the_picture(samples: list[Sample]) -> None:
    """Vessels of clear images stand out from their surroundings more than those of hazy ones."""
    contrast = []
    for one in samples:
        green = one.image_HWC[..., 1].astype(float)
        beside = ndimage.binary_dilation(one.mask_HW, iterations=4) & ~one.mask_HW & one.fov_HW
        contrast.append(1 - green[one.mask_HW].mean() / green[beside].mean())
    hazy = np.array([one.clarity < 0.5 for one in samples])
    clear_contrast, hazy_contrast = np.array(contrast)[~hazy], np.array(contrast)[hazy]
    assert clear_contrast.mean() > 1.2 * hazy_contrast.mean() > 0


def test_outside_the_field_is_dark(samples: list[Sample]) -> None:
    """A reader can find the field of view by brightness alone."""
    for one in samples:
        assert one.image_HWC[~one.fov_HW].mean() < 12
        assert one.image_HWC[one.fov_HW].mean() > 60


@pytest.mark.parametrize("size", [32, 97, 256])
def test_any_size_can_be_drawn(size: int) -> None:
    """Shapes follow the size that is asked for."""
    one = sample(0, seed=2, size=size)
    assert one.image_HWC.shape == (size, size, 3)
    assert one.image_HWC.dtype == np.uint8
    assert one.mask_HW.shape == one.fov_HW.shape == (size, size)
    assert one.mask_HW.any()


def test_misuse_is_refused() -> None:
    """An unknown annotation style and a frame of another size are errors, not surprises."""
    with pytest.raises(ValueError, match="annotation"):
        sample(0, seed=0, size=32, annotation="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frame"):
        render(np.random.default_rng(0), 32, frame=Frame.whole(64))


def test_noise_has_about_unit_deviation_at_every_scale() -> None:
    """Amplitudes mean the same whatever the size of the blobs."""
    for cell in (1.0, 4.0, 20.0):
        noise = np.stack([smooth_noise(np.random.default_rng(seed), 64, cell) for seed in range(30)])
        assert 0.6 < noise.std() < 1.6


def test_bytes_are_clipped_and_rounded() -> None:
    """Intensities outside 0..1 saturate; halves round up; a last-bit difference does not show."""
    levels = np.array([-0.5, 0.0, 1 / 255, 0.5, 1.0, 2.0], dtype=np.float32)
    assert to_bytes(levels).tolist() == [0, 0, 1, 128, 255, 255]
    middle = np.float32(100.3 / 255)
    assert to_bytes(np.nextafter(middle, np.float32(0))) == to_bytes(np.nextafter(middle, np.float32(1)))


def test_usual_styles_differ() -> None:
    """Both eyes occur: the disc lies left in some images and right in others."""
    sides = {usual_tree_style(np.random.default_rng(seed)).disc_xy[0] > 0 for seed in range(10)}
    assert sides == {True, False}
