"""Checks: pure functions from evidence to a verdict with its number and one sentence of advice."""

from job.checks.result import CheckResult, Severity
from job.checks.validity import VALIDITY, ValidityEvidence

__all__ = ["VALIDITY", "CheckResult", "Severity", "ValidityEvidence"]
