"""The network and the judge: any size, any batch, and never without looking at the image."""

from typing import Any

import numpy as np
import pytest
import torch

from job.data.fundus import sample
from job.errors import InvalidResult
from job.metrics import overlap
from job.reward import terms
from job.reward.network import NetworkJudge, Reading, RewardNetworkConfig
from job.reward.network_file import load_embedded, scratch


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 64), (48, 48), (130, 77)])
@pytest.mark.parametrize("n_masks", [0, 1, 9])
def test_any_size_and_number_of_masks(
    size: tuple[int, int], n_masks: int, small: RewardNetworkConfig
) -> None:
    """Scores are numbers in [0, 1], one a mask."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    masks = rng.uniform(size=(n_masks, *size)) < 0.2
    scores = NetworkJudge([scratch(0, small)])(image, masks)
    assert scores.shape == (n_masks,)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_score_depends_on_image_and_mask_alone(small: RewardNetworkConfig) -> None:
    """The other masks of a call, and the other images of a batch, play no part."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    masks = rng.uniform(size=(7, 40, 56)) < rng.uniform(0.05, 0.6, (7, 1, 1))
    network = scratch(3, small)
    judge = NetworkJudge([network])
    together = judge(image, masks)
    assert np.allclose(together, np.concatenate([judge(image, mask[None]) for mask in masks]), atol=1e-6)
    channels, coverage = torch.randn(3, 5, 40, 48), torch.rand(3, 4, 40, 48)
    with torch.inference_mode():
        batch = network(channels, coverage)
        alone = torch.cat([network(channels[i : i + 1], coverage[i : i + 1]) for i in range(3)])
    assert torch.allclose(batch, alone, atol=1e-5)


def test_a_judge_whose_answer_is_no_number_says_so(small: RewardNetworkConfig) -> None:
    """Weights that are finite and too large: exit code 5, never a NaN in a table."""
    network = scratch(0, small)
    with torch.no_grad():
        network.style.weight.fill_(1e38)
        network.style.bias.copy_(
            torch.tensor([1e38, -1e38] * len(network.style.bias))[: len(network.style.bias)]
        )
    image = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with pytest.raises(InvalidResult, match="3 of 3 masks of an image is no number") as caught:
        NetworkJudge([network])(image, np.ones((3, 32, 32), np.bool_))
    assert caught.value.exit_code == 5


def test_a_judge_of_several_networks_is_their_mean(small: RewardNetworkConfig) -> None:
    """An ensemble averages; none at all is refused."""
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    masks = rng.uniform(size=(4, 32, 32)) < 0.3
    first, second = scratch(0, small), scratch(1, small)
    assert np.allclose(
        NetworkJudge([first, second])(image, masks),
        (NetworkJudge([first])(image, masks) + NetworkJudge([second])(image, masks)) / 2,
    )
    with pytest.raises(ValueError, match="at least one"):
        NetworkJudge([])


def test_masks_must_fit_the_image(small: RewardNetworkConfig) -> None:
    """Masks of another size are programmer misuse, not something to resize silently."""
    with pytest.raises(ValueError, match="fit"):
        NetworkJudge([scratch(0, small)])(np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 9), dtype=bool))


def test_judge_serves_the_reward_terms(small: RewardNetworkConfig) -> None:
    """`terms.score` takes the judge as it is."""
    image = np.full((16, 16, 3), 99, dtype=np.uint8)
    masks = np.zeros((2, 16, 16), dtype=bool)
    judge = NetworkJudge([scratch(0, small)])
    scores = terms.score(masks, None, ["reward_net"], image_HWC=image, judge=judge)
    assert np.array_equal(scores["reward_net"], judge(image, masks))


def test_sure_readings_give_the_exact_dice(small: RewardNetworkConfig) -> None:
    """With logits that leave no doubt, an untrained head says the Dice that counting pixels gives."""
    rng = np.random.default_rng(4)
    truth = rng.uniform(size=(40, 40)) < 0.2
    masks = rng.uniform(size=(6, 40, 40)) < rng.uniform(0.05, 0.5, (6, 1, 1))
    sure = torch.from_numpy(np.where(truth, 30.0, -30.0)).float()
    reading = Reading(sure[None, None].expand(1, 2, -1, -1), torch.tensor([[0.3, -0.2]]))
    with torch.inference_mode():
        scores = scratch(0, small).compare(reading, torch.from_numpy(masks).float()[None])[0].numpy()
    exact = overlap.dice(overlap.confusion(masks, truth))
    assert np.allclose(scores, exact, atol=0.004)  # ratios are smoothed by one pixel


def test_readings_are_weighed_by_their_style(small: RewardNetworkConfig) -> None:
    """A mask right under one reading and wrong under the other scores between, as probable as the reading."""
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:16, 4:16] = True
    logits = torch.from_numpy(np.stack([np.where(mask, 30.0, -30.0), np.where(mask, -30.0, 30.0)])).float()
    style = torch.log(torch.tensor([[0.8, 0.2]]))
    reading = Reading(logits[None], style)
    with torch.inference_mode():
        score = scratch(0, small).compare(reading, torch.from_numpy(mask).float()[None, None])[0, 0]
    assert float(score) == pytest.approx(0.8, abs=0.01)
    assert float(reading.expected()[0, 10, 10]) == pytest.approx(0.8, abs=1e-4)
    assert float(reading.expected()[0, 0, 0]) == pytest.approx(0.2, abs=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"widths": ()},
        {"widths": (6,)},
        {"widths": (100_000,)},
        {"widths": (4, 8.0)},
        {"readings": 0},
        {"max_side": 10**9},
        {"readings": True},
    ],
)
def test_impossible_shapes_are_refused(fields: dict[str, Any]) -> None:
    """A configuration from a file cannot ask for a network that no machine could hold."""
    with pytest.raises(ValueError, match="must be"):
        RewardNetworkConfig(**fields)


def test_the_embedded_network_tells_good_masks_from_bad_on_unseen_images() -> None:
    """Truth scores above what spoils it, swapped images are noticed, and empty masks are worth nothing."""
    judge = NetworkJudge([load_embedded()])
    drops = []
    pictures = [sample(index, seed=77, size=128) for index in range(6)]
    for picture, other in zip(pictures, pictures[1:] + pictures[:1], strict=True):
        truth = picture.mask_HW
        masks = np.stack([truth, np.roll(truth, 5, axis=1), np.zeros_like(truth), np.ones_like(truth)])
        true, shifted, empty, full = judge(picture.image_HWC, masks)
        assert true > 0.6
        assert true > shifted + 0.15
        assert empty < 0.1
        assert full < 0.4
        drops.append(true - judge(other.image_HWC, truth[None])[0])
    assert min(drops) > 0.1
