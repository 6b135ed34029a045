"""Crops: truths follow their images, equal generators give equal crops, and sizes are what was asked for."""

import numpy as np
import pytest
import torch

from job.data.dataset import Loaded
from job.tuning.crops import LEAST_SIDE, CropSource, relit


def marked(height: int, width: int, seed: int = 0) -> Loaded:
    """An image that is bright exactly where its truth is, in blobs that survive interpolation."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.random((height // 8, width // 8)) < 0.4, np.ones((8, 8))).astype(np.bool_)
    image = np.where(truth, 200, 40).astype(np.uint8)
    return Loaded(np.repeat(image[..., None], 3, axis=2), truth, None)


@pytest.mark.parametrize("augment", [False, True])
def test_truths_follow_their_images(augment: bool) -> None:
    """Whatever is turned, scaled and lit otherwise, what is bright is what is true."""
    source = CropSource([marked(96, 80), marked(80, 96, 1)], 48, augment=augment)
    for seed in range(4):
        (crops,) = source.draw(np.random.default_rng(seed), 4)
        assert crops.pixels_B3HW.shape == (4, 3, 48, 48)
        assert crops.truths_BHW is not None
        inside = crops.pixels_B3HW[:, 1] > 0
        bright = crops.pixels_B3HW[:, 1] > 110
        assert (bright == crops.truths_BHW)[inside].float().mean() > 0.97
        assert 0.1 < crops.truths_BHW.float().mean() < 0.8


def test_equal_generators_give_equal_crops() -> None:
    """A crop depends on the generator alone, also once images are kept in memory."""
    source = CropSource([marked(64, 64), marked(64, 64, 1), marked(64, 64, 2)], 32, augment=True)
    draws = [source.draw(np.random.default_rng(7), 3)[0] for _ in range(2)]
    other = source.draw(np.random.default_rng(8), 3)[0]
    assert torch.equal(draws[0].pixels_B3HW, draws[1].pixels_B3HW)
    assert not torch.equal(draws[0].pixels_B3HW, other.pixels_B3HW)


def test_whole_images_of_other_sizes_come_in_parts() -> None:
    """Without a side images keep their sizes; an unlabelled one has no truth."""
    plain = marked(32, 40)
    source = CropSource([plain, Loaded(plain.image[:24, :24], None, None)], None, augment=False)
    parts = source.draw(np.random.default_rng(0), 2)
    assert {tuple(part.pixels_B3HW.shape) for part in parts} == {(1, 3, 32, 40), (1, 3, 24, 24)}
    of_size = {part.pixels_B3HW.shape[-1]: part for part in parts}
    assert of_size[24].truths_BHW is None
    assert np.array_equal(of_size[40].pixels_B3HW[0].permute(1, 2, 0).numpy(), plain.image)


@pytest.mark.parametrize("augment", [False, True])
def test_a_crop_is_no_larger_than_its_image(augment: bool) -> None:
    """What is beyond an image teaches nothing, and would be most of what is normalised."""
    source = CropSource([marked(24, 40)], 64, augment=augment)
    sizes = {tuple(crops.pixels_B3HW.shape[-2:]) for crops in source.draw(np.random.default_rng(0), 8)}
    assert sizes == ({(24, 40), (40, 24)} if augment else {(24, 40)})
    (crops,) = CropSource([marked(24, 40)], 24, augment=augment).draw(np.random.default_rng(0), 8)
    assert crops.pixels_B3HW.shape[-2:] == (24, 24)


@pytest.mark.parametrize("side", [None, 64])
def test_tiny_images_are_padded_with_black(side: int | None) -> None:
    """Up to a size that networks can halve: the rest is background."""
    (crops,) = CropSource([marked(8, 8)], side, augment=False).draw(np.random.default_rng(0), 2)
    assert crops.pixels_B3HW.shape[-2:] == (LEAST_SIDE, LEAST_SIDE)
    assert crops.truths_BHW is not None
    dark = (crops.pixels_B3HW == 0).all(1)
    assert dark.float().mean() >= 0.75
    assert not (crops.truths_BHW & dark).any()


def test_each_image_comes_before_any_comes_twice() -> None:
    """Of four images four crops show all."""
    levels = [Loaded(np.full((16, 16, 3), 50 * n, np.uint8), None, None) for n in range(1, 5)]
    (crops,) = CropSource(levels, 8, augment=False).draw(np.random.default_rng(3), 4)
    assert sorted(crops.pixels_B3HW[:, 0, 0, 0].tolist()) == [50, 100, 150, 200]


def test_black_stays_black() -> None:
    """Light changes within the field alone: its outside is known by its darkness."""
    pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
    pixels[:, 4:12, 4:12] = 120
    lit = relit(pixels, np.random.default_rng(2))
    assert (lit[:, :4] == 0).all()
    assert (lit[:, 4:12, 4:12].float() - 120).abs().mean() > 2
