"""How scores of N images under K actions vary: from image to image, from action to action, and jointly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Variation:
    """Standard deviations of the two-way decomposition x_ik = mean + image_i + action_k + interaction_ik.

    All divide by the number of cells, so that squares add up: total = between + action + interaction, and
    within = action + interaction. `action` is what the best fixed action can win, `interaction` what only a
    choice per image can.
    """

    within: float
    """sqrt(mean_ik (x_ik - x_i.)^2): root mean square over images of the deviation over actions."""
    between: float
    """sqrt(mean_i (x_i. - x_..)^2)."""
    action: float
    """sqrt(mean_k (x_.k - x_..)^2)."""
    interaction: float
    """sqrt(mean_ik (x_ik - x_i. - x_.k + x_..)^2)."""


def two_way(values_NK: Scores) -> Variation:
    """Decompose finite `values [N, K]`."""
    image_N1 = values_NK.mean(axis=1, keepdims=True)
    action_K = values_NK.mean(axis=0)
    mean = values_NK.mean()
    return Variation(
        within=_rms(values_NK - image_N1),
        between=_rms(image_N1 - mean),
        action=_rms(action_K - mean),
        interaction=_rms(values_NK - image_N1 - action_K + mean),
    )


def within_image(values_NK: Scores) -> Scores:
    """Subtract each image's mean over its actions, `[N, K]`."""
    centred: Scores = values_NK - values_NK.mean(axis=1, keepdims=True)
    return centred


def _rms(values: Scores) -> float:
    return float(np.sqrt((values**2).mean()))
