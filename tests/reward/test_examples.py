"""What the reward network learns from is the same whoever makes it."""

import threading
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from job import table_bounds, workers
from job.actions import ActionSpace, MaskBlocks, PostProcess, apply_all
from job.data.fundus import sample
from job.data.on_demand import OnDemand
from job.errors import Interrupted
from job.reward.corruptions import corrupted
from job.reward.examples import Example, LabelledImages, prepare
from job.reward.inputs import image_channels
from job.reward.terms import score

N, SIDE, GRID = 7, 80, 48
SPACE = ActionSpace(("all", "major"), (PostProcess(), PostProcess(threshold=0.3, min_area=9)))
PICTURES = [sample(i, seed=3, size=SIDE) for i in range(N)]
PATIENTS = [f"patient {i // 2}" for i in range(N)]
GROUPS = [0, 0, 1, 1, 0, 0, 1]
ROOM_FOR_ALL, ROOM_FOR_SOME = 2**30, 9 * N * GRID * GRID


def logits_of(image: np.ndarray) -> np.ndarray:
    """Return logits of two prompts: dark is vessel."""
    green = image[..., 1].astype(np.float16)
    return np.stack([30 - green / 2, 20 - green / 2])


@pytest.fixture
def images() -> LabelledImages:
    return LabelledImages(
        images=OnDemand(N, lambda i: PICTURES[i].image_HWC),
        truths=OnDemand(N, lambda i: PICTURES[i].mask_HW),
        patients=PATIENTS,
        sizes=[(SIDE, SIDE)] * N,
        n_actions=len(SPACE),
        masks_of=lambda i, image: MaskBlocks(SPACE, logits_of(image), (SIDE, SIDE), 3),
    )


def expected(i: int) -> Example:
    """Make an example with every mask the plain way: all at once, on one core, by torch."""
    truth, image = PICTURES[i].mask_HW, PICTURES[i].image_HWC
    others = [PICTURES[j].mask_HW for j in range(N) if GROUPS[j] == GROUPS[i] and PATIENTS[j] != PATIENTS[i]]
    own = apply_all(SPACE, logits_of(image), truth.shape)
    masks = np.concatenate([own, corrupted(truth, others, np.random.default_rng([5, 2, i]))])
    shares = F.adaptive_avg_pool2d(torch.from_numpy(masks).float(), (GRID, GRID))
    return Example(
        channels_CHW=image_channels(image, GRID),
        truth_HW=shares[-1],
        masks_MHW=(shares * 255).round().byte(),
        dice_M=score(masks, truth, ["dice"])["dice"],
        n_actions=len(own),
    )


@pytest.mark.parametrize(("threads", "worth"), [(1, 10**9), (3, 10**9), (5, 1)])
def test_any_number_of_threads_or_processes_makes_the_same_examples(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch, threads: int, worth: int
) -> None:
    """Bit for bit those that are made the plain way; and where few masks are kept, the same of them."""
    started = Mock(side_effect=workers.processes)
    monkeypatch.setattr(workers, "processes", started)
    monkeypatch.setattr(table_bounds, "WORTH_PROCESSES", worth)
    made = prepare(images, GRID, GROUPS, seed=5, memory_bytes=ROOM_FOR_ALL, threads=threads)
    plain = [expected(i) for i in range(N)]
    assert [one.digest for one in made] == [one.digest for one in plain]
    some = prepare(images, GRID, GROUPS, seed=5, memory_bytes=ROOM_FOR_SOME, threads=threads)
    kept = np.sort(np.random.default_rng([5, 3]).choice(len(plain[0].dice_M), 9, replace=False))
    assert [one.digest for one in some] == [
        replace(
            one, masks_MHW=one.masks_MHW[kept], dice_M=one.dice_M[kept], n_actions=int((kept < 4).sum())
        ).digest
        for one in plain
    ]
    assert started.called == (threads > workers.MOST_THREADS)


@pytest.mark.parametrize("worth", [10**9, 1])
def test_a_stop_ends_everybody(images: LabelledImages, monkeypatch: pytest.MonkeyPatch, worth: int) -> None:
    """No thread is left behind, and what a stop raises comes out."""
    monkeypatch.setattr(table_bounds, "WORTH_PROCESSES", worth)
    progress = Mock(task=lambda *_: nullcontext(Stops(after=2)))
    before = set(threading.enumerate())
    with pytest.raises(Interrupted):
        prepare(images, GRID, GROUPS, seed=5, memory_bytes=ROOM_FOR_ALL, threads=5, progress=progress)
    assert not set(threading.enumerate()) - before


class Stops:
    """A task that wants no more after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int = 1) -> None:
        """Count down."""
        self.left -= steps
        if self.left < 0:
            raise Interrupted("stop requested")
