"""Gold: the true Dice of the validation images, which no phase maximises."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from job.actions import LARGEST_LOGIT, ActionSpace, PostProcess, apply
from job.errors import InvalidResult
from job.metrics.statistics import patient_means
from job.progress import Task
from job.reward.terms import score
from job.segmenters.trainable import Trainable
from job.tuning.phase import PhaseData

BROKEN = "the weights that the phase starts from are broken: check segmenter.uri"
"""What to do where a phase has not learned yet."""


@torch.no_grad()
def patients_scores(
    model: Trainable, data: PhaseData, task: Task, terms: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the mean true terms of each validation patient `[P]`, in the order of their sorted names.

    The mask is what the action of the trained prompt and the threshold 0.5 gives. Raises InvalidResult where
    the model gives no numbers, and what `task` raises.
    """
    space = ActionSpace((data.prompt,), (PostProcess(threshold=0.5),))
    model.train(False)
    scores: dict[str, list[float]] = {term: [] for term in terms}
    for loaded in data.validation:
        task.advance(0)
        assert loaded.truth is not None
        pixels = torch.from_numpy(loaded.image.transpose(2, 0, 1).copy())[None]
        logits_PHW = model.logits(pixels, [data.prompt])[0].clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        if not torch.isfinite(logits_PHW).all():
            raise InvalidResult("the segmenter's logits of a validation image are not finite", advice=BROKEN)
        mask_HW = apply(space, 0, logits_PHW.to(torch.float16).cpu().numpy(), loaded.truth.shape)
        for term, of_one in score(mask_HW[None], loaded.truth, terms).items():
            scores[term].append(float(of_one[0]))
    return {term: patient_means(values, data.validation_patients) for term, values in scores.items()}
