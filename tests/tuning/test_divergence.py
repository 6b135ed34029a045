"""A phase that diverges ends with its best state, and says what was not finite."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import structlog
import torch

from job.errors import Interrupted, InvalidResult
from job.progress import Task
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet
from job.spec.tuning import GrpoSpec, SftSpec, TuningSpec
from job.tuning import grpo, sft
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom
from tests.questions import Questions

Opened = Callable[[], TrainablePromptableUNet]
SHORT = {"steps": 12, "crop": 48, "batch_size": 2, "validate_every": 4}
LEARNERS = {"sft": sft._Supervised, "grpo": grpo._Reinforced}


def spec_of(algorithm: str) -> TuningSpec:
    kind = {"sft": SftSpec, "grpo": GrpoSpec}[algorithm]
    more = {} if algorithm == "sft" else {"samples": 2, "window": 16, "kl_budget": 100.0}
    return kind.model_validate({"algorithm": algorithm, **SHORT, **more})


def train(algorithm: str, model: TrainablePromptableUNet, data: PhaseData, room: PhaseRoom) -> PhaseResult:
    room = replace(room, field="finetune[2]")
    spec = spec_of(algorithm)
    if isinstance(spec, SftSpec):
        return sft.train_sft(spec, model, data, room)
    assert isinstance(spec, GrpoSpec)
    return grpo.train_grpo(spec, model, data, room)


def break_at(monkeypatch: pytest.MonkeyPatch, algorithm: str, at: int, what: str) -> None:
    """Make the loss of a step infinite, or the weights after it no numbers."""
    learner = LEARNERS[algorithm]
    step_of = learner.step

    def step(self: object, step: int, task: Task) -> tuple[float, Mapping[str, float]]:
        loss, figures = step_of(self, step, task)  # type: ignore[arg-type]
        if step == at and what == "loss":
            return math.inf, figures
        if step == at:
            with torch.no_grad():
                self._model.parameters()["head.bias"].fill_(np.nan)  # type: ignore[attr-defined]
        return loss, figures

    monkeypatch.setattr(learner, "step", step)


@pytest.mark.parametrize("algorithm", LEARNERS)
@pytest.mark.parametrize(
    ("what", "at", "steps", "told"),
    [
        ("loss", 0, 0, "after 0 of 12 steps: the loss is infinite"),
        ("loss", 5, 5, "after 5 of 12 steps: the loss is infinite"),
        ("weights", 7, 8, "after 8 of 12 steps: the segmenter's logits of a validation image are not finite"),
    ],
)
def test_the_best_state_is_restored(
    opened: Opened, data: PhaseData, room: PhaseRoom, monkeypatch: pytest.MonkeyPatch,
    algorithm: str, what: str, at: int, steps: int, told: str,
) -> None:  # fmt: skip
    """In a step or at a look; that of the start where no other was seen, and all that is known is told."""
    break_at(monkeypatch, algorithm, at, what)
    model = opened()
    start = model.state()
    with structlog.testing.capture_logs() as events:
        result = train(algorithm, model, data, room)
    assert (result.ended, result.steps) == ("diverged", steps)
    assert [row["step"] for row in result.curve] == ([0] if at == 0 else [0, 4])
    assert result.best_step in {row["step"] for row in result.curve}
    assert result.best_gold >= result.start_gold
    assert all(torch.isfinite(values).all() for values in model.state().values())
    if not result.best_step:
        assert all(torch.equal(values, start[name]) for name, values in model.state().items())
    assert result.facts.items() >= {
        "labelled": 4, "diverged": told, "advice": "lower finetune[2].learning_rate (now 0.001)",
    }.items()  # fmt: skip
    (warned,) = [event["message"] for event in events if event["event"] == "job.warning"]
    kept = f"its state of step {result.best_step}" if result.best_step else "its start"
    assert warned == (
        f"{algorithm} (finetune[2]) diverged {told}; {kept} is kept:"
        " lower finetune[2].learning_rate (now 0.001)"
    )


@pytest.mark.parametrize("algorithm", LEARNERS)
def test_a_model_that_is_broken_from_the_start_is_an_error(
    opened: Opened, data: PhaseData, room: PhaseRoom, algorithm: str
) -> None:
    """Nothing can be restored, and no learning rate helps."""
    model = opened()
    with torch.no_grad():
        model.parameters()["head.bias"].fill_(np.nan)
    with pytest.raises(InvalidResult, match="not finite") as caught:
        train(algorithm, model, data, room)
    assert "segmenter.uri" in caught.value.advice


def test_a_stop_before_it_diverges_changes_nothing(
    opened: Opened, data: PhaseData, room: PhaseRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does asking again once it has: how it diverged is told each time."""
    break_at(monkeypatch, "sft", 6, "loss")
    expected = train("sft", opened(), data, room)
    assert train("sft", opened(), data, room) == expected
    elsewhere = replace(room, resume_folder=room.resume_folder / "b")
    with pytest.raises(Interrupted):
        train("sft", opened(), data, replace(elsewhere, progress=Questions(9)))
    assert train("sft", opened(), data, elsewhere) == expected
