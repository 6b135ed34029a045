"""Pictures resized and cut on the device: the bytes that the checkpoint's own code makes with Pillow."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from job.segmenters.sa2va.resize import Crops, Noted, Recipe, resize_bicubic, upload

SIZES = [(60, 80), (37, 91), (1, 5), (200, 30), (64, 64)]


def picture(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return noise."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def cut(image: Image.Image | Noted) -> list[Image.Image]:
    """Cut a picture into two halves and a thumbnail, as a checkpoint's code would."""
    wide: Image.Image = image.resize((64, 32))  # type: ignore[assignment]
    return [wide.crop((0, 0, 32, 32)), wide.crop((32, 0, 64, 32)), image.resize((32, 32))]  # type: ignore[list-item]


def own(one: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the tiles that Pillow makes."""
    return np.stack([np.asarray(tile) for tile in cut(Image.fromarray(one))])


def recipe(size: tuple[int, int]) -> Recipe:
    """Return what `cut` does."""
    return tuple(tile.step for tile in cut(Noted((size[1], size[0]))))  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(32, 32), (100, 70), (7, 3)])
def test_a_resize_gives_pillows_bytes(size: tuple[int, int], target: tuple[int, int]) -> None:
    """In one order of the axes or the other, whichever Pillow takes for these sizes."""
    one = picture(1, size)
    wanted = np.asarray(Image.fromarray(one).resize((target[1], target[0])))
    made = [resize_bicubic(torch.from_numpy(one)[None], target, rows_first=first) for first in (True, False)]
    assert any(np.array_equal(pixels[0].numpy(), wanted) for pixels in made)


def test_crops_are_those_of_the_checkpoints_code() -> None:
    """For pictures of several sizes in one batch, in their order."""
    pictures = [picture(seed, size) for seed, size in enumerate([*SIZES[:2], *SIZES[1:4]])]
    runs = upload(pictures, torch.device("cpu"))
    assert [len(run.pictures) for run in runs] == [1, 2, 1, 1]
    made = Crops(own, recipe).make(runs, on_device=True)
    np.testing.assert_array_equal(made.numpy(), np.stack([own(one) for one in pictures]))


def test_code_that_does_something_else_is_asked_itself() -> None:
    """A picture that no order of the axes explains comes from the checkpoint's own code, as do later ones."""
    calls = []

    def brighter(one: NDArray[np.uint8]) -> NDArray[np.uint8]:
        calls.append(1)
        return own(one) | 1

    crops = Crops(brighter, recipe)
    for seed in range(2):
        made = crops.make(upload([picture(seed, (60, 80))], torch.device("cpu")), on_device=True)
        np.testing.assert_array_equal(made[0].numpy(), own(picture(seed, (60, 80))) | 1)
    assert len(calls) == 3  # one to find out, one for each picture


def test_once_a_size_is_known_the_checkpoints_code_is_not_asked_again() -> None:
    """Only the first picture of a size goes through both; a plain one tells nothing and does not count."""
    calls = []

    def counted(one: NDArray[np.uint8]) -> NDArray[np.uint8]:
        calls.append(1)
        return own(one)

    crops = Crops(counted, recipe)
    plain = np.full((60, 80, 3), 7, np.uint8)
    for one in (plain, picture(0, (60, 80)), picture(1, (60, 80))):
        crops.make(upload([one], torch.device("cpu")), on_device=True)
    assert len(calls) == 2


def test_what_is_done_to_a_picture_twice_is_no_recipe() -> None:
    """A resize of a resize would need more than one step."""
    with pytest.raises(ValueError, match="already"):
        Noted((8, 8)).resize((4, 4)).resize((2, 2))
    with pytest.raises(ValueError, match="already"):
        Noted((8, 8)).crop((0, 0, 4, 4)).crop((0, 0, 2, 2))
