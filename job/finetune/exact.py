"""The exact solver: gradient ascent on the policy's expected reward over the whole action table.

The table knows the reward of every action, so nothing need be sampled: what PPO estimates from episodes is
computed, with the same network, start and entropy bonus. What this policy gains and PPO's does not is PPO's
loss; what neither gains is not in the table, or not in what the network sees.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from job.finetune.observation import Observations, Observer
from job.finetune.policy import Layer, Policy
from job.finetune.ppo import isolated, prior_logits
from job.metrics.statistics import patient_means
from job.progress import Progress
from job.spec.finetune import FinetuneSpec

UPDATES = 300
"""At most: beyond them left-out patients gain nothing more, on tables of 20 as of 100 images."""
LEARNING_RATE = 3e-3
"""Large enough for layers of 16 and 8 to arrive within `UPDATES`; where it overshoots, fewer are taken."""
FOLDS = 5
LEAST_PATIENTS = 3
"""With fewer, what learning brings to others cannot be told from chance."""
LEAST_EVIDENCE = 1.0
"""Standard errors by which the left-out gain must exceed 0 for any update to be taken."""

Rewards = NDArray[np.float64]
Parameters = list[torch.Tensor]
"""Weight `[M, in, out]` and bias `[M, 1, out]` of layer after layer, for M networks side by side."""


def train_exact(
    settings: FinetuneSpec,
    *,
    seed: int,
    observer: Observer,
    actions: Sequence[str],
    observations_ND: Observations,
    rewards_NK: Rewards,
    prior_K: Rewards | None,
    progress: Progress,
    patients: Sequence[str] | None = None,
) -> Policy:
    """Maximise the mean over N images of sum_k pi(k | x) r_k, plus `ent_coef` times the entropy of pi.

    Rewards are measured in their within-image standard deviation. The network has the layers of
    `settings.net_arch.pi` and begins with the prior in its action head where `prior_K`, the mean reward of
    each action, is given. Networks that learn without a fifth of the patients (of the images, where no
    patients are given) tell how many updates serve others best; unless that beats no update by a standard
    error there, the policy stays at its start, for with 20 images a network that learns on regardless can
    lose a Dice point to the best fixed action. Equal arguments give equal bits.

    Raises ValueError when shapes disagree or a number is not finite, and whatever `progress` raises.
    Sources: expected gradients over all actions, Allen et al. 2017 (arXiv 1709.00503, mean actor-critic);
    their place beside other objectives on logged rewards, Chen et al. (NeurIPS 2019).
    """
    _check(observer, actions, observations_ND, rewards_NK, prior_K, patients)
    groups = [str(i) for i in range(len(rewards_NK))] if patients is None else list(patients)
    fold_N = _folds(groups, seed)
    learns_MN = fold_N != np.arange(fold_N.max() + 2)[:, None]  # the last network leaves nothing out
    with isolated(seed):
        parameters = _start(settings, observations_ND.shape[1], rewards_NK, prior_K, learns_MN)
        if len(set(groups)) < LEAST_PATIENTS:
            learnt = _last(parameters)
        else:
            learnt = _ascend(
                parameters,
                settings.ent_coef,
                observations_ND,
                rewards_NK,
                fold_N,
                learns_MN,
                groups,
                progress,
            )
    pairs = zip(learnt[::2], learnt[1::2], strict=True)
    layers = [Layer(weight.numpy().T.copy(), bias.numpy()[0].copy()) for weight, bias in pairs]
    return Policy(observer, tuple(layers), tuple(actions))


def _check(
    observer: Observer,
    actions: Sequence[str],
    observations_ND: Observations,
    rewards_NK: Rewards,
    prior_K: Rewards | None,
    patients: Sequence[str] | None,
) -> None:
    n_images, n_actions = len(observations_ND), len(actions)
    if n_images == 0 or observations_ND.shape != (n_images, observer.size):
        raise ValueError(f"observations must be [N, {observer.size}], got {observations_ND.shape}")
    if rewards_NK.shape != (n_images, n_actions) or not np.isfinite(rewards_NK).all():
        raise ValueError(f"rewards must be finite [{n_images}, {n_actions}], got {rewards_NK.shape}")
    if prior_K is not None and (prior_K.shape != (n_actions,) or not np.isfinite(prior_K).all()):
        raise ValueError(f"the prior must be {n_actions} finite numbers, got {prior_K}")
    if patients is not None and len(patients) != n_images:
        raise ValueError(f"{n_images} images but {len(patients)} patients")


def _folds(groups: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Deal the groups into folds, `[N]`."""
    names, group_N = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    fold_of_group = np.empty(len(names), dtype=np.int64)
    fold_of_group[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % FOLDS
    return fold_of_group[group_N]


def _start(
    settings: FinetuneSpec,
    n_observed: int,
    rewards_NK: Rewards,
    prior_K: Rewards | None,
    learns_MN: NDArray[np.bool_],
) -> Parameters:
    """Draw one network as stable-baselines3 does, and give each copy the prior of what it learns from."""
    widths = [n_observed, *settings.net_arch.pi, rewards_NK.shape[1]]
    n_networks = len(learns_MN)
    parameters: Parameters = []
    for position, (n_in, n_out) in enumerate(pairwise(widths)):
        is_head = position == len(widths) - 2
        weight = torch.nn.init.orthogonal_(torch.empty(n_out, n_in), gain=0.01 if is_head else 2**0.5)
        bias = torch.zeros(n_networks, 1, n_out)
        parameters += [weight.T.repeat(n_networks, 1, 1), bias]
    if prior_K is not None:
        for m, learns_N in enumerate(learns_MN[:-1]):
            own_K = rewards_NK[learns_N].mean(axis=0) if learns_N.any() else prior_K
            parameters[-1][m, 0] = torch.from_numpy(prior_logits(own_K))
        parameters[-1][-1, 0] = torch.from_numpy(prior_logits(prior_K))
    return [values.requires_grad_() for values in parameters]


def _ascend(
    parameters: Parameters,
    ent_coef: float,
    observations_ND: Observations,
    rewards_NK: Rewards,
    fold_N: NDArray[np.int64],
    learns_MN: NDArray[np.bool_],
    groups: Sequence[str],
    progress: Progress,
) -> Parameters:
    """Update all networks; return the last one as it was after the number of updates to take."""
    observed_ND = torch.from_numpy(observations_ND)
    standard_NK = torch.from_numpy(_standardised(rewards_NK).astype(np.float32))
    weight_MN = torch.from_numpy((learns_MN / learns_MN.sum(axis=1, keepdims=True)).astype(np.float32))
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    images = np.arange(len(rewards_NK))

    def greedy(logits_MNK: torch.Tensor) -> tuple[Rewards, float]:
        """Give each image's reward by the network that left it out, and the last network's mean."""
        chosen_MN = logits_MNK.detach().argmax(dim=-1).numpy()
        left_out_N = rewards_NK[images, chosen_MN[fold_N, images]]
        return left_out_N, float(rewards_NK[images, chosen_MN[-1]].mean())

    start = best = _last(parameters)
    logits_MNK = _logits(parameters, observed_ND)
    start_N, _ = greedy(logits_MNK)
    best_N = start_N
    with progress.task("exact policy", UPDATES, "update") as task:
        for _ in range(UPDATES):
            log_MNK = torch.log_softmax(logits_MNK, dim=-1)
            value_MN = (log_MNK.exp() * (standard_NK - ent_coef * log_MNK)).sum(dim=-1)
            optimiser.zero_grad()
            torch.autograd.backward(-(weight_MN * value_MN).sum())  # each network climbs its own summand
            optimiser.step()
            logits_MNK = _logits(parameters, observed_ND)
            left_out_N, learnt = greedy(logits_MNK)
            if left_out_N.mean() > best_N.mean():
                best_N, best = left_out_N, _last(parameters)
            task.advance(reward=learnt, left_out_reward=float(left_out_N.mean()))
    return best if _is_evident(best_N - start_N, groups) else start


def _is_evident(gain_N: Rewards, groups: Sequence[str]) -> bool:
    gain_G = patient_means(gain_N, groups)
    error = gain_G.std(ddof=1) / np.sqrt(len(gain_G))
    return bool(gain_G.mean() > LEAST_EVIDENCE * error)


def _standardised(rewards_NK: Rewards) -> Rewards:
    """Centre each image's rewards and divide by their common deviation: step sizes then know no units."""
    centred_NK = rewards_NK - rewards_NK.mean(axis=1, keepdims=True)
    deviation = float(np.sqrt(np.square(centred_NK).mean()))
    rounding = 1e-9 * float(np.abs(rewards_NK).max())
    return centred_NK / deviation if deviation > rounding else np.zeros_like(centred_NK)


def _logits(parameters: Parameters, observed_ND: torch.Tensor) -> torch.Tensor:
    values = observed_ND.expand(len(parameters[0]), *observed_ND.shape)
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        values = torch.tanh(torch.baddbmm(bias, values, weight))
    return torch.baddbmm(parameters[-1], values, parameters[-2])


def _last(parameters: Parameters) -> Parameters:
    return [values[-1].detach().clone() for values in parameters]
