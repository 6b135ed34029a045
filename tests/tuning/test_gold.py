"""Gold: the Dice that the segmenter's own masks have, averaged over images and then patients."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from job.progress import SILENT_TASK
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT, PromptableUNetSegmenter
from job.segmenters.promptable_unet.trainable import TrainablePromptableUNet
from job.tuning.gold import patients_scores
from job.tuning.phase import PhaseData


def test_gold_is_the_dice_of_the_segmenters_masks(
    opened: Callable[[], TrainablePromptableUNet], data: PhaseData
) -> None:
    """Three images of two patients: a patient counts once, however many images he has."""
    prompt = "Segment all vessels, including the finest branches."
    images = list(data.labelled[:3])
    judged = replace(data, prompt=prompt, validation=images, validation_patients=["b", "a", "b"])
    gold = patients_scores(opened(), judged, SILENT_TASK, ["dice"])["dice"]
    answers = PromptableUNetSegmenter.load(EMBEDDED_CHECKPOINT).segment(
        [one.image for one in images], [prompt]
    )
    dice = []
    for one, answer in zip(images, answers, strict=True):
        mask = answer.logits_PHW[0].astype(np.float64) > 0
        assert one.truth is not None
        dice.append(2 * (mask & one.truth).sum() / (mask.sum() + one.truth.sum()))
    assert gold == pytest.approx([dice[1], (dice[0] + dice[2]) / 2], abs=2e-3)
    assert math.isfinite(gold.sum())
    assert gold.min() > 0.4
