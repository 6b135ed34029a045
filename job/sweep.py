"""A sweep: train every point, choose one on validation images; the test images judge that one alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.evaluation.ladder import scores_of
from job.metrics.statistics import paired_uplift, patient_interval, patient_means
from job.publish.training_info import SweepPoint
from job.spec import sweep
from job.spec.job import JobSpec
from job.stages import audit, finetune
from job.stages.rewards import scored_table
from job.stages.stage import StageContext


@dataclass(frozen=True)
class _Tried:
    context: StageContext
    dice_M: NDArray[np.float64] | None
    """The policy's Dice on validation images; None where nothing was trained."""
    seeds_dice: list[float]


def choose(
    spec: JobSpec, train: Callable[[JobSpec], StageContext], log_point: Callable[[SweepPoint], None]
) -> tuple[JobSpec, list[SweepPoint]]:
    """Train every point of `spec.sweep` and return the spec of the best with the table of all.

    `train` runs the stages up to finetune; what points have in common is computed once, by fingerprint. The
    best has the highest mean Dice over validation patients; of equals the first. Where no point could be
    trained the first is returned, whose checks say why.
    """
    points = sweep.points(spec)
    tried = [_try(train(point)) for _, point in points]
    patients = scored_table(tried[0].context).of("validation").patients
    means = [-np.inf if one.dice_M is None else patient_means(one.dice_M, patients).mean() for one in tried]
    best = int(np.argmax(means))
    confidence = spec.evaluate.confidence
    first_M = next((one.dice_M for one in tried if one.dice_M is not None), None)
    rows = []
    for i, ((values, _), one) in enumerate(zip(points, tried, strict=True)):
        dice_M = one.dice_M
        stages = one.context.done.values()
        row = SweepPoint(
            label=sweep.label(values),
            values=values,
            validation_dice=None if dice_M is None else patient_interval(dice_M, patients, confidence),
            vs_first=None
            if dice_M is None or first_M is None
            else paired_uplift(dice_M, first_M, patients, confidence),
            seeds_dice=one.seeds_dice,
            valid=dice_M is not None,
            chosen=i == best,
            seconds=sum(stage.seconds for stage in stages if not stage.reused),
            reused=[stage.name for stage in stages if stage.reused],
        )
        log_point(row)
        rows.append(row)
    return points[best][1], rows


def _try(context: StageContext) -> _Tried:
    policy = finetune.load_policy(context)
    if policy is None or not audit.passed(context):
        return _Tried(context, None, [])
    validation = scored_table(context).of("validation")
    chosen_M = policy.choose(validation.embeddings_NE, validation.statistics_NS)
    seeds: Sequence[dict[str, float]] = finetune.load_figures(context)["seeds"]
    return _Tried(
        context,
        scores_of(chosen_M, validation.scores["dice"]),
        [one["validation_dice"] for one in seeds],
    )
