"""States of trainings as arrays: an optimiser that is restored takes the same steps."""

import numpy as np
import torch

from job.training_state import moments, part, restore_moments, with_prefix


def steps(optimizer: torch.optim.Optimizer, weights: torch.Tensor, n: int) -> None:
    for _ in range(n):
        optimizer.zero_grad()
        (weights.square().sum() + weights.sum()).backward()
        optimizer.step()


def test_a_restored_optimiser_goes_on_with_the_same_bits() -> None:
    """Its moments, as arrays, are all that it needs beside the weights."""
    weights = torch.linspace(-1, 1, 7).requires_grad_()
    optimizer = torch.optim.AdamW([weights], 0.1)
    steps(optimizer, weights, 3)
    arrays = {name: values.copy() for name, values in moments(optimizer).items()}
    again = weights.detach().clone().requires_grad_()
    restored = torch.optim.AdamW([again], 0.1)
    restore_moments(restored, arrays)
    steps(optimizer, weights, 2)
    steps(restored, again, 2)
    assert torch.equal(weights, again)


def test_parts_keep_apart() -> None:
    """A part has its own names again, also where one name begins another."""
    one, other = {"a": np.zeros(1), "b.c": np.ones(2)}, {"a": np.ones(3)}
    together = with_prefix("x", one) | with_prefix("xy", other)
    assert part(together, "x").keys() == one.keys()
    assert part(together, "xy")["a"].shape == (3,)
    assert part(together, "z") == {}
