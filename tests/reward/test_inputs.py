"""The working grid: sizes, coverage and standardisation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from job.reward.inputs import N_CHANNELS, image_channels, mask_coverage, working_size


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 300))
def test_working_size_shrinks_and_never_enlarges(height: int, width: int, max_side: int) -> None:
    """No side exceeds the bound or the image, and the shape keeps its proportions to a pixel."""
    h, w = working_size(height, width, max_side)
    assert 1 <= h <= min(height, max_side)
    assert 1 <= w <= min(width, max_side)
    if max(height, width) <= max_side:
        assert (h, w) == (height, width)
    else:
        assert max(h, w) == max_side
        assert h == max(1, round(height * max_side / max(height, width)))


def test_coverage_is_the_share_of_covered_pixels() -> None:
    """An independent box filter gives the same coverage where cells hold whole pixels."""
    masks = np.random.default_rng(0).uniform(size=(5, 60, 90)) < 0.3
    coverage = mask_coverage(masks, (20, 30)).numpy()
    assert np.allclose(coverage, masks.reshape(5, 20, 3, 30, 3).mean((2, 4)), atol=1e-6)
    assert np.array_equal(mask_coverage(masks, (60, 90)).numpy(), masks.astype(np.float32))


def test_coverage_of_many_large_masks_is_that_of_each() -> None:
    """Working in chunks changes nothing; no masks give no rows."""
    masks = np.random.default_rng(1).uniform(size=(9, 1500, 1500)) < 0.1
    together = mask_coverage(masks, (64, 64))
    assert np.array_equal(together[8].numpy(), mask_coverage(masks[8:], (64, 64))[0].numpy())
    assert mask_coverage(masks[:0], (64, 64)).shape == (0, 64, 64)


def test_channels_forgive_exposure_and_white_balance(fundus_image: np.ndarray) -> None:
    """A darker photograph with another white balance looks nearly the same to the network."""
    other = (fundus_image * np.array([0.8, 0.65, 0.9])).astype(np.uint8)
    usual, changed = image_channels(fundus_image, 256), image_channels(other, 256)
    inside = usual[-1] > 0
    assert usual.shape == (N_CHANNELS, 96, 96)
    assert (usual - changed)[:4, inside].abs().mean() < 0.15
    assert usual[:4, inside].abs().mean() > 0.4


def test_statistics_stop_at_the_rim_of_the_field(fundus_image: np.ndarray) -> None:
    """More black around the field of view does not change what is inside it."""
    padded = np.pad(fundus_image, ((32, 32), (32, 32), (0, 0)))
    inside = image_channels(fundus_image, 256)[-1] > 0
    usual = image_channels(fundus_image, 256)[:3, inside]
    wider = image_channels(padded, 256)[:3, 32:-32, 32:-32][:, inside]
    assert (usual - wider).abs().max() < 0.05


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (37, 53), (400, 300)])
@pytest.mark.parametrize("value", [0, 255])
def test_flat_images_of_any_size_give_finite_channels(shape: tuple[int, int], value: int) -> None:
    """A black or white picture has no contrast to divide by, and no field or all of it."""
    channels = image_channels(np.full((*shape, 3), value, dtype=np.uint8), 128)
    assert channels.isfinite().all()
    assert channels.shape[1:] == working_size(*shape, 128)


def test_what_is_no_image_or_mask_is_refused() -> None:
    """Programmer misuse ends with a ValueError that names the type and shape."""
    with pytest.raises(ValueError, match="uint8"):
        image_channels(np.zeros((8, 8, 3), dtype=np.float32), 64)
    with pytest.raises(ValueError, match="uint8"):
        image_channels(np.zeros((8, 8), dtype=np.uint8), 64)
    with pytest.raises(ValueError, match="bool"):
        mask_coverage(np.zeros((2, 8, 8), dtype=np.uint8), (4, 4))


@pytest.fixture(scope="module")
def fundus_image() -> np.ndarray:
    """A round bright field with a dark grid of lines, 96 px."""
    y, x = np.mgrid[:96, :96]
    field = np.hypot(y - 47.5, x - 47.5) < 46
    lines = ((x % 16) < 2) | ((y % 23) < 2)
    shade = 1 - 0.004 * x
    rgb = np.stack([180 * shade, 120 * shade, 60 * shade], -1) * np.where(lines, 0.7, 1.0)[..., None]
    image = Image.fromarray((rgb * field[..., None]).astype(np.uint8))
    return np.asarray(image)
