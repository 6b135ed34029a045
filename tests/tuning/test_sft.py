"""Supervised fine-tuning: better on images that it was not shown, and never worse than its start."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import structlog
import torch

from job.errors import InputError
from job.progress import SILENT_TASK
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet
from job.spec.tuning import SftSpec
from job.tuning.gold import patients_scores
from job.tuning.phase import PhaseData, PhaseRoom
from job.tuning.sft import train_sft

Opened = Callable[[], TrainablePromptableUNet]


def spec(**changed: object) -> SftSpec:
    settings = {"steps": 30, "crop": 48, "batch_size": 2, "validate_every": 10}
    return SftSpec.model_validate({"algorithm": "sft", **settings, **changed})


@pytest.mark.parametrize("cldice_weight", [0.0, 0.5])
def test_dice_rises_on_validation(
    opened: Opened, data: PhaseData, room: PhaseRoom, cldice_weight: float
) -> None:
    """A prompt that found next to nothing comes to mean all vessels; the best state is kept."""
    model = opened()
    result = train_sft(spec(cldice_weight=cldice_weight), model, data, room)
    assert result.best_gold > result.start_gold + 0.3
    assert [row["step"] for row in result.curve] == [0, 10, 20, 30]
    assert result.curve[result.best_step // 10]["gold"] == result.best_gold
    gold = patients_scores(model, data, SILENT_TASK, ["dice"])["dice"]
    assert float(gold.mean()) == result.best_gold


def test_the_start_is_restored_where_nothing_is_better(
    opened: Opened, data: PhaseData, room: PhaseRoom
) -> None:
    """Taught the inverse of the truth it gets worse, is stopped by patience, and is what it was."""
    inverse = [replace(one, truth=~one.truth) for one in data.labelled if one.truth is not None]
    model = opened()
    before = model.state()
    settings = spec(steps=60, validate_every=5, patience=2, learning_rate=3e-3)
    result = train_sft(settings, model, replace(data, labelled=inverse), room)
    assert (result.ended, result.best_step, result.steps) == ("patience", 0, 10)
    assert result.curve[-1]["gold"] < result.start_gold
    assert all(torch.equal(values, before[name]) for name, values in model.state().items())


def test_a_course_that_only_went_down_is_warned_of(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """With the field to lower: the start that is kept would hide it."""
    inverse = [replace(one, truth=~one.truth) for one in data.labelled if one.truth is not None]
    wrong = replace(data, labelled=inverse, prompt="Segment all vessels, including the finest branches.")
    settings = spec(steps=20, validate_every=10, learning_rate=3e-3)
    with structlog.testing.capture_logs() as events:
        result = train_sft(
            settings, opened(), wrong, replace(room, log=structlog.get_logger(), field="finetune[1]")
        )
    assert (result.ended, result.best_step) == ("steps", 0)
    (warned,) = (event["message"] for event in events if event["event"] == "job.warning")
    assert f"from {result.start_gold:.3f} to {result.curve[-1]['gold']:.3f}" in warned
    assert result.facts["advice"] == "lower finetune[1].learning_rate (now 0.003)"
    assert result.facts["advice"] in warned


def test_images_are_needed(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """Without labelled or validation images there is nothing to learn from, or to judge by."""
    for lacking in (replace(data, labelled=[]), replace(data, validation=[])):
        with pytest.raises(InputError, match="labelled training images"):
            train_sft(spec(), opened(), lacking, room)
