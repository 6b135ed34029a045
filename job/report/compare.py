"""A comparison of runs in words, as text for terminals and as JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from job.evaluation.compare import CONFIDENCE, ComparedRun, Comparison, Difference
from job.metrics.statistics import Interval, Uplift
from job.publish.training_info import TrainingInfo
from job.report.configuration import settings
from job.report.numbers import count, figure, p_value, signed, spread
from job.report.summary import wins_and_losses
from job.report.words import LOWER_IS_BETTER, Judgement, Tone, candidate_name, judge, metric_name
from job.spec.secrets import redact
from job.spec.showing import printable, shorten
from job.storage import strict_json

DIGEST_DIGITS = 12
ABSENT = "–"


@dataclass(frozen=True)
class Fact:
    """Something that was recorded of every run, in the order of runs."""

    what: str
    values: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """True where all runs have the same value."""
        return len(set(self.values)) == 1


def judged(difference: Difference) -> Judgement:
    """Say what a Dice difference shows: it needs an interval without 0 and a corrected p of at most 5 %."""
    return judge(difference.dice, difference.holm_p)


def headline(comparison: Comparison) -> tuple[str, Tone]:
    """Return the answer in a few words, and its tone."""
    found = [judged(difference) for difference in comparison.differences]
    if len(found) == 1:
        tones: dict[Judgement, Tone] = {
            "better": "good",
            "worse": "bad",
            "unclear": "unsure",
            "same": "neutral",
        }
        label = comparison.differences[0].run.label
        words: dict[Judgement, str] = {
            "better": f"{label} is better",
            "worse": f"{label} is worse",
            "unclear": "Not shown to differ",
            "same": "Equal on every image",
        }
        return words[found[0]], tones[found[0]]
    better, worse = found.count("better"), found.count("worse")
    text = f"{better or 'None'} of {count(len(found), 'run')} better than the first"
    tone: Tone = "good" if better else "bad" if worse == len(found) else "unsure"
    return (f"{text}, {worse} worse" if worse else text), tone


def sentence(comparison: Comparison, difference: Difference) -> str:
    """Say how a run does against the first, with the evidence."""
    first, other, dice = comparison.first, difference.run, difference.dice
    verbs: dict[Judgement, str] = {
        "better": "beats",
        "worse": "falls behind",
        "same": "equals",
        "unclear": "is not shown to differ from",
    }
    change = f"{figure(first.after['dice'].mean)} → {figure(other.after['dice'].mean)}"
    evidence = f"{CONFIDENCE:.0%} interval {spread(dice)}".replace("%", " %")
    corrected = "p after Holm" if len(comparison.differences) > 1 else "p"
    return (
        f"{other.label} {verbs[judged(difference)]} {first.label}: Dice {change} ({signed(dice.mean)},"
        f" {evidence}, {corrected} {p_value(difference.holm_p)}); {wins_and_losses(dice)}."
    )


def basis(comparison: Comparison) -> str:
    """Say which images the comparison rests on."""
    images = count(len(comparison.images), "test image")
    everyone = "both runs" if len(comparison.runs) == 2 else f"all {len(comparison.runs)} runs"
    text = f"{images} of {count(comparison.n_patients, 'patient')} that {everyone} have"
    left_out = [f"{run.left_out} of {run.label}" for run in comparison.runs if run.left_out]
    return f"{text}; left out: {', '.join(left_out)}" if left_out else text


def warnings(comparison: Comparison) -> list[str]:
    """Return what a reader must know before trusting the answer, a sentence each."""
    found = []
    if not comparison.equal_noop:
        found.append(
            "The runs do not start from the same masks: their no-ops differ, so a difference between them is"
            " not all of their training."
        )
    if not comparison.equal_patients:
        found.append(
            f"The runs disagree on which images are of one patient; those of {comparison.first.label} count."
        )
    if protocols := [fact.what for fact in protocol(comparison) if not fact.is_equal]:
        found.append(f"The runs were measured differently: {', '.join(protocols)}.")
    if len(comparison.differences) > 1:
        found.append("The best of several runs by these images is flattered by them: confirm it on new ones.")
    return found


def ships(run: ComparedRun) -> str:
    """Name what a run ships."""
    return candidate_name(run.info.results.verdict.ships)


def possible(metric: str, of: Interval) -> str:
    """Return an interval cut to what its metric can be, which Student's t does not know."""
    if of.n < 2:  # without ends there is nothing to cut
        return spread(of)
    highest = math.inf if metric in LOWER_IS_BETTER else 1.0
    return spread(replace(of, low=max(0.0, of.low), high=min(highest, of.high)))


def spec_differences(comparison: Comparison) -> list[Fact]:
    """Return the settings in which the specs differ, without secrets."""
    specs = [{s.path: s.value for s in settings(run.info.spec, {})} for run in comparison.runs]
    return [fact for fact in _facts(specs) if not fact.is_equal]


def inputs(comparison: Comparison) -> list[Fact]:
    """Return what went in and came out: data, segmenter and results by digest; the rest where it differs."""
    named = _of_each(comparison, lambda info: {
        **{f"Data, {name}": digest[:DIGEST_DIGITS] for name, digest in info.data.digests.items()},
        "Segmenter": info.segmenter.get("key", ABSENT)[:DIGEST_DIGITS],
        "Results": info.results_digest[:DIGEST_DIGITS],
    })  # fmt: skip
    circumstances = _of_each(comparison, lambda info: {
        "Data, place": info.data.uri,
        "Segmenter, place": f"{info.segmenter.get('kind', '')} {info.segmenter.get('uri', '')}",
        "Commit": info.provenance.git_commit or ABSENT,
        "Device": f"{info.provenance.device}, {count(info.provenance.threads, 'thread')}",
        **{f"Version, {name}": version for name, version in info.provenance.versions.items()},
    })  # fmt: skip
    return named + [fact for fact in circumstances + protocol(comparison) if not fact.is_equal]


def protocol(comparison: Comparison) -> list[Fact]:
    """Return how each run was measured."""
    return _of_each(comparison, lambda info: {f"Protocol, {k}": v for k, v in info.results.protocol.items()})


def to_text(comparison: Comparison) -> str:
    """Return the answer first, then tables of runs, of metrics and of what differs between the runs."""
    words, _ = headline(comparison)
    blocks = [
        [words, *(sentence(comparison, difference) for difference in comparison.differences)],
        [basis(comparison), *(f"NOTE: {warning}" for warning in warnings(comparison))],
        _aligned(_runs_table(comparison)),
        _aligned(_metrics_table(comparison)),
        _aligned(_differences_table(comparison)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return plain values, NaN and infinities as null."""
    document: dict[str, Any] = strict_json.plain(
        {
            "headline": headline(comparison)[0],
            "sentences": [sentence(comparison, difference) for difference in comparison.differences],
            "warnings": warnings(comparison),
            "images": len(comparison.images),
            "patients": comparison.n_patients,
            "confidence": CONFIDENCE,
            "runs": [_run_json(run) for run in comparison.runs],
            "differences": [
                {
                    "run": difference.run.label,
                    "to": comparison.first.label,
                    "judged": judged(difference),
                    "holm_p": difference.holm_p,
                    "metrics": {metric: asdict(uplift) for metric, uplift in difference.by_metric.items()},
                }
                for difference in comparison.differences
            ],
            "spec": {fact.what: fact.values for fact in spec_differences(comparison)},
            "inputs": {
                fact.what: {"equal": fact.is_equal, "values": fact.values} for fact in inputs(comparison)
            },
            "per_image": [asdict(image) for image in comparison.images],
        },
        null=True,
    )
    return document


def _run_json(run: ComparedRun) -> dict[str, Any]:
    return {
        "label": run.label,
        "name": run.info.name,
        "run_id": run.info.run_id,
        "verdict": run.info.results.verdict.verdict,
        "ships": run.info.results.verdict.ships,
        "left_out": run.left_out,
        "results_digest": run.info.results_digest,
        "before": {metric: asdict(interval) for metric, interval in run.before.items()},
        "after": {metric: asdict(interval) for metric, interval in run.after.items()},
        "vs_noop": asdict(run.vs_noop),
    }


def _runs_table(comparison: Comparison) -> list[Sequence[str]]:
    header = ("run", "ships", "Dice", "interval", "no-op", "against no-op", "interval", "verdict")
    return [header, *(
        (
            run.label, ships(run), _mean(run.after["dice"]), possible("dice", run.after["dice"]),
            _mean(run.before["dice"]), _mean(run.vs_noop), spread(run.vs_noop),
            run.info.results.verdict.verdict,
        )
        for run in comparison.runs
    )]  # fmt: skip


def _metrics_table(comparison: Comparison) -> list[Sequence[str]]:
    header = ["metric", *(run.label for run in comparison.runs)]
    for difference in comparison.differences:
        header += [f"{difference.run.label} - first", "interval"]
    rows: list[Sequence[str]] = [header]
    for metric in comparison.first.after:
        name = metric_name(metric) + (" ↓" if metric in LOWER_IS_BETTER else "")
        row = [name, *(_mean(run.after[metric]) for run in comparison.runs)]
        for difference in comparison.differences:
            row += [_mean(difference.by_metric[metric]), spread(difference.by_metric[metric])]
        rows.append(row)
    return rows


def _differences_table(comparison: Comparison) -> list[Sequence[str]]:
    facts = spec_differences(comparison)
    rows: list[Sequence[str]] = [("what differs", *(run.label for run in comparison.runs))]
    rows += [(fact.what, *map(shorten, fact.values)) for fact in facts]
    rows += [
        (fact.what, *(["equal"] if fact.is_equal else map(shorten, fact.values)))
        for fact in inputs(comparison)
    ]
    return rows


def _mean(of: Interval | Uplift) -> str:
    return signed(of.mean) if isinstance(of, Uplift) else figure(of.mean)


def _of_each(comparison: Comparison, read: Callable[[TrainingInfo], Mapping[str, str]]) -> list[Fact]:
    return _facts(
        [
            {what: printable(redact(value)) for what, value in read(run.info).items()}
            for run in comparison.runs
        ]
    )


def _facts(runs: Sequence[Mapping[str, str]]) -> list[Fact]:
    names = dict.fromkeys(name for run in runs for name in run)
    return [Fact(name, tuple(run.get(name, ABSENT) for run in runs)) for name in names]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    n_columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(n_columns)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]  # noqa: B905
