"""Small networks and data for the reward network's tests."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from job.data.fundus import sample
from job.reward.examples import LabelledImages
from job.reward.network import RewardNetworkConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are taken in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small() -> RewardNetworkConfig:
    """A network that trains in a second."""
    return RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)


@pytest.fixture(scope="session")
def labelled() -> Callable[..., LabelledImages]:
    """Make synthetic images whose masks are thresholds of the green channel."""

    def make(
        start: int, n: int, *, size: int = 48, patients: int | None = None,
        blocks: Sequence[Sequence[int]] = ((3, 1), (0, 2, 4)),
    ) -> LabelledImages:  # fmt: skip
        pictures = [sample(index, seed=11, size=size) for index in range(start, start + n)]

        def masks_of(i: int, image: np.ndarray) -> Iterator[tuple[Sequence[int], np.ndarray]]:
            green, field = pictures[i].image_HWC[..., 1], pictures[i].fov_HW
            levels = (0.02, 0.06, 0.12, 0.3, 0.7)
            for block in blocks:
                masks = [(green < np.quantile(green[field], levels[k])) & field for k in block]
                yield block, np.stack(masks)

        return LabelledImages(
            images=[picture.image_HWC for picture in pictures],
            truths=[picture.mask_HW for picture in pictures],
            patients=[f"patient {index % (patients or n)}" for index in range(n)],
            sizes=[picture.mask_HW.shape for picture in pictures],
            n_actions=5,
            masks_of=masks_of,
        )

    return make
