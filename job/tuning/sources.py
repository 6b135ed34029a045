"""Where grpo's images come from, and what rewards masks of them: truths, or reward networks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from job.data.dataset import Loaded
from job.reward.terms import combine, score
from job.spec.reward import on_one_scale
from job.spec.tuning import GrpoSpec
from job.tuning.crops import Crops, CropSource
from job.tuning.ensemble import Ensemble
from job.tuning.estimators import (
    COUNTED,
    Masks,
    Numbers,
    Reward,
    counted_advantages,
    judged_advantages,
    mask_advantages,
    window_advantages,
)
from job.tuning.phase import DEFAULT_TERMS

_WINDOWS_A_SIDE = 8
_WATCHED_CROPS = 16
_WATCHED_IMAGES = 8
_FEWEST_WATCHED = 4
"""One image is watched as often, each time turned otherwise: a part of the proxy has an error of its own."""


@dataclass(frozen=True)
class Source:
    """Images of one kind: `n_drawn` of them are drawn for a step, `n_watched` tell how the phase goes.

    `share` of the steps are on them.
    """

    images: Sequence[Loaded]
    crops: CropSource
    n_drawn: int
    n_watched: int
    share: float
    terms: Mapping[str, float] | None
    ensemble: Ensemble

    def draw(self, rng: np.random.Generator, n: int) -> list[Crops]:
        """Draw crops of labelled images, whole unlabelled ones: on such a network was trained."""
        return self.crops.draw(rng, n)

    def rewards(self, crops: Crops) -> list[Reward]:
        """Return what rewards masks of each crop: true terms where there is a truth, else the networks."""
        if self.terms is not None:
            assert crops.truths_BHW is not None
            return [partial(_true_reward, truth.numpy(), self.terms) for truth in crops.truths_BHW]
        return [partial(self.ensemble.score, _image(pixels)) for pixels in crops.pixels_B3HW]

    def mean_rewards(self, crops: Crops, masks_BKHW: Masks) -> list[float]:
        """Return the mean reward of each crop's masks."""
        return [float(reward(masks_BKHW[b]).mean()) for b, reward in enumerate(self.rewards(crops))]

    def advantages(
        self,
        crops: Crops,
        masks_BKHW: Masks,
        bases_BHW: Masks,
        credit: Literal["mask", "window"],
        window: int,
        rng: np.random.Generator,
    ) -> list[Numbers]:
        """Return the advantages `[K, H, W]`, or `[K, 1, 1]`, of each crop's masks.

        Terms that count pixels, of skeletons too, are credited to windows of `window` pixels; others cost too
        much for that, and have eight of a crop's side.
        """
        if credit == "mask":
            return [mask_advantages(reward, masks_BKHW[b]) for b, reward in enumerate(self.rewards(crops))]
        counted = {term: weight for term, weight in (self.terms or {}).items() if term in COUNTED}
        others = {term: weight for term, weight in (self.terms or {}).items() if term not in COUNTED}
        side = max(window, -(-max(masks_BKHW.shape[2:]) // _WINDOWS_A_SIDE))
        found = []
        for b, (masks_KHW, base_HW) in enumerate(zip(masks_BKHW, bases_BHW, strict=True)):
            shift = _shift(rng, window)
            advantage = np.zeros(masks_KHW.shape)
            if self.terms is None:
                shift = _shift(rng, side)
                image = _image(crops.pixels_B3HW[b])
                rewards_KYX = self.ensemble.window_scores(image, masks_KHW, base_HW, side, shift)
                advantage += judged_advantages(rewards_KYX, masks_KHW, side, shift)
            if counted:
                assert crops.truths_BHW is not None
                truth_HW = crops.truths_BHW[b].numpy()
                advantage += counted_advantages(counted, masks_KHW, truth_HW, base_HW, window, shift)
            if others:
                assert crops.truths_BHW is not None
                reward = partial(_true_reward, crops.truths_BHW[b].numpy(), others)
                advantage += window_advantages(reward, masks_KHW, base_HW, side, _shift(rng, side))
            found.append(advantage)
        return found

    def whole(self, rng: np.random.Generator, n: int) -> Iterator[tuple[NDArray[np.uint8], Masks]]:
        """Yield up to `n` whole labelled images with their truths."""
        for i in rng.permutation(len(self.images))[:n]:
            loaded = self.images[int(i)]
            assert loaded.truth is not None
            yield loaded.image, loaded.truth


def terms_of(spec: GrpoSpec) -> dict[str, float]:
    """Return true terms and their weights, that reward labelled images; Dice where none is named."""
    return on_one_scale(spec.terms or DEFAULT_TERMS)


def unlabelled_share(spec: GrpoSpec, labelled: Sequence[Loaded], unlabelled: Sequence[Loaded]) -> float:
    """Return the share of the steps on unlabelled images: the spec's where there are labelled ones too."""
    return spec.unlabelled_share if labelled and unlabelled else float(bool(unlabelled))


def sources(
    spec: GrpoSpec, labelled: Sequence[Loaded], unlabelled: Sequence[Loaded], ensemble: Ensemble
) -> list[Source]:
    """Return the source of labelled images, then that of unlabelled ones, as far as there are any."""
    found = []
    of_unlabelled = unlabelled_share(spec, labelled, unlabelled)
    if labelled:
        crops = CropSource(labelled, spec.crop, augment=True)
        share, terms = 1 - of_unlabelled, terms_of(spec)
        found.append(Source(labelled, crops, spec.batch_size, _WATCHED_CROPS, share, terms, ensemble))
    if unlabelled:
        n_drawn = spec.batch_size
        if spec.crop is not None:  # as many pixels as in a batch of crops, which end at their image
            part = min(1.0, spec.crop**2 / unlabelled[0].image[..., 0].size)
            n_drawn = max(1, round(n_drawn * part))
        crops = CropSource(unlabelled, None, augment=True)
        watched = max(_FEWEST_WATCHED, min(_WATCHED_IMAGES, len(unlabelled)))
        found.append(Source(unlabelled, crops, n_drawn, watched, of_unlabelled, None, ensemble))
    return found


def _shift(rng: np.random.Generator, side_px: int) -> tuple[int, int]:
    return int(rng.integers(side_px)), int(rng.integers(side_px))


def _image(pixels_3HW: Tensor) -> NDArray[np.uint8]:
    image_HWC: NDArray[np.uint8] = pixels_3HW.permute(1, 2, 0).contiguous().cpu().numpy()
    return image_HWC


def _true_reward(truth_HW: Masks, terms: Mapping[str, float], masks_KHW: Masks) -> Numbers:
    reward_K: Numbers = combine(score(masks_KHW, truth_HW, list(terms)), terms)
    return reward_K
