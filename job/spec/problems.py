"""What is wrong with a spec: one line a problem, as compilers write it, or JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from job.errors import SpecError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where, and what to do about it."""

    source: str
    """The spec's path, `<stdin>`, or the `--set` option that brought it."""
    line: int | None
    """From 1; None where the source has no lines."""
    column: int | None
    """In characters, from 1; None where the source has no lines."""
    path: str
    """The place in the spec, `finetune.net_arch.pi[0]`; empty for the spec as a whole."""
    message: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line is not None else ""
        return f"{self.source}{place}: {self.path}{': ' if self.path else ''}{self.message}"


class SpecProblems(SpecError):
    """A spec that cannot be used; its text is every problem found, a line each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def format_json(problems: Sequence[Problem], warnings: Sequence[str] = ()) -> str:
    """Return the answer of `validate --format json`: `valid`, `warnings`, and `problems`, each a Problem."""
    answer = {
        "valid": not problems,
        "problems": [asdict(problem) for problem in problems],
        "warnings": list(warnings),
    }
    return json.dumps(answer, indent=2, ensure_ascii=False)
