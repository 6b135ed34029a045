"""Assess the arms of a ladder: rows, verdict and a line an image, put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.evaluation.arms import Arm, Arms
from job.evaluation.ladder import (
    BEST_FIXED,
    NOOP,
    ORACLE,
    PPO,
    Ladder,
    Tables,
    choose_on_validation,
    is_tuned,
    scores_of,
)
from job.evaluation.results import ImageResult, LadderRow, Verdict
from job.evaluation.verdict import decide
from job.metrics.statistics import (
    TIE,
    holm,
    paired_uplift,
    patient_interval,
    patient_means,
)
from job.progress import SILENT, Progress, track
from job.reward.terms import METRICS

Scores = NDArray[np.float64]
Measured = Mapping[str, Scores]
"""Metric -> [N]."""


@dataclass(frozen=True)
class Choices:
    """The actions that each rung chose, `[N]` per rung name."""

    validation: Mapping[str, NDArray[np.int64]]
    test: Mapping[str, NDArray[np.int64]]


def choose(ladder: Ladder, validation: Tables, test: Tables) -> Choices:
    """Let every rung choose on its tables."""
    return Choices(
        validation={rung.name: rung.choose(validation.of(rung)) for rung in ladder.rungs},
        test={rung.name: rung.choose(test.of(rung)) for rung in ladder.rungs},
    )


def winner(
    ladder: Ladder,
    choices: Choices,
    validation: Tables,
    *,
    valid: bool,
    dropped: Mapping[str, Sequence[str]],
) -> str:
    """Return the candidate that ships, by validation alone; the no-op where the checks failed.

    `dropped[rung]` names the candidate checks that it failed.
    """
    if not valid:
        return NOOP
    rungs = [rung for rung in ladder.rungs if rung.can_ship]
    dice = {
        rung.name: scores_of(choices.validation[rung.name], validation.of(rung).scores["dice"])
        for rung in rungs
    }
    out = [name for name, checks in dropped.items() if checks]
    return choose_on_validation(dice, validation.base.patients, [rung.name for rung in rungs], out)


def arms_of(
    ladder: Ladder,
    choices: Choices,
    validation: Tables,
    test: Tables,
    measured: Mapping[str, Measured],
    pixels: Sequence[str],
) -> Arms:
    """Collect what every rung chose and scored; `measured[rung]` holds every metric on the test images."""
    return Arms(
        arms=tuple(
            Arm(
                name=rung.name,
                description=rung.description,
                experiment=rung.experiment,
                can_ship=rung.can_ship,
                left_out_dice=rung.left_out_dice,
                validation_dice_M=scores_of(
                    choices.validation[rung.name], validation.of(rung).scores["dice"]
                ),
                test=measured[rung.name],
                actions_N=choices.test[rung.name],
                quality_N=scores_of(choices.test[rung.name], test.of(rung).scores["reward_net"]),
            )
            for rung in ladder.rungs
        ),
        names=test.base.names,
        patients=test.base.patients,
        pixels=tuple(pixels),
        validation_patients=validation.base.patients,
    )


@dataclass(frozen=True)
class Assessment:
    """The ladder's rows and the verdict on one set of images."""

    verdict: Verdict
    ladder: list[LadderRow]


def assess(
    arms: Arms,
    *,
    ships: str,
    valid: bool,
    dropped: Mapping[str, Sequence[str]],
    smallest_effect: float,
    confidence: float,
    progress: Progress = SILENT,
) -> Assessment:
    """Give every arm its row, and what ships its verdict."""
    rows = _rows(arms, ships, valid, dropped, confidence, progress)
    by_name = {row.candidate: row for row in rows}
    verdict = decide(
        valid=valid,
        ships=ships,
        before=by_name[NOOP].test["dice"],
        after=by_name[ships].test["dice"],
        vs_noop=by_name[ships].vs_noop,
        learned_vs_best_fixed={
            name: row.vs_best_fixed for name, row in by_name.items() if name == PPO or is_tuned(name)
        },
        smallest_effect=smallest_effect,
        confidence=confidence,
    )
    return Assessment(verdict, rows)


def images_of(arms: Arms, ships: str) -> list[ImageResult]:
    """Return each test image before (no-op) and after (what ships)."""
    before, after, oracle = arms[NOOP].test, arms[ships], arms[ORACLE].test["dice"]
    return [
        ImageResult(
            name=name,
            patient=arms.patients[i],
            action=int(after.actions_N[i]),
            before={metric: float(before[metric][i]) for metric in METRICS},
            after={metric: float(after.test[metric][i]) for metric in METRICS},
            oracle_dice=float(oracle[i]),
            predicted_quality=float(after.quality_N[i]),
        )
        for i, name in enumerate(arms.names)
    ]


def _rows(
    arms: Arms,
    ships: str,
    valid: bool,
    dropped: Mapping[str, Sequence[str]],
    confidence: float,
    progress: Progress,
) -> list[LadderRow]:
    patients = arms.patients
    dice = {arm.name: arm.test["dice"] for arm in arms.arms}
    compared = track(progress, "comparing with the no-op", dice.items(), len(dice), "candidates")
    vs_noop = {name: paired_uplift(values, dice[NOOP], patients, confidence) for name, values in compared}
    experiments = [arm.name for arm in arms.arms if arm.experiment is not None]
    corrected = dict(zip(experiments, holm([vs_noop[name].p_value for name in experiments]), strict=True))
    mean = {name: float(patient_means(values, patients).mean()) for name, values in dice.items()}
    gap = mean[ORACLE] - mean[BEST_FIXED]
    return [
        LadderRow(
            candidate=arm.name,
            description=arm.description,
            can_ship=arm.can_ship,
            dropped_by=list(dropped.get(arm.name, ())),
            ships=valid and arm.name == ships,
            experiment=arm.experiment,
            validation_dice=patient_interval(arm.validation_dice_M, arms.validation_patients, confidence),
            test={m: patient_interval(arm.test[m], patients, confidence) for m in METRICS},
            vs_noop=vs_noop[arm.name],
            vs_best_fixed=paired_uplift(dice[arm.name], dice[BEST_FIXED], patients, confidence),
            holm_p=_known(corrected.get(arm.name)),
            left_out_dice=arm.left_out_dice,
            regret=mean[ORACLE] - mean[arm.name],
            gap_closed=(mean[arm.name] - mean[BEST_FIXED]) / gap if gap > TIE else None,
        )
        for arm in track(progress, "judging candidates", arms.arms, len(arms.arms), "candidates")
    ]


def _known(p_value: float | None) -> float | None:
    return None if p_value is None or math.isnan(p_value) else p_value
