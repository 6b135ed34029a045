"""What a check says, and the thresholds that it is held to."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Severity = Literal["validity", "advice", "candidate"]
Outcome = Literal["passed", "failed", "unmeasured"]
NAMELESS = "(one that the report names)"


@dataclass(frozen=True)
class CheckResult:
    """One check's outcome, with the number it rests on and one sentence of advice.

    `severity` says what a failure means: `validity` makes the whole result invalid, `candidate` drops the
    learned candidate, `advice` only informs. A check that lacks evidence (a single seed, a single action) is
    `unmeasured`, with a value of NaN: it neither passed nor failed.
    """

    name: str
    value: float
    threshold: float
    severity: Severity
    outcome: Outcome
    finding: str
    """What was found, with its numbers, in one sentence."""
    advice: str
    """What to do; empty where nothing needs doing."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Further figures by name."""
    about: tuple[str, ...] = ()
    """Names of images and patients in `finding` and `advice`: logs leave them out."""

    @property
    def failed(self) -> bool:
        """True where the threshold was measured and missed."""
        return self.outcome == "failed"

    def without_names(self) -> "CheckResult":
        """Return the check for readers who are not to learn which images and patients it is about."""
        names = "|".join(re.escape(name) for name in sorted(self.about, key=len, reverse=True))
        named = re.compile(rf"(?<!\w)(?:{names})(?!\w)")
        finding, advice = (named.sub(NAMELESS, text) for text in (self.finding, self.advice))
        return replace(self, finding=finding, advice=advice, about=()) if names else self


def unmeasured(name: str, threshold: float, severity: Severity, why: str) -> CheckResult:
    """Return the result of a check whose evidence cannot say anything, with the reason as its finding."""
    return CheckResult(name, math.nan, threshold, severity, "unmeasured", why, "")


def advise(*cases: tuple[bool, str]) -> str:
    """Join the advice of every case that holds to one sentence; empty where none does."""
    return "; ".join(advice for holds, advice in cases if holds)


@dataclass(frozen=True)
class Thresholds:
    """What evidence is held to; a spec's `checks` section has these names, meanings and defaults."""

    replay_tolerance: float = 1e-6
    min_mask_diversity: float = 0.01
    min_reward_spread: float = 0.1
    min_term_correlation: float = 0.0
    min_proxy_r2: float = 0.0
    min_swap_effect: float = 0.02
    max_image_similarity: float = 0.75
    power: float = 0.8
    min_gap_closed: float = 0.0
    max_entropy: float = 0.9
    min_uplift: float = 0.0
    max_foreground_ratio: float = 1.5
    max_seed_spread: float = 1.0
