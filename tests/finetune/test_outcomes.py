"""What a slow segmenter answered in a rollout that was interrupted is not asked again."""

import math

import numpy as np
import pytest

from job.errors import Interrupted
from job.finetune import outcomes
from job.finetune.env import Outcome, TableRewards
from job.finetune.outcomes import KeptOutcomes

LIVE = {"rollout": "live"}


class Counts:
    """The world's rewards, and the questions that were asked."""

    def __init__(self, world):
        scores_NK = world.train_scores_NK
        self.source = TableRewards(scores_NK, scores_NK, scores_NK)
        self.asked = []

    def __call__(self, image, action):
        self.asked.append((image, action))
        return self.source(image, action)


@pytest.fixture
def always_due(monkeypatch):
    """Every outcome is kept."""
    monkeypatch.setattr(outcomes, "SAVE_EVERY_S", 0.0)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("stops", [(2,), (20,), (32,), (34,), (50,), (94,), (96,), (20, 26, 70, 70)])
def test_an_interrupted_live_training_asks_for_no_outcome_twice(world, tmp_path, stops_at, stops):
    """Stopped in the first rollout, at a boundary, in a later one, repeatedly: equal bits, no step twice."""
    whole, parts = Counts(world), Counts(world)
    expected = world.train(tmp_path / "whole", LIVE, outcome=whole)
    resume_folder = tmp_path / "resume"
    for stop in stops:
        with pytest.raises(Interrupted):
            world.train(
                tmp_path / "lost", LIVE, outcome=parts, progress=stops_at(stop), resume_folder=resume_folder
            )
    found = world.train(tmp_path / "last", LIVE, outcome=parts, resume_folder=resume_folder)
    assert parts.asked == whole.asked
    wanted = expected.policy.to_state_dict()
    for name, values in found.policy.to_state_dict().items():
        np.testing.assert_array_equal(values, wanted[name])


def test_outcomes_are_not_written_at_every_step(world, tmp_path, stops_at, monkeypatch):
    """Before the time has come nothing is kept: the rollout, which took less, is asked for again."""
    monkeypatch.setattr(outcomes, "SAVE_EVERY_S", math.inf)
    counts = Counts(world)
    with pytest.raises(Interrupted):
        world.train(tmp_path, LIVE, outcome=counts, progress=stops_at(50))
    world.train(tmp_path, LIVE, outcome=counts)
    assert len(counts.asked) == 96 + 50 - 32


def kept(source, path, key="k", first=0):
    """Open outcomes of rollouts of four steps."""
    return KeptOutcomes(source, path, key=key, first=first, rollout=4)


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize(("key", "first"), [("other", 0), ("k", 4)])
def test_outcomes_of_another_training_or_rollout_are_not_repeated(tmp_path, key, first):
    """Nor those of a file that is damaged; the steps must begin alike."""
    path = tmp_path / "outcomes.safetensors"
    one = kept(lambda image, action: Outcome(0.1 * image, math.nan, 0.3), path)
    before = [one(3, 1), one(5, 2)]
    never = kept(None, path)
    assert repr([never(3, 1), never(5, 2)]) == repr(before)  # NaN is not equal to itself
    other = kept(lambda image, action: Outcome(9.0, 9.0, 9.0), path, key, first)
    assert other(3, 1).reward == 9.0
    path.write_bytes(path.read_bytes()[:-1])
    assert kept(lambda image, action: Outcome(8.0, 8.0, 8.0), path, key, first)(3, 1).reward == 8.0


@pytest.mark.usefixtures("always_due")
def test_steps_that_differ_are_asked_anew(tmp_path):
    """From the first other step on nothing that was kept is used, and what is new is kept instead."""
    path = tmp_path / "outcomes.safetensors"
    one = kept(lambda image, action: Outcome(1.0, 1.0, 1.0), path)
    for image in range(4):
        one(image, 0)
    two = kept(lambda image, action: Outcome(2.0, 2.0, 2.0), path)
    assert [two(image, action).reward for image, action in ((0, 0), (1, 5), (2, 0))] == [1.0, 2.0, 2.0]
    three = kept(None, path)
    assert [three(image, action).reward for image, action in ((0, 0), (1, 5), (2, 0))] == [1.0, 2.0, 2.0]
