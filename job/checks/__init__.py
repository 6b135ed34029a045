"""Checks: pure functions from evidence to an outcome with its number and one sentence of advice."""

from job.checks.advice import ladder_check, oracle_gap
from job.checks.candidate import CANDIDATE
from job.checks.evidence import CandidateEvidence, GapEvidence, LadderEvidence, Leak, ValidityEvidence
from job.checks.result import CheckResult, Outcome, Severity, Thresholds
from job.checks.validity import VALIDITY

__all__ = [
    "CANDIDATE",
    "VALIDITY",
    "CandidateEvidence",
    "CheckResult",
    "GapEvidence",
    "LadderEvidence",
    "Leak",
    "Outcome",
    "Severity",
    "Thresholds",
    "ValidityEvidence",
    "ladder_check",
    "oracle_gap",
]
