"""Assess the rungs of a ladder on validation and test, and put the results together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.evaluation.ladder import BEST_FIXED, NOOP, PPO, Ladder, choose_on_validation, scores_of
from job.evaluation.results import EvaluationResults, ImageResult, LadderRow
from job.evaluation.verdict import decide
from job.metrics.statistics import Interval, Uplift, paired_uplift, patient_means, t_interval
from job.reward.terms import METRICS
from job.table import ActionTable

Scores = NDArray[np.float64]
Measured = Mapping[str, Scores]
"""Metric -> [N]."""


@dataclass(frozen=True)
class Choices:
    """The actions that each rung chose, `[N]` per rung name."""

    validation: Mapping[str, NDArray[np.int64]]
    test: Mapping[str, NDArray[np.int64]]


def choose(ladder: Ladder, validation: ActionTable, test: ActionTable) -> Choices:
    """Let every rung choose on both tables."""
    return Choices(
        validation={rung.name: rung.choose(validation) for rung in ladder.rungs},
        test={rung.name: rung.choose(test) for rung in ladder.rungs},
    )


def winner(ladder: Ladder, choices: Choices, validation: ActionTable, *, valid: bool) -> str:
    """Return the candidate that ships, by validation alone; the no-op where the checks failed."""
    if not valid:
        return NOOP
    names = [rung.name for rung in ladder.rungs if rung.can_ship]
    dice = {name: scores_of(choices.validation[name], validation.scores["dice"]) for name in names}
    return choose_on_validation(dice, validation.patients, names)


def assess(
    ladder: Ladder,
    choices: Choices,
    validation: ActionTable,
    test: ActionTable,
    measured: Mapping[str, Measured],
    *,
    ships: str,
    valid: bool,
    n_actions: int,
    smallest_effect: float,
    confidence: float,
) -> EvaluationResults:
    """Give every rung its row, what ships its verdict and every test image its line.

    `measured[rung]` holds every metric of `METRICS` on the test images under that rung's actions.
    """
    patients = test.patients

    def versus(name: str, other: str) -> Uplift:
        return paired_uplift(measured[name]["dice"], measured[other]["dice"], patients, confidence)

    rows = [
        LadderRow(
            candidate=rung.name,
            description=rung.description,
            can_ship=rung.can_ship,
            ships=valid and rung.name == ships,
            experiment=rung.experiment,
            validation_dice=_interval(
                scores_of(choices.validation[rung.name], validation.scores["dice"]),
                validation.patients,
                confidence,
            ),
            test={m: _interval(measured[rung.name][m], patients, confidence) for m in METRICS},
            vs_noop=versus(rung.name, NOOP),
            vs_best_fixed=versus(rung.name, BEST_FIXED),
        )
        for rung in ladder.rungs
    ]
    by_name = {row.candidate: row for row in rows}
    verdict = decide(
        valid=valid,
        ships=ships,
        before=by_name[NOOP].test["dice"],
        after=by_name[ships].test["dice"],
        vs_noop=by_name[ships].vs_noop,
        learned_vs_best_fixed=by_name[PPO].vs_best_fixed if PPO in by_name else None,
        smallest_effect=smallest_effect,
        confidence=confidence,
    )
    chosen = choices.test[ships]
    return EvaluationResults(
        verdict=verdict,
        ladder=rows,
        images=_images(test, chosen, measured[NOOP], measured[ships]),
        actions_chosen=np.bincount(chosen, minlength=n_actions).tolist(),
    )


def _images(
    test: ActionTable, chosen: NDArray[np.int64], before: Measured, after: Measured
) -> list[ImageResult]:
    quality = scores_of(chosen, test.scores["reward_net"])
    oracle = test.scores["dice"].max(axis=1)
    return [
        ImageResult(
            name=name,
            patient=test.patients[i],
            action=int(chosen[i]),
            before={metric: float(before[metric][i]) for metric in METRICS},
            after={metric: float(after[metric][i]) for metric in METRICS},
            oracle_dice=float(oracle[i]),
            predicted_quality=float(quality[i]),
        )
        for i, name in enumerate(test.names)
    ]


def _interval(values: Scores, patients: Sequence[str], confidence: float) -> Interval:
    return t_interval(patient_means(values, patients), confidence)
