"""A made-up world: images of two kinds, actions whose worth depends on the kind, and how to train on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from job.errors import Interrupted
from job.finetune.env import TableRewards
from job.finetune.observation import Observer
from job.finetune.ppo import PPOResult, train_ppo
from job.progress import SILENT, Progress
from job.spec.finetune import FinetuneSpec

SMALL: dict[str, Any] = {
    "total_timesteps": 96,
    "n_steps": 16,
    "batch_size": 16,
    "n_epochs": 2,
    "checkpoint_every": 40,
    "net_arch": {"pi": [8, 8], "vf": [8]},
}


@dataclass(frozen=True)
class World:
    """`scores_NK` of N training images first, then of new ones; `interaction` says how much kinds differ."""

    scores_NK: NDArray[np.float64]
    embeddings_NE: NDArray[np.float32]
    statistics_NS: NDArray[np.float32]
    n_train: int

    @classmethod
    def make(
        cls, seed: int, interaction: float, *, n_train: int = 20, n_new: int = 200, n_actions: int = 12
    ) -> "World":
        """Draw a world."""
        rng = np.random.default_rng(seed)
        n_images = n_train + n_new
        kind_N = np.where(rng.random(n_images) < 0.5, 1.0, -1.0)
        action_K, by_kind_K = rng.normal(0, 0.03, n_actions), rng.normal(0, interaction, n_actions)
        scores_NK = rng.normal(0.75, 0.04, n_images)[:, None] + action_K + np.outer(kind_N, by_kind_K)
        scores_NK += rng.normal(0, 0.005, scores_NK.shape)
        embeddings_NE = rng.normal(size=(n_images, 12)) + np.outer(kind_N, rng.normal(size=12))
        statistics_NS = np.column_stack(
            [kind_N + rng.normal(0, 0.2, n_images), rng.normal(size=(n_images, 3))]
        )
        return cls(scores_NK, embeddings_NE.astype(np.float32), statistics_NS.astype(np.float32), n_train)

    @property
    def actions(self) -> tuple[str, ...]:
        """Labels of the K actions."""
        return tuple(f"action {k}" for k in range(self.scores_NK.shape[1]))

    @property
    def train_scores_NK(self) -> NDArray[np.float64]:
        """Scores of the training images."""
        return self.scores_NK[: self.n_train]

    @property
    def observer(self) -> Observer:
        """The observer that the training images fit."""
        train = slice(self.n_train)
        return Observer.fit(self.embeddings_NE[train], self.statistics_NS[train], ["kind", "a", "b", "c"], 4)

    @property
    def observations_ND(self) -> NDArray[np.float32]:
        """What it observes of all images."""
        return self.observer.observe(self.embeddings_NE, self.statistics_NS)

    def train(self, folder: Path, settings: dict[str, Any] | None = None, **arguments: Any) -> PPOResult:
        """Call train_ppo on the training images; `settings` replace those of a very small training."""
        scores_NK = self.train_scores_NK
        defaults: dict[str, Any] = {
            "seed": 5,
            "observer": self.observer,
            "actions": self.actions,
            "observations_ND": self.observations_ND[: self.n_train],
            "outcome": TableRewards(scores_NK, scores_NK - 0.1, scores_NK + 0.1),
            "prior_K": scores_NK.mean(axis=0),
            "folder": folder,
            "resume_folder": folder / "resume",
            "start": None,
            "progress": SILENT,
        }
        return train_ppo(FinetuneSpec.model_validate(SMALL | (settings or {})), **(defaults | arguments))


class StopsAt:
    """A Progress that raises Interrupted once `step` steps have been counted, and remembers all counts."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.done = 0
        self.totals: list[int] = []

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator["StopsAt"]:
        """Open the task."""
        self.totals.append(total)
        yield self

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Count, and interrupt at the step."""
        assert all(np.isfinite(value) for value in figures.values())
        self.done += steps
        if self.done >= self.step:
            raise Interrupted("stop requested")


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Give the thread count back that a test found."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Give the builder of worlds: `make_world(seed, interaction)`."""
    return World.make


@pytest.fixture
def world() -> World:
    """Give a world where kinds of images differ strongly."""
    return World.make(0, 0.03)


@pytest.fixture
def stops_at() -> Callable[[int], Progress]:
    """Give the maker of a Progress that interrupts at a step."""
    return StopsAt
