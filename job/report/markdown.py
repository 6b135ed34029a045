"""report.md: the same answer for terminals and pull requests."""

from collections.abc import Iterable, Sequence

from job.evaluation.results import LadderRow
from job.publish.training_info import TrainingInfo
from job.report.images import by_dice
from job.report.numbers import count, duration, figure, signed, spread
from job.report.provenance import provenance
from job.report.summary import answer_table
from job.report.training import chosen_actions, reward_findings, reward_formula, reward_source
from job.report.words import LOWER_IS_BETTER, VERDICTS, candidate_name, metric_name

ICONS = {"good": "✅", "neutral": "➖", "unsure": "❔", "bad": "❌"}
MOST_IMAGES = 5


def render_markdown(info: TrainingInfo) -> str:
    """Render the report of a run as GitHub-flavoured Markdown without pictures, of at most some 120 lines."""
    verdict = info.results.verdict
    words = VERDICTS[verdict.verdict]
    blocks = [
        f"# {ICONS[words.tone]} {escape(info.name)}: {words.headline.lower()}",
        escape(verdict.sentence),
        _table(("", "Answer"), [row for row in answer_table(info) if row[0] != "Verdict"]),
        "## Ladder",
        "Dice on test images against today, paired by patient; the row in bold ships.",
        _ladder(info.results.ladder),
        "## Metrics",
        _metrics(info.results.ladder),
        "## Checks",
        _checks(info),
        "## Images",
        _images(info),
        "## Actions chosen",
        _actions(info),
        "## Reward network",
        f"Reward: {escape(reward_formula(info.reward.terms))}."
        f" The network started from {escape(reward_source(info.reward))}.",
        _table(("Figure", "Value", "Meaning"), reward_findings(info.reward)),
        "## Run",
        _run(info),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: str) -> str:
    """Return text that Markdown shows as it is: on one line, without markup, links or HTML."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in r"\`*[]|~" else c for c in plain)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(header)} |", "|" + " --- |" * len(header), *lines])


def _ladder(ladder: Sequence[LadderRow]) -> str:
    lines = ["| Candidate | Dice | Against today | Interval | Better / equal / worse |"]
    lines.append("| --- | ---: | ---: | --- | --- |")
    for row in ladder:
        name = escape(candidate_name(row.candidate))
        name = f"**{name}**" if row.ships else name if row.can_ship else f"{name} (needs the truth)"
        against = row.vs_noop
        lines.append(
            f"| {name} | {figure(row.test['dice'].mean)} | {signed(against.mean)} | {spread(against)}"
            f" | {against.wins} / {against.ties} / {against.losses} |"
        )
    return "\n".join(lines) if ladder else "No candidate was judged."


def _metrics(ladder: Sequence[LadderRow]) -> str:
    if not ladder:
        return ""
    metrics = list(ladder[0].test)
    header = ["Candidate", *(metric_name(m) + (" ↓" if m in LOWER_IS_BETTER else "") for m in metrics)]
    return _table(
        header,
        [[candidate_name(row.candidate), *(figure(row.test[m].mean) for m in metrics)] for row in ladder],
    )


def _checks(info: TrainingInfo) -> str:
    rows = [
        (
            "✅" if check.passed else "❌",
            check.name,
            check.severity,
            check.finding if check.passed or not check.advice else f"{check.finding}. {check.advice}",
        )
        for check in info.checks
    ]
    return _table(("", "Check", "Kind", "Finding"), rows) or "No check was run."


def _images(info: TrainingInfo) -> str:
    images = by_dice(info.results.images)
    if not images:
        return "No test image was judged."
    shown = images[:MOST_IMAGES]
    text = f"The worst {len(shown)} of {count(len(images), 'test image')} after:\n\n"
    labels = {action.index: action.label for action in info.actions}
    return text + _table(
        ("Image", "Patient", "Before", "After", "Best possible", "Action"),
        [
            (
                image.name,
                image.patient,
                figure(image.before.get("dice")),
                figure(image.after.get("dice")),
                figure(image.oracle_dice),
                labels.get(image.action, str(image.action)),
            )
            for image in shown
        ],
    )


def _actions(info: TrainingInfo) -> str:
    chosen = chosen_actions(info)
    rows = [(action.label, str(action.n)) for action in chosen.actions[:MOST_IMAGES]]
    table = _table(("Action", "Test images"), rows)
    if not table:
        return "No action was chosen."
    return f"{chosen.n_chosen} of {count(chosen.n_offered, 'action')} chosen; the most frequent:\n\n{table}"


def _run(info: TrainingInfo) -> str:
    stages = ", ".join(
        f"{stage.name} {'reused' if stage.reused else duration(stage.seconds)}" for stage in info.stages
    )
    rows = [(name, value) for name, value in provenance(info) if not name.startswith("Digest")]
    return _table(("", "Provenance"), [*rows, ("Stages", stages)])
