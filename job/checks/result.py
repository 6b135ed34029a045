"""What a check says."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["validity", "advice", "candidate"]


@dataclass(frozen=True)
class CheckResult:
    """One check's verdict, with the number it rests on and one sentence of advice.

    `severity` says what a failure means: `validity` makes the whole result invalid, `candidate` drops the
    learned candidate, `advice` only informs.
    """

    name: str
    value: float
    threshold: float
    severity: Severity
    passed: bool
    finding: str
    advice: str
