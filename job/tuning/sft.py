"""`sft`: supervised fine-tuning on labelled images, the best state on validation kept."""

from dataclasses import replace

import numpy as np
import torch

from job.errors import InputError
from job.progress import Task
from job.segmenters.trainable import Trainable
from job.spec.tuning import SftSpec
from job.tuning import course
from job.tuning.crops import CropSource
from job.tuning.guards import Limits
from job.tuning.losses import supervised_loss
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom

NAME = "sft"


def train_sft(spec: SftSpec, model: Trainable, data: PhaseData, room: PhaseRoom) -> PhaseResult:
    """Minimise cross-entropy + soft Dice (+ soft clDice) on crops of `data.labelled`, made anew each time.

    Raises InputError without labelled or validation images, InvalidResult where the model's answers are not
    finite from the start, and what `room.progress` raises.
    """
    if not data.labelled or not data.validation:
        raise InputError(
            f"sft has {len(data.labelled)} labelled training images and {len(data.validation)} for"
            " validation, and needs both",
            advice="label more images, or move some between the splits (data.split)",
        )
    limits = Limits(patience=spec.patience)
    result = course.run(spec, limits, _Supervised(spec, model, data, room), model, data, room, NAME)
    return replace(result, facts={"labelled": len(data.labelled), **result.facts})


class _Supervised(course.Supervised):
    def __init__(self, spec: SftSpec, model: Trainable, data: PhaseData, room: PhaseRoom) -> None:
        self._spec, self._model, self._prompt, self._room = spec, model, data.prompt, room
        self._source = CropSource(data.labelled, spec.crop, augment=True)

    def step(self, step: int, task: Task) -> tuple[float, dict[str, float]]:
        rng = np.random.default_rng([self._room.seed, 10, step])
        self._model.train(True)
        parts = self._source.draw(rng, self._spec.batch_size)
        total = 0.0
        for crops in parts:
            assert crops.truths_BHW is not None
            is_cuda = self._room.device != "cpu"
            with torch.autocast("cuda", torch.bfloat16, enabled=is_cuda):
                logits = self._model.logits(crops.pixels_B3HW, [self._prompt])[:, 0]
            truths = crops.truths_BHW.to(logits.device)
            loss = supervised_loss(logits.float(), truths, self._spec.cldice_weight)
            share = len(crops.pixels_B3HW) / self._spec.batch_size
            (loss * share).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) * share
        return total, {"loss": total}
