"""What ships and its ladder on further datasets."""

from collections.abc import Sequence
from dataclasses import dataclass

from job.evaluation.results import OtherResults
from job.report.ladder import small_ladder
from job.report.tables import Table
from job.report.words import VERDICTS, VerdictWords
from job.spec.secrets import redact


@dataclass(frozen=True)
class OtherDataset:
    """A further dataset in words and figures."""

    results: OtherResults
    words: VerdictWords
    place: str
    """Its uri, without user names and signatures."""
    ladder: Table | None


def other_datasets(others: Sequence[OtherResults]) -> list[OtherDataset]:
    """Lay out every further dataset that was judged."""
    return [
        OtherDataset(other, VERDICTS[other.verdict.verdict], redact(other.uri), small_ladder(other.ladder))
        for other in others
    ]
