"""Choosers that need no gradient: fixed actions, and ridge regression shrunk to the best fixed action.

All are fitted on training images alone, with the truth; none needs the truth to choose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.finetune.observation import Observations

Scores = NDArray[np.float64]

# Penalties relative to N: observations are standardised, so N is the size of a feature's sum of squares.
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Margins in units of the left-out error: how sure a switch away from the best fixed action must be.
MARGINS = (0.0, 0.25, 0.5, 1.0)
# Standard errors by which the left-out gain must exceed 0: the best of 24 settings looks good by chance.
LEAST_EVIDENCE = 2.0


def best_fixed(scores_NK: Scores) -> int:
    """Return the action of the highest mean score; of equals the first, which is the simplest.

    Rows of NaN (unlabelled images) do not count. Raises ValueError when no row is left.
    """
    return int(_labelled(scores_NK).mean(axis=0).argmax())


def best_fixed_prompt(scores_NK: Scores, n_postprocess: int) -> int:
    """Return the best action of any prompt with today's post-processing; actions are numbered `p * Q + q`."""
    if scores_NK.shape[1] % n_postprocess:
        raise ValueError(f"{scores_NK.shape[1]} actions are no multiple of {n_postprocess} post-processings")
    return best_fixed(scores_NK[:, ::n_postprocess]) * n_postprocess


def best_fixed_postprocess(scores_NK: Scores, n_postprocess: int) -> int:
    """Return the best action of today's prompt with any post-processing."""
    if scores_NK.shape[1] % n_postprocess:
        raise ValueError(f"{scores_NK.shape[1]} actions are no multiple of {n_postprocess} post-processings")
    return best_fixed(scores_NK[:, :n_postprocess])


def left_out_best_fixed(scores_NK: Scores, patients: Sequence[str]) -> NDArray[np.int64]:
    """Return for each image the action that is best on the images of all other patients, `[N]`.

    Scored so, the best fixed action owes nothing to having been chosen on the same images. Rows of NaN do not
    count; where no other patient has scores the choice is action 0, the no-op. Raises ValueError when lengths
    differ.
    """
    if len(patients) != len(scores_NK):
        raise ValueError(f"{len(scores_NK)} rows of scores but {len(patients)} patients")
    patients_N = np.asarray(patients, dtype=np.str_)
    is_labelled_N = np.isfinite(scores_NK).all(axis=1)
    chosen_N = np.zeros(len(scores_NK), dtype=np.int64)
    for patient in np.unique(patients_N):
        is_other_N = (patients_N != patient) & is_labelled_N
        if is_other_N.any():
            chosen_N[patients_N == patient] = best_fixed(scores_NK[is_other_N])
    return chosen_N


@dataclass(frozen=True)
class RidgeChooser:
    """The best fixed action, unless a linear model predicts more than `margin` from another one.

    `weights_DK` and `intercept_K` predict each action's gain over action `fixed`. `loo_gain` is the mean gain
    that the rule brought on training images left out of the fit, `loo_error` its standard error.
    """

    weights_DK: NDArray[np.float64]
    intercept_K: NDArray[np.float64]
    fixed: int
    margin: float
    penalty: float
    loo_gain: float
    loo_error: float

    @property
    def learned(self) -> bool:
        """False where it fell back to the best fixed action for every image."""
        return bool(self.weights_DK.any())

    def choose(self, observations_ND: Observations) -> NDArray[np.int64]:
        """Choose an action for each image, `[N]`."""
        return _switch(observations_ND @ self.weights_DK + self.intercept_K, self.fixed, self.margin)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays for a safetensors file."""
        rule = [self.fixed, self.margin, self.penalty, self.loo_gain, self.loo_error]
        return {"weights": self.weights_DK, "intercept": self.intercept_K, "rule": np.array(rule, np.float64)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> "RidgeChooser":
        """Rebuild from `to_tensors`; ValueError when tensors are missing, misshapen or not finite."""
        if set(tensors) != {"weights", "intercept", "rule"}:
            raise ValueError(f"a ridge chooser has weights, intercept and rule, got {sorted(tensors)}")
        weights_DK, intercept_K, rule = (tensors[name] for name in ("weights", "intercept", "rule"))
        if weights_DK.ndim != 2 or intercept_K.shape != weights_DK.shape[1:] or rule.shape != (5,):
            raise ValueError(f"weights {weights_DK.shape}, intercept {intercept_K.shape}, rule {rule.shape}")
        for values in (weights_DK, intercept_K, rule):
            if values.dtype != np.float64 or not np.isfinite(values).all():
                raise ValueError(f"a ridge chooser is made of finite float64 numbers, got {values.dtype}")
        fixed, margin, penalty, loo_gain, loo_error = (float(value) for value in rule)
        if not (fixed.is_integer() and 0 <= fixed < len(intercept_K)):
            raise ValueError(f"no action {fixed} among {len(intercept_K)}")
        return cls(weights_DK, intercept_K, int(fixed), margin, penalty, loo_gain, loo_error)


def fit_ridge(
    observations_ND: Observations, scores_NK: Scores, patients: Sequence[str] | None = None
) -> RidgeChooser:
    """Fit on N training images and their scores under K actions.

    Penalty and margin are those of the highest gain over the best fixed action on left-out images (left out
    patient by patient where `patients` are given); of equals the most cautious. Unless that gain exceeds 2
    standard errors, nothing is learnable here and the best fixed action is chosen for every image. Left-out
    predictions follow from one fit: the residuals of a left-out block g are (I - H_gg)^-1 times the fit's own
    (Cook and Weisberg 1982, chapter 2). Raises ValueError when shapes disagree or no image has scores.
    """
    if len(observations_ND) != len(scores_NK):
        raise ValueError(f"{len(observations_ND)} observations and {len(scores_NK)} rows of scores")
    is_labelled_N = np.asarray(np.isfinite(scores_NK).all(axis=1))
    fixed = best_fixed(scores_NK)
    gains_NK = scores_NK[is_labelled_N] - scores_NK[is_labelled_N, fixed][:, None]
    design_ND = observations_ND[is_labelled_N].astype(np.float64)
    blocks = _blocks(np.arange(len(scores_NK)) if patients is None else np.asarray(patients), is_labelled_N)

    chosen = RidgeChooser(
        np.zeros((design_ND.shape[1], gains_NK.shape[1])),
        np.zeros(gains_NK.shape[1]),
        fixed,
        0.0,
        0.0,
        0.0,
        0.0,
    )
    if len(blocks) < 3:
        return chosen
    for penalty in reversed(PENALTIES):
        left_out_NK, weights_DK, intercept_K = _left_out(
            design_ND, gains_NK, penalty * len(design_ND), blocks
        )
        error = float(np.sqrt(np.square(left_out_NK - gains_NK).mean()))
        for margin in reversed(MARGINS):
            actions_N = _switch(left_out_NK, fixed, margin * error)
            gain_N = gains_NK[np.arange(len(gains_NK)), actions_N]
            gain, gain_error = _mean_and_error(gain_N, blocks)
            if gain > LEAST_EVIDENCE * gain_error and gain > chosen.loo_gain:
                chosen = RidgeChooser(
                    weights_DK, intercept_K, fixed, margin * error, penalty, gain, gain_error
                )
    return chosen


def _labelled(scores_NK: Scores) -> Scores:
    labelled_NK = scores_NK[np.isfinite(scores_NK).all(axis=1)]
    if labelled_NK.size == 0:
        raise ValueError(f"no image with scores among {len(scores_NK)}")
    return labelled_NK


def _switch(gains_NK: Scores, fixed: int, margin: float) -> NDArray[np.int64]:
    gains_NK = gains_NK.copy()
    gains_NK[:, fixed] = -np.inf
    best_N = gains_NK.argmax(axis=1)
    is_worth_N = gains_NK[np.arange(len(gains_NK)), best_N] > margin
    return np.where(is_worth_N, best_N, fixed)


def _blocks(patients_N: NDArray[Any], is_labelled_N: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    _, block_N = np.unique(patients_N[is_labelled_N], return_inverse=True)
    return [np.flatnonzero(block_N == block) for block in range(block_N.max() + 1)]


def _left_out(
    design_ND: NDArray[np.float64], targets_NK: Scores, penalty: float, blocks: Sequence[NDArray[np.int64]]
) -> tuple[Scores, NDArray[np.float64], NDArray[np.float64]]:
    """Return predictions `[N, K]` of each block by a fit without it, and the full fit itself."""
    mean_D = design_ND.mean(axis=0)
    centred_ND = design_ND - mean_D
    gram_DD = centred_ND.T @ centred_ND + penalty * np.eye(design_ND.shape[1])
    solved_DN = np.linalg.solve(gram_DD, centred_ND.T)
    weights_DK = solved_DN @ targets_NK
    intercept_K = targets_NK.mean(axis=0) - mean_D @ weights_DK
    residuals_NK = targets_NK - design_ND @ weights_DK - intercept_K
    left_out_NK = np.empty_like(targets_NK)
    for block in blocks:
        # The intercept is not penalised: it adds 1 / N to every element of the hat matrix.
        hat_BB = centred_ND[block] @ solved_DN[:, block] + 1.0 / len(design_ND)
        unseen_BK = np.linalg.solve(np.eye(len(block)) - hat_BB, residuals_NK[block])
        left_out_NK[block] = targets_NK[block] - unseen_BK
    return left_out_NK, weights_DK, intercept_K


def _mean_and_error(gain_N: NDArray[np.float64], blocks: Sequence[NDArray[np.int64]]) -> tuple[float, float]:
    """Mean over images; its standard error takes images of one block as one."""
    deviation_B = np.array([(gain_N[block] - gain_N.mean()).sum() for block in blocks])
    n_blocks = len(blocks)
    error = np.sqrt(n_blocks / (n_blocks - 1) * np.square(deviation_B).sum()) / len(gain_N)
    return float(gain_N.mean()), float(error)
