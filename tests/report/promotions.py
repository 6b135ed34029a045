"""Made-up but plausible comparisons with a champion, for runs of `tests.report.factory`."""

import math
from typing import Literal, get_args

import numpy as np

from job.data.features import IMAGE_STATISTICS
from job.metrics.statistics import paired_uplift, patient_interval
from job.publish.training_info import Drift, DriftStatistic, Promotion, TrainingInfo

Decision = Literal["promote", "keep", "invalid"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


def promoting(
    info: TrainingInfo,
    decision: Decision = "promote",
    *,
    has_champion: bool = True,
    n_new: int = 10,
    left_out: int = 0,
    seed: int = 3,
) -> TrainingInfo:
    """Return the document of the same run as one that promotes."""
    return info.model_copy(
        update={"promotion": make_promotion(info, decision, has_champion, n_new, left_out, seed)}
    )


def make_promotion(
    info: TrainingInfo, decision: Decision, has_champion: bool, n_new: int, left_out: int, seed: int
) -> Promotion:
    """Make the comparison; after an invalid run nothing is compared."""
    rng = np.random.default_rng(seed)
    patients = [f"p{i // 2:02d}" for i in range(24)]
    champion = rng.normal(0.859, 0.03, 24)
    challenger = champion + rng.normal(0.012 if decision == "promote" else 0.0, 0.006, 24)
    sentences = {
        "promote": "It beats the champion of run 91ac02d7e6f0: Dice 0.859 -> 0.871 on 24 images.",
        "keep": "It is not surely better than the champion of run 91ac02d7e6f0, which stays.",
        "invalid": "A validity check failed: nothing is compared, and the champion stays.",
    }
    is_compared = decision != "invalid"
    return Promotion(
        decision=decision,
        sentence=sentences[decision],
        champion="runs/quick/91ac02d7e6f0" if has_champion else None,
        champion_candidate="ridge regression per action, shrunk to the best fixed action",
        generation=3 if has_champion else 0,
        n_images=24 if is_compared else 0,
        n_patients=12 if is_compared else 0,
        left_out=left_out,
        champion_dice=patient_interval(champion, patients) if is_compared else None,
        challenger_dice=patient_interval(challenger, patients) if is_compared else None,
        vs_champion=paired_uplift(challenger, champion, patients) if is_compared else None,
        drift=make_drift(info, rng, n_new) if has_champion else None,
    )


def make_drift(info: TrainingInfo, rng: np.random.Generator, n_new: int) -> Drift:
    """Make a drift note on `n_new` images that the champion did not know; none of them says nothing."""
    labels = [action.label for action in info.actions]
    shifts = sorted(rng.normal(0, 0.7, len(IMAGE_STATISTICS)), key=lambda shift: -abs(shift))
    statistics = [
        DriftStatistic(name=name, mean_known=0.21, mean_new=0.21 + 0.02 * shift, shift=float(shift))
        for name, shift in zip(IMAGE_STATISTICS, shifts, strict=True)
    ]
    known, new = (rng.dirichlet(np.ones(len(labels))).tolist() for _ in range(2))
    return Drift(
        known_images=1000,
        new_images=n_new,
        statistics=statistics if n_new else [],
        actions_known=known,
        actions_new=new if n_new else [],
        actions_labels=labels,
        champion_dice_known=patient_interval(rng.normal(0.86, 0.03, 40), [f"k{i}" for i in range(40)]),
        champion_dice_new=patient_interval(rng.normal(0.85, 0.03, n_new), [f"n{i}" for i in range(n_new)])
        if n_new
        else None,
        sentence=f"{n_new} new images look like the known ones (largest shift"
        f" {abs(shifts[0]):.1f} sd, {IMAGE_STATISTICS[0]})."
        if n_new
        else "No image is new since the champion was made.",
    )


ODD_DRIFT = Drift(
    known_images=3,
    new_images=1,
    statistics=[
        DriftStatistic(name="noise", mean_known=0.1, mean_new=0.2, shift=math.inf),
        DriftStatistic(name="contrast", mean_known=0.1, mean_new=math.nan, shift=math.nan),
    ],
    actions_known=[],
    actions_new=[0.0, 1.0],
    actions_labels=["'a' | t 0.5", "'b' | t 0.5"],
    champion_dice_known=None,
    champion_dice_new=patient_interval([0.8], ["p"]),
    sentence="One new image.",
)
"""What is undefined or without end."""
