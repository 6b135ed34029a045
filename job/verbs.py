"""The verbs of the command line; imports nothing, as it is asked before anything is imported."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = (
    "run", "validate", "plan", "evaluate", "predict", "compare", "status", "promote", "doctor", "trust",
    "dataset",
)  # fmt: skip


def with_verb(words: Sequence[str]) -> list[str]:
    """Return a command line with a verb: `SPEC` (`-` is standard input) is short for `run SPEC`."""
    is_option = bool(words) and words[0].startswith("-") and words[0] != "-"
    is_short = bool(words) and words[0] not in VERBS and not is_option
    return ["run", *words] if is_short else list(words)


def is_run(words: Sequence[str]) -> bool:
    """Return whether a command line starts a job, or was meant to."""
    return with_verb(words)[:1] in ([], ["run"])
