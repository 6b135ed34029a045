"""Phases that the product does not have: self-training, a baseline, and GRPO without its guards."""

import numpy as np
import torch
from torch import Tensor

from job.data.dataset import Loaded
from job.progress import Task
from job.segmenters.trainable import Trainable
from job.spec.tuning import GrpoSpec, SftSpec
from job.tuning import course
from job.tuning.crops import Crops, CropSource
from job.tuning.grpo import _Reinforced
from job.tuning.guards import Limits
from job.tuning.losses import supervised_loss
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom

_SURELY_NOT = -20.0
"""Logit that stands in for pixels without a label, beside an empty truth: no loss, no gradient."""


def train_student(
    spec: SftSpec, confidence: float, model: Trainable, data: PhaseData, room: PhaseRoom
) -> PhaseResult:
    """Go on from a trained model with what it is sure of on unlabelled images (pseudo-labels, Lee 2013).

    Half of each batch is of labelled images, the other half of unlabelled ones, whose pixels count where the
    model, as it was at the start, gave either class a probability of at least `confidence`. Steps, crops,
    rate and the choice on validation are those of `sft`.
    """
    learner = _Student(spec, confidence, model, data, room)
    return course.run(spec, Limits(patience=spec.patience), learner, model, data, room, "self_training")


def train_unguarded(spec: GrpoSpec, model: Trainable, data: PhaseData, room: PhaseRoom) -> PhaseResult:
    """Run `grpo` to its last step, whatever becomes of true Dice; the curve tells, the best state is kept."""
    blind = Limits(patience=spec.steps + 1, kl_budget=None, smallest_fall=1.0)
    return course.run(spec, blind, _Reinforced(spec, model, data, room), model, data, room, "unguarded")


class _Student(course.Supervised):
    """A `course.Learner`."""

    def __init__(
        self, spec: SftSpec, confidence: float, model: Trainable, data: PhaseData, room: PhaseRoom
    ) -> None:
        self._spec, self._model, self._prompt, self._room = spec, model, data.prompt, room
        said, sure = zip(*(self._pseudo(one, confidence) for one in data.unlabelled), strict=True)
        self._labelled = CropSource(data.labelled, spec.crop, augment=True)
        # Sources that draw from equal generators cut the same crops: of labels, and of where they count.
        self._said = CropSource(said, spec.crop, augment=True)
        self._sure = CropSource(sure, spec.crop, augment=True)

    def step(self, step: int, task: Task) -> tuple[float, dict[str, float]]:
        rng = np.random.default_rng([self._room.seed, 20, step])
        self._model.train(True)
        n_unlabelled = self._spec.batch_size // 2
        drawn = [(crops, None) for crops in self._labelled.draw(rng, self._spec.batch_size - n_unlabelled)]
        seed = int(rng.integers(2**31))
        said, sure = (
            source.draw(np.random.default_rng(seed), n_unlabelled) if n_unlabelled else []
            for source in (self._said, self._sure)
        )
        total = 0.0
        for crops, where in [*drawn, *((a, b.truths_BHW) for a, b in zip(said, sure, strict=True))]:
            share = len(crops.pixels_B3HW) / self._spec.batch_size
            loss = self._loss(crops, where) * share
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total, {"loss": total}

    def _loss(self, crops: Crops, where_BHW: Tensor | None) -> Tensor:
        assert crops.truths_BHW is not None
        with torch.autocast("cuda", torch.bfloat16, enabled=self._room.device != "cpu"):
            logits = self._model.logits(crops.pixels_B3HW, [self._prompt])[:, 0]
        logits, truths = logits.float(), crops.truths_BHW.to(logits.device)
        if where_BHW is not None:
            where = where_BHW.to(logits.device)
            logits, truths = torch.where(where, logits, _SURELY_NOT), truths & where
        return supervised_loss(logits, truths, self._spec.cldice_weight)

    @torch.no_grad()
    def _pseudo(self, loaded: Loaded, confidence: float) -> tuple[Loaded, Loaded]:
        self._model.train(False)
        pixels = torch.from_numpy(loaded.image.transpose(2, 0, 1).copy())[None]
        p_HW = self._model.logits(pixels, [self._prompt])[0, 0].sigmoid().cpu().numpy()
        sure_HW = np.maximum(p_HW, 1 - p_HW) >= confidence
        return Loaded(loaded.image, p_HW > 0.5, None), Loaded(loaded.image, sure_HW, None)
