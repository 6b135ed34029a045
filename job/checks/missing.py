"""Numbers that are missing: a check must fail on them, never pass or crash."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.checks.result import CheckResult, Severity


class Missing(NamedTuple):
    """What is no number."""

    sentence: str
    row: str = ""
    """The image or patient that the sentence names."""


def first_missing(arrays: Mapping[str, NDArray[np.float64]], rows: Sequence[str]) -> Missing | None:
    """Name the first array (`[N]` or `[N, K]`, by what it holds) that is not finite, and its row."""
    for what, values in arrays.items():
        finite_N = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite_N.all():
            row = rows[int(finite_N.argmin())]
            return Missing(f"the {what} of {row} is not a number", row)
    return None


def broken(name: str, threshold: float, severity: Severity, missing: Missing) -> CheckResult:
    """Return the failure of a check for which a number is missing."""
    return CheckResult(
        name,
        math.nan,
        threshold,
        severity,
        "failed",
        missing.sentence,
        "scoring failed: look at this image and its mask, and at the reward network's training",
        about=(missing.row,) if missing.row else (),
    )
