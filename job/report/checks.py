"""The checks in three groups: before learning, advice, and whether the policy may ship."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from job.checks.result import CheckResult, Outcome, Severity
from job.publish.training_info import TrainingInfo
from job.report.numbers import significant
from job.report.words import candidate_name, check_name

GROUPS: Mapping[Severity, tuple[str, str]] = {
    "validity": ("Before learning", "a failure makes the whole result invalid"),
    "advice": ("Advice", "a failure changes nothing by itself"),
    "candidate": ("May the policy ship?", "a failure drops the learned policy"),
}

MARKS: Mapping[Outcome, str] = {"passed": "✓", "failed": "✗", "unmeasured": "–"}
STATES: Mapping[Outcome, str] = {"passed": "passed", "failed": "failed", "unmeasured": "not measured"}

BOUNDS: Mapping[str, str] = {
    "replay_identity": "at most",
    "mask_diversity": "at least",
    "reward_variance": "at least",
    "term_audit": "at least",
    "proxy_quality": "more than",
    "split_leak": "at most",
    "ladder": "more than",
    "oracle_gap": "at least",
    "gap_closed": "at least",
    "learning": "at most",
    "uplift": "more than",
    "reward_hacking": "at least",
    "stability": "at most",
}
"""How a check's value has to stand to its threshold."""


@dataclass(frozen=True)
class CheckView:
    """A check in words; its outcome is told by a mark and a word, never by colour alone."""

    name: str
    outcome: Outcome
    mark: str
    state: str
    value: str
    threshold: str
    finding: str
    advice: str
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CheckGroup:
    """Checks of one severity, those that failed first."""

    severity: Severity
    title: str
    note: str
    checks: tuple[CheckView, ...]
    tally: str
    """How many passed, and what the others are."""
    troubles: tuple[CheckView, ...]
    """Those that did not pass."""


def all_checks(info: TrainingInfo) -> list[CheckResult]:
    """Return the checks made before learning and those made on what was learned."""
    return [*info.checks, *info.results.checks]


def check_groups(info: TrainingInfo) -> list[CheckGroup]:
    """Return the groups that hold a check, most severe first."""
    checks = all_checks(info)
    groups = ((severity, [c for c in checks if c.severity == severity]) for severity in GROUPS)
    return [_group(severity, members) for severity, members in groups if members]


def failures(info: TrainingInfo, severity: Severity) -> list[CheckResult]:
    """Return the failed checks of a severity."""
    return [check for check in all_checks(info) if check.severity == severity and check.failed]


def tally(checks: Sequence[CheckResult]) -> str:
    """Count outcomes: `4 of 6 passed, 1 failed, 1 not measured`."""
    n = {outcome: sum(check.outcome == outcome for check in checks) for outcome in STATES}
    others = (f"{n[outcome]} {STATES[outcome]}" for outcome in ("failed", "unmeasured") if n[outcome])
    return ", ".join([f"{n['passed']} of {len(checks)} passed", *others])


def checks_line(checks: Sequence[CheckResult]) -> str:
    """Say how many passed, which failed and which lack evidence; why, where it makes the result invalid."""
    if not checks:
        return "none were run"
    failed = [
        f"{check.name} ({check.finding})" if check.severity == "validity" else check.name
        for check in checks
        if check.failed
    ]
    unmeasured = [check.name for check in checks if check.outcome == "unmeasured"]
    parts = [f"{sum(check.outcome == 'passed' for check in checks)} of {len(checks)} passed"]
    if failed:
        parts.append(f"failed: {', '.join(failed)}")
    if unmeasured:
        parts.append(f"not measured: {', '.join(unmeasured)}")
    return "; ".join(parts)


def dropped(info: TrainingInfo) -> str | None:
    """Say which candidates may not ship and for which checks; None where none was dropped."""
    rows = [row for row in info.results.ladder if row.dropped_by]
    sentences = [
        f"{_the(candidate_name(row.candidate))} may not ship: {', '.join(row.dropped_by)}" for row in rows
    ]
    return "; ".join(sentences) or None


def _group(severity: Severity, checks: Sequence[CheckResult]) -> CheckGroup:
    order: tuple[Outcome, ...] = ("failed", "passed", "unmeasured")
    views = [_view(check) for check in sorted(checks, key=lambda check: order.index(check.outcome))]
    title, note = GROUPS[severity]
    return CheckGroup(
        severity=severity,
        title=title,
        note=note,
        checks=tuple(views),
        tally=tally(checks),
        troubles=tuple(view for view in views if view.outcome != "passed"),
    )


def _view(check: CheckResult) -> CheckView:
    return CheckView(
        name=check_name(check.name),
        outcome=check.outcome,
        mark=MARKS[check.outcome],
        state=STATES[check.outcome],
        value=significant(check.value),
        threshold=f"{BOUNDS.get(check.name, 'threshold')} {significant(check.threshold)}",
        finding=check.finding,
        advice=check.advice,
        details=tuple((name.replace("_", " "), significant(v, 4)) for name, v in check.details.items()),
    )


def _the(name: str) -> str:
    # "The PPO policy", but "PPO from the prior".
    return name if " from " in name else f"The {name}"
