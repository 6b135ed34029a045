"""Sources: crops of labelled images and true terms, whole unlabelled images and the networks' word."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from job.data import fundus
from job.data.dataset import Loaded
from job.reward.network import RewardNetwork, RewardNetworkConfig
from job.reward.network_file import scratch
from job.reward.terms import score
from job.spec.tuning import GrpoSpec
from job.tuning.ensemble import Ensemble
from job.tuning.estimators import window_advantages
from job.tuning.phase import PhaseData
from job.tuning.sources import sources


@pytest.fixture
def ensemble() -> Ensemble:
    config = RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)
    return Ensemble([scratch(seed, config) for seed in range(2)], 1.0, "cpu")


def spec(**changed: object) -> GrpoSpec:
    return GrpoSpec.model_validate({"algorithm": "grpo", "crop": 32, "batch_size": 8, **changed})


def test_unlabelled_images_are_drawn_whole(data: PhaseData, ensemble: Ensemble) -> None:
    """As many pixels as in the crops of a batch, at the size that networks know; their word is the reward."""
    unlabelled = [replace(one, truth=None) for one in data.validation]
    labelled, whole = sources(spec(), data.labelled, unlabelled, ensemble)
    assert (labelled.n_drawn, whole.n_drawn) == (8, 2)
    rng = np.random.default_rng(0)
    (crops,) = labelled.draw(rng, labelled.n_drawn)
    assert crops.pixels_B3HW.shape == (8, 3, 32, 32)
    (images,) = whole.draw(rng, whole.n_drawn)
    assert images.pixels_B3HW.shape == (2, 3, 64, 64)
    masks = rng.random((3, 64, 64)) < 0.3
    image = images.pixels_B3HW[1].permute(1, 2, 0).numpy()
    assert np.array_equal(whole.rewards(images)[1](masks), ensemble.score(image, masks))


@pytest.mark.parametrize("crop", [64, 96, 4096, None])
def test_a_batch_has_no_more_unlabelled_images_than_crops(
    data: PhaseData, ensemble: Ensemble, crop: int | None
) -> None:
    """However much larger than an image a crop may be: it ends at the image."""
    (whole,) = sources(spec(crop=crop), [], [replace(one, truth=None) for one in data.validation], ensemble)
    assert whole.n_drawn == 8


def test_true_terms_reward_labelled_crops(data: PhaseData, ensemble: Ensemble) -> None:
    """The reward is the mean of the named terms by their weights; Dice where none is named."""
    rng = np.random.default_rng(1)
    masks = rng.random((4, 32, 32)) < 0.3
    for terms in (None, {"dice": 0.5}, {"cldice": 0.5, "recall": 2.0}, {"dice": 1.0, "recall": -3.0}):
        (source,) = sources(spec(terms=terms), data.labelled, [], ensemble)
        (crops,) = source.draw(rng, 2)
        assert crops.truths_BHW is not None
        scores = score(masks, crops.truths_BHW[0].numpy(), ["dice", "cldice", "recall"])
        weights = terms or {"dice": 1.0}
        expected = sum(weight * scores[term] for term, weight in weights.items())
        expected /= sum(abs(weight) for weight in weights.values())
        assert np.allclose(source.rewards(crops)[0](masks), expected)


@pytest.mark.parametrize(("has_labels", "share"), [(True, 0.3), (False, 1.0)])
def test_the_share_of_unlabelled_images(
    data: PhaseData, ensemble: Ensemble, has_labels: bool, share: float
) -> None:
    """It is the spec's where there are labelled ones too."""
    unlabelled = [replace(one, truth=None) for one in data.validation]
    labelled = data.labelled if has_labels else []
    found = sources(spec(unlabelled_share=0.3), labelled, unlabelled, ensemble)
    assert found[-1].share == share
    assert found[-1].n_watched == 4  # of two images: one sample would have no error
    assert sum(source.share for source in found) == 1


def test_terms_of_both_kinds_add_up(data: PhaseData, ensemble: Ensemble) -> None:
    """Where windows are equally large, counting and changing masks give together what one way alone would."""
    rng = np.random.default_rng(2)
    masks, bases = rng.random((1, 4, 32, 32)) < 0.3, rng.random((1, 32, 32)) < 0.3
    found = []
    for terms in ({"dice": 1.0}, {"cldice": 1.0}, {"dice": 1.0, "cldice": 1.0}):
        (source,) = sources(spec(terms=terms), data.labelled, [], ensemble)
        (crops,) = source.draw(np.random.default_rng(3), 1)
        # One window, as large as the crop.
        advantages = source.advantages(crops, masks, bases, "window", 64, _Unshifted())  # type: ignore[arg-type]
        found.append(advantages[0])
    assert np.allclose((found[0] + found[1]) / 2, found[2])
    assert all(not np.allclose(one, other) for one, other in pairwise(found))


@pytest.mark.parametrize("side", [48, 64, 75])
def test_networks_credit_windows_of_the_whole(
    side: int, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if each changed mask were judged, on any grid, though the image is read once by each network."""
    picture = fundus.sample(0, seed=21, size=side, annotation="all")
    (source,) = sources(spec(), [], [Loaded(picture.image_HWC, None, None)], ensemble)
    (crops,) = source.draw(np.random.default_rng(0), 1)
    rng = np.random.default_rng(1)
    masks, bases = rng.random((1, 4, side, side)) < 0.3, rng.random((1, side, side)) < 0.3
    masks[:, :, : side // 2] = masks[:, :1, : side // 2]
    image = crops.pixels_B3HW[0].permute(1, 2, 0).numpy()
    slow = window_advantages(
        lambda some: ensemble.score(image, some), masks[0], bases[0], -(-side // 8), (0, 0)
    )
    reads = []
    read = RewardNetwork.read
    monkeypatch.setattr(RewardNetwork, "read", lambda self, x: reads.append(self) or read(self, x))
    quick = source.advantages(crops, masks, bases, "window", 4, _Unshifted())[0]  # type: ignore[arg-type]
    assert np.allclose(quick, slow, atol=1e-6)
    assert np.abs(slow).max() > 1e-4
    assert ((quick == 0) == (slow == 0)).all()  # where masks agree not even rounding is left
    assert len(reads) == len(set(map(id, reads))) == 2


class _Unshifted:
    """A generator that draws zeros."""

    def integers(self, high: int) -> int:
        return 0
