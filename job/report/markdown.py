"""report.md: the same answer for terminals and pull requests."""

from collections.abc import Iterable, Sequence

from job.evaluation.results import LadderRow
from job.publish.training_info import TrainingInfo
from job.report.bad_images import bad_images_sentence, bad_images_table
from job.report.champion import action_table, contest, dice_table, shift_table
from job.report.checks import check_groups
from job.report.folds import folds_sentence, folds_table
from job.report.images import LEFT_OUT, by_dice, leaves_out_pictures
from job.report.judges import coverage_sentence, judges_sentence, judges_table, review_sentence
from job.report.ladder import numbers_behind, small_ladder
from job.report.measures import convention_table, protocol_list
from job.report.numbers import count, duration, figure
from job.report.others import other_datasets
from job.report.provenance import provenance
from job.report.strips import fooled, probe_name, seeds_sentence
from job.report.summary import answer_table, capitalised, ladder
from job.report.sweep import CHOSEN, sweep_table
from job.report.tables import Table
from job.report.training import chosen_actions, reward_findings, reward_formula, reward_scales, reward_source
from job.report.weights import course_table, phases_sentence, phases_table
from job.report.words import LOWER_IS_BETTER, VERDICTS, candidate_name, metric_name

ICONS = {"good": "✅", "neutral": "➖", "unsure": "❔", "bad": "❌"}
OUTCOMES = {"passed": "✅", "failed": "❌", "unmeasured": "➖"}
MOST_IMAGES = 5
MOST_BAD_IMAGES = 20


def render_markdown(info: TrainingInfo) -> str:
    """Render the report of a run as GitHub-flavoured Markdown without pictures, of at most some 280 lines."""
    results, rungs = info.results, ladder(info)
    words = VERDICTS[results.verdict.verdict]
    blocks = [
        f"# {ICONS[words.tone]} {escape(info.name)}: {words.headline.lower()}",
        escape(results.verdict.sentence),
        _table(("", "Answer"), [row for row in answer_table(info) if row[0] != "Verdict"]),
        *_champion(info),
        *_drift(info),
        "## Ladder",
        "Dice on test images against today, paired by patient; the row in bold ships.",
        _drawn(small_ladder(rungs)) or "No candidate was judged.",
        *_section("Numbers behind the ladder", _drawn(numbers_behind(rungs))),
        "## Metrics",
        _metrics(rungs),
        *_section("Folds", escape(folds_sentence(info.folds)), _drawn(folds_table(info.folds))),
        *_checks(info),
        *_section("Sweep", CHOSEN if info.sweep else "", _drawn(sweep_table(info.sweep))),
        *_section(
            "Weights",
            escape(phases_sentence(info)),
            _drawn(phases_table(info)),
            _drawn(course_table(info)),
        ),
        *_section("Seeds", escape(seeds_sentence(info.finetune.seeds)), _seeds(info)),
        "## Images",
        _images(info),
        *_bad_images(info),
        "## Actions chosen",
        _actions(info),
        *_reward(info),
        *_section("How it was measured", _protocol(info), _conventions(info)),
        *_others(info),
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


def _drawn(table: Table | None) -> str:
    """Draw a table that both reports share: names that count in bold, standings in brackets."""
    if table is None:
        return ""
    lines = [
        f"| {' | '.join(table.head)} |",
        "|" + " --- |" * table.n_text + " ---: |" * (len(table.head) - table.n_text),
    ]
    for row in table.rows:
        name, *others = (escape(cell) for cell in row.cells)
        name = f"**{name}**" if row.is_marked else name
        name = f"{name} ({escape(row.tag)})" if row.tag else name
        lines.append(f"| {' | '.join([name, *others])} |")
    return "\n".join(lines)


def _section(title: str, *blocks: str) -> list[str]:
    """Return a section, nothing where all its blocks are empty."""
    return [f"## {title}", *blocks] if any(blocks) else []


def _champion(info: TrainingInfo) -> list[str]:
    match = contest(info)
    if match is None:
        return []
    told = f"{ICONS[match.words.tone]} **{match.words.headline}**. {escape(match.sentence)}"
    return _section("Champion", told, _drawn(match.table), match.basis and f"On {match.basis}.")


def _drift(info: TrainingInfo) -> list[str]:
    drift = info.promotion.drift if info.promotion is not None else None
    if drift is None:
        return []
    tables = (dice_table(drift), shift_table(drift), action_table(drift))
    return _section("Drift", escape(drift.sentence), *map(_drawn, tables))


def _metrics(rows: Sequence[LadderRow]) -> str:
    if not rows:
        return ""
    metrics = list(rows[0].test)
    header = ["Candidate", *(metric_name(m) + (" ↓" if m in LOWER_IS_BETTER else "") for m in metrics)]
    return _table(
        header,
        [[candidate_name(row.candidate), *(figure(row.test[m].mean) for m in metrics)] for row in rows],
    )


def _checks(info: TrainingInfo) -> list[str]:
    blocks = ["## Checks"]
    for group in check_groups(info):
        rows = [
            (
                OUTCOMES[check.outcome],
                check.name,
                check.value,
                check.threshold,
                f"{check.finding}. {capitalised(check.advice)}" if check.advice else check.finding,
            )
            for check in group.checks
        ]
        blocks += [
            f"**{group.title}**: {group.tally}; {group.note}.",
            _table(("", "Check", "Value", "Threshold", "Finding"), rows),
        ]
    return blocks if len(blocks) > 1 else [*blocks, "No check was run."]


def _seeds(info: TrainingInfo) -> str:
    rows = [
        (
            str(seed.seed),
            figure(seed.validation_dice),
            figure(seed.entropy),
            "candidate" if seed.ships else "",
        )
        for seed in info.finetune.seeds
    ]
    return _table(("Seed", "Validation Dice", "Entropy", ""), rows)


def _reward(info: TrainingInfo) -> list[str]:
    reward, results = info.reward, info.results
    probes = [
        (probe_name(probe), figure(probe.predicted), figure(probe.true), str(probe.n))
        for probe in reward.probes
    ]
    return [
        "## Reward network",
        f"Reward: {escape(reward_formula(reward.terms))}."
        f" The network started from {escape(reward_source(reward))}.",
        escape(reward_scales(reward)),
        _table(("Figure", "Value", "Meaning"), reward_findings(reward)),
        escape(judges_sentence(results.judges)),
        _drawn(judges_table(results.judges)),
        escape(coverage_sentence(results.coverage)),
        escape(review_sentence(results.review)),
        f"Masks made to fool it: {escape(fooled(reward.probes))}" if probes else "",
        _table(("Mask", "Predicted Dice", "True Dice", "Images"), probes),
    ]


def _protocol(info: TrainingInfo) -> str:
    return "\n".join(f"* {escape(what)}: {escape(how)}" for what, how in protocol_list(info.results.protocol))


def _conventions(info: TrainingInfo) -> str:
    table = convention_table(info.results.conventions, info.results.verdict.ships)
    if table is None:
        return ""
    rows = [
        (row.region, row.resolution, row.aggregation, *(" / ".join(values) for values in row.figures))
        for row in table.rows
    ]
    header = ("Region", "Resolution", "Aggregation", *table.metrics)
    return f"Each cell: {escape(' / '.join(table.candidates))}.\n\n{_table(header, rows)}"


def _others(info: TrainingInfo) -> list[str]:
    blocks = []
    for other in other_datasets(info.results.other_datasets):
        size = f"{count(other.results.images, 'image')} of {count(other.results.patients, 'patient')}"
        title = f"{ICONS[other.words.tone]} {other.results.name}: {other.words.headline.lower()}"
        blocks += [
            f"**{escape(title)}** ({size}). {escape(other.results.verdict.sentence)}",
            _drawn(other.ladder),
        ]
    return _section("Other datasets", *blocks)


def _images(info: TrainingInfo) -> str:
    images = by_dice(info.results.images)
    if not images:
        return "No test image was judged."
    shown = images[:MOST_IMAGES]
    text = f"{LEFT_OUT}\n\n" if leaves_out_pictures(info) else ""
    text += f"The worst {len(shown)} of {count(len(images), 'test image')} after:\n\n"
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


def _bad_images(info: TrainingInfo) -> list[str]:
    bad = info.data.bad_images
    more = f"and {count(len(bad) - MOST_BAD_IMAGES, 'other')}: training_info.json lists all"
    return _section(
        "Images left out",
        escape(bad_images_sentence(bad)),
        _drawn(bad_images_table(bad[:MOST_BAD_IMAGES])),
        more if len(bad) > MOST_BAD_IMAGES else "",
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
