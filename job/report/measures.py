"""How the figures were measured: the same masks by every convention in use, and the protocol in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from job.evaluation.results import Convention
from job.report.numbers import figure
from job.report.words import candidate_name, metric_name

RESOLUTIONS = {"scoring": "working width", "native": "image's own size"}


@dataclass(frozen=True)
class ConventionRow:
    """A convention's figures: for every metric, one of each candidate."""

    region: str
    resolution: str
    aggregation: str
    figures: tuple[tuple[str, ...], ...]
    """Metric -> candidate."""


@dataclass(frozen=True)
class ConventionTable:
    """Conventions x (metric x candidate)."""

    metrics: tuple[str, ...]
    candidates: tuple[str, ...]
    rows: tuple[ConventionRow, ...]


def convention_table(conventions: Sequence[Convention], ships: str) -> ConventionTable | None:
    """Lay out what each convention says of today, the best fixed action and what ships; None without any."""
    if not conventions:
        return None
    candidates = list(conventions[0].metrics)
    metrics = list(conventions[0].metrics[candidates[0]])
    return ConventionTable(
        metrics=tuple(metric_name(metric) for metric in metrics),
        candidates=tuple(_short(candidate, ships) for candidate in candidates),
        rows=tuple(
            ConventionRow(
                one.region,
                RESOLUTIONS[one.resolution],
                one.aggregation,
                tuple(
                    tuple(figure(one.metrics.get(c, {}).get(metric)) for c in candidates)
                    for metric in metrics
                ),
            )
            for one in conventions
        ),
    )


def protocol_list(protocol: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the protocol as (what, how)."""
    return [(key[:1].upper() + key[1:].replace("_", " "), text) for key, text in protocol.items()]


def _short(candidate: str, ships: str) -> str:
    name = {"noop": "Today", "best_fixed": "Best fixed"}.get(candidate)
    if candidate == ships:
        return f"{name} (ships)" if name else "Ships"
    return name or candidate_name(candidate)
