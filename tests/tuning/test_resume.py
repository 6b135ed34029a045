"""An interrupted phase goes on and ends with the bits of an uninterrupted one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import structlog
import torch

from job.errors import Interrupted, storage_error
from job.reward.network import RewardNetworkConfig
from job.reward.network_file import scratch
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet
from job.spec.tuning import GrpoSpec, SftSpec, TuningSpec
from job.tuning.grpo import train_grpo
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom
from job.tuning.resume import FILE
from job.tuning.sft import train_sft
from tests.questions import Questions

Opened = Callable[[], TrainablePromptableUNet]
SHORT = {"steps": 7, "crop": 32, "batch_size": 2, "validate_every": 3}
PHASES: list[TuningSpec] = [
    SftSpec.model_validate({"algorithm": "sft", **SHORT}),
    GrpoSpec.model_validate(
        {
            "algorithm": "grpo",
            **SHORT,
            "samples": 2,
            "window": 16,
            "updates": 3,
            "temperature": 0.5,
            "round_every": 2,
            "round_images": 2,
        }
    ),
]


def train(spec: TuningSpec, model: TrainablePromptableUNet, data: PhaseData, room: PhaseRoom) -> PhaseResult:
    if isinstance(spec, SftSpec):
        return train_sft(spec, model, data, room)
    assert isinstance(spec, GrpoSpec)
    return train_grpo(spec, model, data, room)


@pytest.mark.parametrize("spec", PHASES, ids=["sft", "grpo"])
def test_a_stop_anywhere_changes_no_bit(
    opened: Opened, data: PhaseData, room: PhaseRoom, spec: TuningSpec
) -> None:
    """Stopped at drawn places, in steps, looks and trainings of networks, the end is the same."""
    networks = [scratch(n, RewardNetworkConfig(widths=(4, 8), readings=2, max_side=48)) for n in range(2)]
    mixed = replace(data, unlabelled=[replace(one, truth=None) for one in data.validation])
    room = replace(room, networks=networks)
    whole, questions = opened(), Questions()
    expected = train(spec, whole, mixed, replace(room, progress=questions))
    assert questions.asked > 12
    stops = np.random.default_rng(7).integers(1, questions.asked + 1, 2)
    for stop_at in map(int, stops):
        elsewhere = replace(room, resume_folder=room.resume_folder / str(stop_at))
        with pytest.raises(Interrupted):
            train(spec, opened(), mixed, replace(elsewhere, progress=Questions(stop_at)))
        resumed = opened()
        with structlog.testing.capture_logs() as events:
            result = train(spec, resumed, mixed, elsewhere)
        assert events[0]["event"] == "phase.resumed"
        again = [row["step"] for row in events[1:]]  # none of the looks before the stop
        assert again == [row["step"] for row in expected.curve[len(expected.curve) - len(again) :]]
        assert all(step >= events[0]["step"] for step in again)
        assert result == expected
        for name, values in whole.state().items():
            assert torch.equal(resumed.state()[name], values), name


def test_a_finished_phase_is_read_back(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """The same call again takes no step; other settings start over."""
    first = opened()
    result = train(PHASES[0], first, data, room)
    questions = Questions()
    again = opened()
    assert train(PHASES[0], again, data, replace(room, progress=questions)) == result
    assert questions.asked <= 1
    assert all(torch.equal(again.state()[name], values) for name, values in first.state().items())
    changed = PHASES[0].model_copy(update={"learning_rate": 1e-4})
    assert (
        train(changed, opened(), data, replace(room, progress=(other := Questions()))).curve != result.curve
    )
    assert other.asked > 7


def test_a_damaged_state_starts_over(opened: Opened, data: PhaseData, room: PhaseRoom) -> None:
    """A file that cannot be read costs time only, and is told; none, or that of another phase, is not."""
    with structlog.testing.capture_logs() as events:
        result = train(PHASES[0], opened(), data, room)
        changed = PHASES[0].model_copy(update={"learning_rate": 1e-4})
        train(changed, opened(), data, room)
    assert {event["event"] for event in events} == {"phase.step"}
    (file,) = room.resume_folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with structlog.testing.capture_logs() as events:
        assert train(PHASES[0], opened(), data, room) == result
    assert (events[0]["event"], events[0]["log_level"]) == ("job.warning", "warning")
    told = events[0]["message"]
    assert told.startswith(f"{file}: ")
    assert "is cut short" in told
    assert told.endswith("; the phase begins at step 0")
    assert events[1]["step"] == 0


def test_a_folder_in_place_of_the_state_is_said_to_be_one(
    opened: Opened, data: PhaseData, room: PhaseRoom
) -> None:
    """Nothing can be kept there, whoever owns it: it must go."""
    (room.resume_folder / FILE).mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as failed:
        train(PHASES[0], opened(), data, room)
    told = storage_error(failed.value)
    assert told is not None
    assert str(told) == f"cannot use {room.resume_folder / FILE}: Is a directory"
    assert told.advice.startswith(f"move {room.resume_folder / FILE} away")
