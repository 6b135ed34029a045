"""The reward networks of a phase: cautious judges of unlabelled images, taught anew on the model's own masks.

One network's errors are soon found by what maximises it. Several differ most where none of them knows, so
that their mean less a few deviations rewards what is known (Coste et al. 2024, arXiv:2310.02743); and what
the model now makes of labelled images, beside the truth, teaches them what they had rewarded in vain.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from job.device import one_thread
from job.progress import Task
from job.reward import terms
from job.reward.coverage import coverage_bytes
from job.reward.examples import Example
from job.reward.inputs import image_channels, mask_coverage
from job.reward.network import NetworkJudge, RewardNetwork
from job.reward.one_network import mean_squared_error, train_network
from job.training_state import Arrays, part, with_prefix
from job.tuning.estimators import Masks, Numbers

_EPOCHS = 2
_BATCH_SIZE = 32
_LEARNING_RATE = 3e-4


Shown = tuple[NDArray[np.uint8], Masks, Masks]
"""An image `[H, W, 3]`, its truth `[H, W]`, and masks `[K, H, W]` that the model made of it."""


class Ensemble:
    """Copies of reward networks that judge together; `k_sd` deviations are taken off their mean."""

    def __init__(self, networks: Sequence[RewardNetwork], k_sd: float, device: str) -> None:
        self._k_sd, self._device = k_sd, device
        self._open([copy.deepcopy(network).cpu() for network in networks])

    def score(self, image_HWC: NDArray[np.uint8], masks_KHW: Masks) -> Numbers:
        """Return the cautious score of each mask `[K]`; InvalidResult when a network gives no number."""
        return self._cautious(self._judge.each(image_HWC, masks_KHW))

    def window_scores(
        self,
        image_HWC: NDArray[np.uint8],
        masks_KHW: Masks,
        base_HW: Masks,
        side_px: int,
        shift: tuple[int, int],
    ) -> Numbers:
        """Return the cautious score of `base_HW` with one window of one mask in it, `[K, rows, columns]`."""
        return self._cautious(self._judge.each_window(image_HWC, masks_KHW, base_HW, side_px, shift))

    def retrain(self, shown: Sequence[Shown], seed: int, task: Task) -> dict[str, float]:
        """Teach every network the true Dice of masks; return their MSE on held-out images before and after.

        Each holds back other images, by which its best epoch is kept, its state before among them. A single
        image has to do both, and what is known of it says nothing: then there are no figures. Raises
        InvalidResult when a training diverges, and what `task` raises: then nothing has changed.
        """
        taught, before, after = [], [], []
        with one_thread():
            grids = {network.config.max_side for network in self._networks}
            examples_of = {grid: [_example(one, grid) for one in shown] for grid in grids}
            for n, network in enumerate(self._networks):
                examples = examples_of[network.config.max_side]
                held_out = examples[n % len(examples) :: max(2, len(self._networks))]
                rest = [example for example in examples if not any(example is one for one in held_out)]
                start = copy.deepcopy(network).to(self._device)
                mse = mean_squared_error(start, held_out, self._device, task)
                trained = train_network(
                    start, mse, rest or examples, held_out, settings=_Teaching(), seed=seed + n,
                    device=self._device, checkpoint=None, task=_Looking(task),
                )  # fmt: skip
                taught.append(trained.network)
                before.append(mse)
                after.append(trained.history[trained.best_epoch]["validation_mse"])
        self._open(taught)
        if len(shown) == 1:
            return {}
        return {"mse_before": float(np.mean(before)), "mse_after": float(np.mean(after))}

    def state(self) -> Arrays:
        """Return the networks' weights."""
        arrays: Arrays = {}
        for n, network in enumerate(self._networks):
            arrays |= with_prefix(str(n), {key: v.numpy() for key, v in network.state_dict().items()})
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Put back what `state` returned."""
        for n, network in enumerate(self._networks):
            of_one = part(arrays, str(n))
            network.load_state_dict({key: torch.from_numpy(v) for key, v in of_one.items()})
        self._open(self._networks)

    def _open(self, networks: list[RewardNetwork]) -> None:
        self._networks = networks
        if networks:  # without unlabelled images nothing is asked
            self._judge = NetworkJudge(networks, self._device)

    def _cautious(self, scores_N: Numbers) -> Numbers:
        cautious: Numbers = scores_N.mean(axis=0) - self._k_sd * scores_N.std(axis=0)
        return cautious


@dataclass(frozen=True)
class _Teaching:
    epochs: int = _EPOCHS
    batch_size: int = _BATCH_SIZE
    learning_rate: float = _LEARNING_RATE
    folds: int = 2


class _Looking:
    """A task that asks whether to stop, but counts nothing: the steps are not the phase's."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def advance(self, steps: int = 1, **figures: float) -> None:
        self._task.advance(0)


def _example(shown: Shown, max_side: int) -> Example:
    image_HWC, truth_HW, masks_KHW = shown
    channels = image_channels(image_HWC, max_side)
    size = (channels.shape[1], channels.shape[2])
    return Example(
        channels_CHW=channels,
        truth_HW=mask_coverage(truth_HW[None], size)[0],
        masks_MHW=torch.from_numpy(coverage_bytes(masks_KHW, size)),
        dice_M=terms.score(masks_KHW, truth_HW, ["dice"])["dice"],
        n_actions=len(masks_KHW),
    )
