"""A small world: pictures of two brightnesses, where the best action depends on the brightness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from job.actions import ActionSpace, PostProcess
from job.data.features import statistics_vector
from job.evaluation.ladder import Ladder, build
from job.finetune.observation import Observer
from job.finetune.policy import Layer, Policy
from job.segmenters.protocol import Segmentation
from job.table import ActionTable
from tests.segmenters.fakes import photographs, segmentation_of

SPACE = ActionSpace(("vessels", "thin vessels"), (PostProcess(0.5), PostProcess(0.8, low=0.4, min_area=2)))


@dataclass(frozen=True)
class World:
    """24 images of 12 patients; `table` has made-up scores, true features and a made-up network."""

    images: list[NDArray[np.uint8]]
    segmentations: list[Segmentation]
    table: ActionTable
    observer: Observer
    policy: Policy

    @property
    def labels(self) -> list[str]:
        """Labels of the four actions."""
        return [action.label for action in SPACE]

    @property
    def policies(self) -> dict[str, Policy]:
        """A policy a rung that has one: PPO's, and for the exact one the same with actions turned round."""
        head = self.policy.layers[0]
        turned = Layer(np.ascontiguousarray(head.weight[::-1]), head.bias)
        return {"exact": Policy(self.observer, (turned,), self.policy.actions), "ppo": self.policy}

    def ladder(self, rows: Sequence[int] = range(12), policies: Mapping[str, Policy] | None = None) -> Ladder:
        """Fit the ladder on some images."""
        return build(
            self.table.rows(rows), self.labels, len(SPACE.postprocess), self.observer, policies or {}, seed=7
        )


@pytest.fixture(scope="session")
def world() -> World:
    """The world."""
    rng = np.random.default_rng(3)
    bright_N = np.arange(24) % 2 == 0
    images = [
        (image // 2 + (120 if bright else 0)).astype(np.uint8)
        for image, bright in zip(photographs(24, size=(16, 16)), bright_N, strict=True)
    ]
    answers = [segmentation_of(image, SPACE.prompts) for image in images]
    features = [
        statistics_vector(image, None, answer.logits_PHW)
        for image, answer in zip(images, answers, strict=True)
    ]
    dice_NK = 0.6 + rng.normal(0, 0.005, (24, 4)) + np.array([0.0, 0.02, 0.03, 0.05])
    dice_NK[~bright_N, 1] += 0.15
    table = ActionTable(
        names=tuple(f"i{n}" for n in range(24)),
        patients=tuple(f"p{n // 2}" for n in range(24)),
        splits=("train",) * 12 + ("validation",) * 6 + ("test",) * 6,
        scores={"dice": dice_NK, "reward_net": dice_NK + rng.normal(0, 0.02, dice_NK.shape)},
        diversity_N=np.full(24, 0.2),
        embeddings_NE=np.stack([answer.embedding_D for answer in answers]),
        statistics_NS=np.stack([values for _, values in features]),
        statistic_names=features[0][0],
        judges={judge: rng.random((24, 4)) for judge in ("confidence", "consensus")},
    )
    train = table.of("train")
    observer = Observer.fit(train.embeddings_NE, train.statistics_NS, train.statistic_names, 2)
    head = Layer(rng.normal(size=(4, observer.size)).astype(np.float32), np.zeros(4, np.float32))
    policy = Policy(observer, (head,), tuple(action.label for action in SPACE))
    return World(images, answers, table, observer, policy)
