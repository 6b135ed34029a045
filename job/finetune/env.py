"""The environment: an image is shown, an action is chosen, its reward ends the episode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from job.finetune.observation import CLIP, Observations


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an action brought on an image: its reward, the mask's true Dice and the reward network's score.

    `gt_dice` is NaN for an unlabelled image, `reward_net` where no network scored.
    """

    reward: float
    gt_dice: float
    reward_net: float


RewardSource = Callable[[int, int], Outcome]
"""(image's row, action) -> outcome: a look-up in the action table, or a call of the segmenter."""


@dataclass(frozen=True)
class TableRewards:
    """A RewardSource that looks outcomes up; all arrays are float64 `[N, K]`."""

    rewards_NK: NDArray[np.float64]
    gt_dice_NK: NDArray[np.float64]
    reward_net_NK: NDArray[np.float64]

    def __call__(self, image: int, action: int) -> Outcome:
        """Return the outcome of `action` on the image of row `image`."""
        return Outcome(
            self.rewards_NK.item(image, action),
            self.gt_dice_NK.item(image, action),
            self.reward_net_NK.item(image, action),
        )


class ActionChoiceEnv(gymnasium.Env[Observations, np.int64]):
    """A contextual bandit as an environment of one-step episodes.

    Environment `e` of a job draws from a generator of its own, `(seed, e)`, and walks a fresh permutation of
    the N training images each pass, so that every image is seen equally often. An episode brings its own
    statistics in `info["episode"]`, as stable-baselines3's Monitor would, which costs more than the look-up.
    """

    def __init__(
        self, observations_ND: Observations, n_actions: int, outcome: RewardSource, *, seed: int, e: int = 0
    ) -> None:
        self.observation_space = spaces.Box(-CLIP, CLIP, observations_ND.shape[1:], np.float32)
        self.action_space = spaces.Discrete(n_actions)
        self._observations_ND = observations_ND
        self._outcome = outcome
        self._e = e
        self._generator = np.random.default_rng([seed, e])
        self._walk_N: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._position = 0
        self._image = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Show the next image of the walk; with a seed, start the walk `(seed, e)` anew."""
        super().reset(seed=seed)
        if seed is not None:
            # A generator of its own: nothing that others draw from `np_random` can move the walk.
            self._generator = np.random.default_rng([seed, self._e])
            self._walk_N, self._position = np.empty(0, dtype=np.int64), 0
        if self._position == len(self._walk_N):
            self._walk_N = self._generator.permutation(len(self._observations_ND))
            self._position = 0
        self._image = int(self._walk_N[self._position])
        self._position += 1
        return self._observations_ND[self._image].copy(), {}

    def step(self, action: np.int64) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Take the action on the shown image; the episode ends. `info` carries gt_dice and reward_net."""
        outcome = self._outcome(self._image, int(action))
        info = {
            "image": self._image,
            "gt_dice": outcome.gt_dice,
            "reward_net": outcome.reward_net,
            "episode": {"r": outcome.reward, "l": 1},
        }
        return self._observations_ND[self._image].copy(), outcome.reward, True, False, info

    def state(self) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Return what a resume needs: a JSON document and the current permutation."""
        document = {
            "generator": self._generator.bit_generator.state,
            "position": self._position,
            "image": self._image,
        }
        return document, self._walk_N

    def restore(self, document: dict[str, Any], walk_N: NDArray[np.int64]) -> None:
        """Go back to where `state` was taken."""
        self._generator.bit_generator.state = document["generator"]
        self._position = int(document["position"])
        self._image = int(document["image"])
        self._walk_N = walk_N
