"""Sampled masks: each pixel as likely as its probability says, neighbours alike, and their formulas."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from job.tuning import sampling
from job.tuning.sampling import bernoulli_kl, correlated_noise, log_probability, sample_masks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("size", [(12, 17), (16, 16)])
def test_marginals_are_those_of_the_logits(size: tuple[int, int], antithetic: bool) -> None:
    """Over many samples each pixel is foreground as often as its logit says, at any size."""
    logits = torch.linspace(-4, 4, size[0] * size[1]).reshape(1, *size)
    n = 8000
    masks = sample_masks(logits.sigmoid(), correlated_noise(1, n, size, generator(), antithetic=antithetic))
    probability = logits[0].sigmoid()
    error = (masks[0].float().mean(0) - probability) / (probability * (1 - probability) / n).sqrt()
    assert error.abs().max() < 4.5
    assert error.square().mean() < 1.6  # 1 for independent samples, about which correlated pixels scatter


def test_neighbours_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise is correlated over a few pixels, and white where the only scale is 0."""

    def correlation(distance: int) -> float:
        noise = correlated_noise(1, 400, (32, 32), generator())[0].numpy()
        return float(np.mean(noise[..., distance:] * noise[..., :-distance]))

    assert correlation(1) > 0.5
    assert 0.2 < correlation(4) < correlation(1)
    monkeypatch.setattr(sampling, "SCALES_PX", (0.0,))
    assert abs(correlation(1)) < 0.02


def test_opposite_noise_comes_in_pairs() -> None:
    """With antithetic noise, pixels of a fair coin are foreground in exactly one mask of a pair."""
    masks = sample_masks(
        torch.full((2, 8, 8), 0.5), correlated_noise(2, 5, (8, 8), generator(), antithetic=True)
    )
    assert torch.equal(masks[:, 3:], ~masks[:, :2])


def test_equal_generators_give_equal_noise() -> None:
    """What is sampled depends on the generator alone."""
    one, two = (correlated_noise(1, 3, (9, 9), generator(5)) for _ in range(2))
    assert torch.equal(one, two)


def test_formulas_agree_with_torch() -> None:
    """Log-probabilities and divergences of pixels are those of torch's Bernoulli."""
    logits, reference = torch.randn(2, 50, generator=generator()) * 4
    masks = torch.rand(50, generator=generator(1)) < 0.5
    now, then = Bernoulli(logits=logits), Bernoulli(logits=reference)
    assert torch.allclose(log_probability(logits, masks), now.log_prob(masks.float()), atol=1e-5)
    assert torch.allclose(bernoulli_kl(logits, reference), kl_divergence(now, then), atol=1e-5)
    assert bernoulli_kl(logits, logits).abs().max() < 1e-6
