"""Numbers that are missing: a check must fail on them, never pass or crash."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from job.checks.result import CheckResult, Severity


def first_missing(arrays: Mapping[str, NDArray[np.float64]], rows: Sequence[str]) -> str:
    """Name the first array (`[N]` or `[N, K]`, by what it holds) that is not finite, and its row; else ""."""
    for what, values in arrays.items():
        finite_N = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite_N.all():
            return f"the {what} of {rows[int(finite_N.argmin())]} is not a number"
    return ""


def broken(name: str, threshold: float, severity: Severity, missing: str) -> CheckResult:
    """Return the failure of a check for which a number is missing."""
    return CheckResult(
        name,
        math.nan,
        threshold,
        severity,
        "failed",
        missing,
        "scoring failed: look at this image and its mask, and at the reward network's training",
    )
