"""Checks 6 and 7: what the ladder and the oracle say of learning; a failure only informs."""

import math

import numpy as np

from job.checks.evidence import NOOP, GapEvidence, LadderEvidence
from job.checks.missing import broken, first_missing
from job.checks.result import CheckResult, Thresholds, advise, unmeasured
from job.metrics.statistics import TIE, patient_means, patients_needed, smallest_detectable


def ladder_check(evidence: LadderEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 6: on validation the learned candidate beats every one that learned nothing per image."""
    del thresholds  # the bar is the ladder itself
    dice = {name: value for name, value in evidence.dice.items() if math.isfinite(value)}
    simple = [name for name in evidence.simple if name in dice]
    if evidence.learned not in dice or not simple:
        missing = "simple" if evidence.learned in dice else "learned"
        return unmeasured("ladder", 0.0, "advice", f"there is no {missing} candidate to compare")
    best = max(simple, key=lambda name: dice[name])
    value = dice[evidence.learned] - dice[best]
    failed = value <= TIE
    return CheckResult(
        "ladder",
        value,
        0.0,
        "advice",
        "failed" if failed else "passed",
        f"on validation {_spoken(evidence.learned)} reaches {dice[evidence.learned]:.4f} Dice, and "
        f"{_spoken(best)}, the best that learned nothing per image, {dice[best]:.4f}",
        advise((failed, f"a simpler candidate does as well: {_spoken(best)}")),
        dice,
    )


def oracle_gap(evidence: GapEvidence, thresholds: Thresholds) -> CheckResult:
    """Check 7: a perfect chooser would win enough for this many test patients to show it.

    The gap is that of the oracle over the better of no-op and best fixed action, the latter fitted without
    the patient that it is applied to. The threshold is the smallest mean difference that a paired t-test
    over the test patients finds at `power`, if these differ as the patients here do.
    """
    name, n_test = "oracle_gap", evidence.n_test_patients
    dice_NK = evidence.dice_NK
    missing = first_missing({"Dice": dice_NK}, [f"an image of {patient}" for patient in evidence.patients])
    if missing:
        return broken(name, math.nan, "advice", missing)
    left_out_N = np.take_along_axis(dice_NK, evidence.left_out_N[:, None], axis=1)[:, 0]
    fixed = {"the no-op": dice_NK[:, NOOP], "the best fixed action": left_out_N}
    reference = max(fixed, key=lambda chooser: patient_means(fixed[chooser], evidence.patients).mean())
    gaps = patient_means(dice_NK.max(axis=1) - fixed[reference], evidence.patients)
    if len(gaps) < 2:
        return unmeasured(name, math.nan, "advice", "one patient says nothing of how patients differ")
    value, sd = float(gaps.mean()), float(gaps.std(ddof=1))
    threshold = smallest_detectable(sd, n_test, thresholds.power, evidence.confidence)
    failed = value < threshold or value <= TIE
    details = {"sd": sd, "patients": float(len(gaps)), "test_patients": float(n_test)}
    if value > TIE:
        details["patients_needed"] = float(patients_needed(sd, value, thresholds.power, evidence.confidence))
    return CheckResult(
        name,
        value,
        threshold,
        "advice",
        "failed" if failed else "passed",
        f"a perfect chooser gains {value:.4f} Dice over {reference}; "
        + _detectable(threshold, n_test, thresholds.power),
        advise(
            (
                failed,
                f"even a perfect chooser could hardly be told from {reference}: add test patients or actions",
            )
        ),
        details,
    )


def _detectable(effect: float, n_test: int, power: float) -> str:
    if math.isinf(effect):
        return f"{n_test} test patient{'' if n_test == 1 else 's'} can show nothing"
    return f"{n_test} test patients show {effect:.4f} or more at {100 * power:.0f} % power"


def _spoken(candidate: str) -> str:
    return {"noop": "the no-op", "ppo": "PPO"}.get(candidate, candidate.replace("_", " "))
