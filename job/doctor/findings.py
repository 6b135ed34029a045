"""What the doctor found, as text, JSON and exit code."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from job.errors import EXIT_OK, InputError
from job.spec.secrets import HIDDEN
from job.spec.showing import printable

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that is as it should be, or not."""

    severity: Severity
    part: str
    """What was examined: `gpu`, `memory`, `data.uri`."""
    what: str
    advice: str = ""
    """What to do; empty where nothing needs doing."""


def to_text(findings: Sequence[Finding]) -> str:
    """Return findings as lines for people, in the order in which they were made, and their count."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.severity:8} {finding.part}: {finding.what}")
        if finding.advice:
            lines.append(f"{'':8} -> {finding.advice}")
    return "\n".join([*map(printable, lines), f"{_count(findings, 'error')}, {_count(findings, 'warning')}"])


def to_json(findings: Sequence[Finding]) -> str:
    """Return the answer of `doctor --format json`: `healthy`, and `findings` with a Finding's fields."""
    answer = {"healthy": exit_code(findings) == EXIT_OK, "findings": [asdict(one) for one in findings]}
    return json.dumps(answer, indent=2, ensure_ascii=False)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0, or 3 where something is an error."""
    return InputError.exit_code if any(one.severity == "error" for one in findings) else EXIT_OK


def without(findings: Iterable[Finding], secrets: Iterable[str]) -> list[Finding]:
    """Return the findings with `secrets` hidden, whatever words a library found for its error."""
    hidden = sorted(secrets, key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, HIDDEN)
        return text

    return [
        replace(one, part=clean(one.part), what=clean(one.what), advice=clean(one.advice)) for one in findings
    ]


def _count(findings: Sequence[Finding], severity: Severity) -> str:
    n = sum(one.severity == severity for one in findings)
    return f"{n} {severity}{'' if n == 1 else 's'}"
