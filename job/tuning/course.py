"""The course of a phase, whatever learns in it: steps, looks, guards, the best state kept, resume."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from job.errors import DeadlineReached, Interrupted, InvalidResult
from job.progress import Task
from job.reward.terms import combine
from job.segmenters.trainable import Trainable
from job.spec.tuning import TuningSpec
from job.storage.digests import tensors_digest
from job.training_state import Arrays
from job.tuning import guards
from job.tuning.gold import BROKEN, patients_scores
from job.tuning.phase import DEFAULT_TERMS, PhaseData, PhaseResult, PhaseRoom
from job.tuning.resume import PhaseFile, State

_SHOWN = ("gold", "proxy", "kl")
"""Figures of the latest look that progress shows at each step."""
_WORDS = {"loss": "the loss", "kl": "its divergence from the start"}
_RISING = 0.05
_LEAST_RATE = 0.01
_COLLAPSE = 0.05
"""A fall of Dice to the end, with nothing better than the start, that is worth a warning."""


@dataclass(frozen=True)
class Seen:
    """What a phase sees of itself: its objective `[N]` on samples that stay the same, and figures."""

    proxy: NDArray[np.float64]
    figures: Mapping[str, float]


class Learner(Protocol):
    """What differs between phases."""

    worth: Mapping[str, float]
    """True terms on validation, and their weights, of which the kept state has most."""
    slack: float
    """Mean gold that may be given up for them."""

    def step(self, step: int, task: Task) -> tuple[float, dict[str, float]]:
        """Leave gradients of step `step` (from 0) in the model; return its loss, and figures worth showing.

        What is random in it depends on `step` alone, and nothing but the model changes unless it returns.
        """

    def look(self, task: Task) -> Seen:
        """Judge the model as it is by the phase's own objective."""

    def state(self) -> Arrays:
        """Return what else the next steps depend on."""

    def restore(self, arrays: Arrays) -> None:
        """Put back what `state` returned."""


class Supervised:
    """What a `Learner` without an objective beside its loss has: true Dice alone says how it goes."""

    worth: Mapping[str, float] = DEFAULT_TERMS
    slack = 0.0

    def look(self, task: Task) -> Seen:
        """See nothing."""
        return Seen(np.zeros(0), {})

    def state(self) -> Arrays:
        """Keep nothing."""
        return {}

    def restore(self, arrays: Arrays) -> None:
        """Put nothing back."""


def run(
    spec: TuningSpec,
    limits: guards.Limits,
    learner: Learner,
    model: Trainable,
    data: PhaseData,
    room: PhaseRoom,
    name: str,
) -> PhaseResult:
    """Train `model` to the phase's end, and leave its best state in it, that of the start among them.

    A call that goes on from what an interrupted one left in `room.resume_folder` ends with the same bits on
    a CPU. Training that diverges ends, with a warning, and its facts say how. Raises InvalidResult where the
    very first look finds what is not finite, and what `room.progress` raises.
    """
    return _Course(spec, limits, learner, model, data, room, name).run()


@dataclass(frozen=True)
class _Course:
    spec: TuningSpec
    limits: guards.Limits
    learner: Learner
    model: Trainable
    data: PhaseData
    room: PhaseRoom
    name: str

    def run(self) -> PhaseResult:
        spec, model, learner = self.spec, self.model, self.learner
        parameters = list(model.parameters().values())
        optimizer = torch.optim.AdamW(parameters, spec.learning_rate, weight_decay=spec.weight_decay)
        state = State(best=model.state())
        file = PhaseFile(self.room.resume_folder, self._key(state))
        if (own := file.load(state, model, optimizer)) is not None:
            learner.restore(own)
            self.room.log.info("phase.resumed", step=state.step)
        facts: dict[str, Any] = {}
        if learner.slack:
            facts |= {"dice_slack": learner.slack, "worth": dict(learner.worth)}
        state.looks.slack, state.looks.kl_budget = learner.slack, self.limits.kl_budget
        with self.room.progress.task(f"{self.name} of the segmenter", spec.steps, "step") as task:
            try:
                task.advance(state.step)
                while state.ended is None:
                    if _is_look_due(state, spec):
                        self._look(state, task)
                        file.save(state, model, optimizer, learner.state())
                    if state.ended is None:
                        figures = self._step(state, optimizer, parameters, task)
                        looked = {key: state.curve[-1][key] for key in _SHOWN if key in state.curve[-1]}
                        task.advance(1, **looked, **figures)
            except (Interrupted, DeadlineReached):
                file.save(state, model, optimizer, learner.state())
                raise
            except InvalidResult as error:
                if not state.curve:
                    raise
                facts |= self._diverged(state, error)
        assert state.ended is not None
        model.load_state(state.best)
        gold = [float(gold_P.mean()) for gold_P in state.looks.gold]
        best = state.looks.best
        if state.ended == "kl":
            facts |= {"kl": state.looks.kl[-1], "kl_budget": self.limits.kl_budget}
        elif state.ended in ("steps", "patience") and not best and gold[-1] < gold[0] - _COLLAPSE:
            facts |= self._collapsed(gold)
        return PhaseResult(
            steps=state.step,
            best_step=int(state.curve[best]["step"]),
            start_gold=gold[0],
            best_gold=gold[best],
            ended=state.ended,
            curve=state.curve,
            facts=facts,
        )

    def _step(
        self,
        state: State,
        optimizer: torch.optim.Optimizer,
        parameters: list[torch.nn.Parameter],
        task: Task,
    ) -> dict[str, float]:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.step, self.spec)
        optimizer.zero_grad()
        loss, figures = self.learner.step(state.step, task)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.spec.max_grad_norm))
        _check_finite({"the loss": loss, "the gradient's norm": norm})
        optimizer.step()
        state.step, state.n_summed = state.step + 1, state.n_summed + 1
        for key, value in figures.items():
            state.sums[key] = state.sums.get(key, 0.0) + value
        return figures

    def _look(self, state: State, task: Task) -> None:
        learner = self.learner
        terms = list(dict.fromkeys(["dice", *learner.worth]))
        scores = patients_scores(self.model, self.data, task, terms)
        gold_P = scores["dice"]
        worth = float(combine({term: scores[term].mean() for term in learner.worth}, learner.worth))
        seen = learner.look(task)
        row = {"step": float(state.step), "gold": float(gold_P.mean())}
        if len(seen.proxy):
            row["proxy"] = guards.mean_of(seen.proxy, self.limits.parts)
        if learner.slack:
            row["worth"] = worth
        row |= seen.figures
        row |= {key: value / state.n_summed for key, value in state.sums.items()}
        _check_finite({_WORDS.get(key, key): value for key, value in row.items()})
        looks = state.looks
        looks.gold.append(gold_P)
        looks.worth.append(worth)
        looks.kl.append(float(seen.figures.get("kl", 0.0)))
        if len(seen.proxy):
            looks.proxy.append(seen.proxy)
        state.curve.append(row)
        state.sums, state.n_summed = {}, 0
        if looks.best == len(looks.gold) - 1:
            state.best = self.model.state()
        ending = guards.ending(looks, self.limits)
        state.ended = ending or ("steps" if state.step >= self.spec.steps else None)
        self.room.log.info("phase.step", **row)

    def _diverged(self, state: State, error: InvalidResult) -> dict[str, str]:
        """End the phase; return facts of how, and of what to do.

        That is not kept in its file: a call that goes on takes the steps since the last look anew.
        """
        state.ended = "diverged"
        field = self.room.field
        facts = {
            "diverged": f"after {state.step:,} of {self.spec.steps:,} steps: {error}",
            "advice": f"lower {field}.learning_rate (now {self.spec.learning_rate:g})",
        }
        best = state.curve[state.looks.best]["step"]
        kept = f"its state of step {best:,.0f}" if best else "its start"
        message = f"{self.name} ({field}) diverged {facts['diverged']}; {kept} is kept: {facts['advice']}"
        self.room.log.warning("job.warning", message=message)
        return facts

    def _collapsed(self, gold: list[float]) -> dict[str, str]:
        """Warn that no step was of any use; return what to do as a fact."""
        advice = f"lower {self.room.field}.learning_rate (now {self.spec.learning_rate:g})"
        message = (
            f"{self.name} ({self.room.field}): no step was better than the start, and validation Dice fell"
            f" from {gold[0]:.3f} to {gold[-1]:.3f}; the start is kept: {advice}"
        )
        self.room.log.warning("job.warning", message=message)
        return {"advice": advice}

    def _key(self, state: State) -> str:
        """Return what tells phases apart; images are the caller's: a folder serves one data set."""
        weights: dict[str, NDArray[Any]] = {key: values.numpy() for key, values in state.best.items()}
        data, room = self.data, self.room
        facts = [
            torch.__version__, self.name, self.spec.model_dump(mode="json"), data.prompt,
            list(data.validation_patients), len(data.labelled), len(data.unlabelled), room.seed, room.device,
        ]  # fmt: skip
        return tensors_digest(weights, facts)


def _check_finite(figures: Mapping[str, float]) -> None:
    for what, value in figures.items():
        if not math.isfinite(value):
            how = "not a number" if math.isnan(value) else "infinite"
            raise InvalidResult(f"{what} is {how}", advice=BROKEN)


def learning_rate(step: int, spec: TuningSpec) -> float:
    """Rise over the first twentieth of the steps, then fall as a cosine to a hundredth."""
    falling = _LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * step / spec.steps))
    return spec.learning_rate * min(1.0, (step + 1) / max(1.0, _RISING * spec.steps)) * falling


def _is_look_due(state: State, spec: TuningSpec) -> bool:
    seen = state.curve[-1]["step"] if state.curve else -1
    return state.step > seen and (state.step % spec.validate_every == 0 or state.step == spec.steps)
