"""A segmenter that can be stopped in the middle of a call."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from job.errors import Interrupted
from job.segmenters.protocol import Segmentation
from job.segmenters.stoppable import StoppableSegmenter
from tests.segmenters.fakes import FakeSegmenter, photographs

N_LAYERS = 5


class Layered(FakeSegmenter):
    """Runs a network of a few layers on the way to its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(*(torch.nn.Identity() for _ in range(N_LAYERS)))

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Answer as the fake does."""
        self.network(torch.zeros(1))
        return super().segment(images, prompts)


@pytest.mark.parametrize("question", [1, 2, N_LAYERS + 1])
def test_a_call_ends_at_the_next_layer(question: int) -> None:
    """Before the first one, between two, before the last: without an answer, and nobody is asked again."""
    asked: list[int] = []

    def look() -> None:
        asked.append(1)
        if len(asked) == question:
            raise Interrupted("stop requested")

    inner = Layered()
    with pytest.raises(Interrupted):
        StoppableSegmenter(inner, look).segment(photographs(1), ["vessels"])
    assert inner.calls == []
    inner.network(torch.zeros(1))
    assert len(asked) == question


def test_a_call_that_nobody_stops_answers_as_before() -> None:
    """The same answer under the same key."""
    asked: list[int] = []
    segmenter, images = StoppableSegmenter(Layered(), lambda: asked.append(1)), photographs(2)
    answers = segmenter.segment(images, ["vessels"])
    assert len(asked) == N_LAYERS + 1
    assert segmenter.key == FakeSegmenter.key
    for answer, wanted in zip(answers, FakeSegmenter().segment(images, ["vessels"]), strict=True):
        np.testing.assert_array_equal(answer.logits_PHW, wanted.logits_PHW)
