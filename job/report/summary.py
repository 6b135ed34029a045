"""The final answer as plain rows of (label, value): for the terminal, report.md and report.html."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from job.evaluation.results import Experiment, LadderRow, Verdict
from job.metrics.statistics import Interval, Uplift
from job.publish.training_info import TrainingInfo
from job.report.checks import all_checks, checks_line, dropped
from job.report.numbers import count, figure, interval, p_value, signed
from job.report.words import (
    JUDGED,
    SIGNIFICANCE,
    VERDICTS,
    Judgement,
    candidate_name,
    decision_words,
    judge,
    judge_row,
)
from job.storage.documents import parse_as, read_bytes


@dataclass(frozen=True)
class ExperimentAnswer:
    """One of the mission's three experiments; figures are None where it was not run."""

    experiment: Experiment
    detail: str = ""
    """What was found; empty where the experiment's name says it all."""
    dice: Interval | None = None
    vs_noop: Uplift | None = None
    holm_p: float | None = None
    """Corrected for asking three questions."""
    judgement: Judgement | None = None


@dataclass(frozen=True)
class Learned:
    """Answer (b) in figures: what was learned against the best fixed action."""

    name: str
    judgement: Judgement
    mean: str
    images: str


def answer_table(info: TrainingInfo) -> list[tuple[str, str]]:
    """Return the answer of a run, most important first."""
    verdict = info.results.verdict
    rows = [
        ("Verdict", f"{VERDICTS[verdict.verdict].headline}: {verdict.sentence}"),
        ("Ships", ships(info)),
        ("Dice", f"{figure(verdict.dice_before.mean)} → {figure(verdict.dice_after.mean)}"),
        ("Change", change(verdict.vs_noop)),
        ("Images", wins_and_losses(verdict.vs_noop)),
        ("Learning", verdict.learning),
    ]
    if champion := champion_line(info):
        rows.insert(1, ("Champion", champion))
    if phases := skipped(info):
        rows.append(("Skipped", phases))
    if needed := what_would_decide(verdict):
        rows.append(("To decide", needed))
    rows += [(capitalised(answer.experiment), experiment_line(answer)) for answer in experiments(info)]
    if policy := dropped(info):
        rows.append(("Policy", policy))
    rows.append(("Checks", checks_line(all_checks(info))))
    return rows


def print_answer(console: Console, run_folder: Path, uri: str) -> None:
    """Print the answer of the finished run in `run_folder` and, where that is elsewhere, its `uri`.

    A run in a store that this machine has no copy of is only named.
    """
    rows, record = [], run_folder / "training_info.json"
    if record.is_file():
        info = parse_as(
            TrainingInfo, read_bytes(record), str(record), what="a record of this version",
            advice="remove the run's folder and run the same command: what has not changed is taken over",
        )  # fmt: skip
        rows = [*answer_table(info), ("Report", str(run_folder / "report.html"))]
    if uri != str(run_folder):
        rows.append(("Published", uri))
    table = Table.grid(padding=(0, 2))
    for label, value in rows:
        # Text, not markup: a file name in square brackets is no style.
        table.add_row(Text(label, style="bold"), Text(value))
    console.print(table)


def ships(info: TrainingInfo) -> str:
    """Say what ships, in plain words and by name; nothing where the result is invalid."""
    verdict = info.results.verdict
    if verdict.verdict == "invalid":
        return "nothing"
    name = candidate_name(verdict.ships)
    row = next((row for row in info.results.ladder if row.candidate == verdict.ships), None)
    more = detail(row) if row is not None else ""
    return f"{name}: {more}" if more else name


def skipped(info: TrainingInfo) -> str | None:
    """Say which phases a failed validity check kept from running, and in which folds; None without any."""
    if not info.skipped:
        return None
    invalid = [str(fold.fold) for fold in info.folds if fold.verdict == "invalid"]
    where = f" in fold{'s' if len(invalid) > 1 else ''} {', '.join(invalid)}" if invalid else ""
    phases = ", ".join(candidate_name(name) for name in info.skipped)
    return f"{phases}: not trained{where}, because a validity check failed"


def champion_line(info: TrainingInfo) -> str | None:
    """Say on one line what became of the champion; None for a run that does not promote."""
    promotion = info.promotion
    if promotion is None:
        return None
    headline = decision_words(promotion).headline
    if promotion.vs_champion is None:
        return f"{headline}: {promotion.sentence}"
    against = "it" if promotion.champion is not None else "today"
    return f"{headline}: {change(promotion.vs_champion)} against {against}"


def ladder(info: TrainingInfo) -> list[LadderRow]:
    """Return the ladder as it is shown: of an invalid result no row ships."""
    rows = info.results.ladder
    if info.results.verdict.verdict != "invalid":
        return rows
    return [row.model_copy(update={"ships": False}) for row in rows]


def detail(row: LadderRow) -> str:
    """Return what a candidate's description adds to its name; empty where it only repeats it."""
    return "" if row.description == candidate_name(row.candidate) else row.description


def change(uplift: Uplift) -> str:
    """Say how much better, on how many patients."""
    basis = f"{count(uplift.n_patients, 'patient')}, {count(uplift.n_images, 'image')}"
    return f"{signed(uplift.mean)} Dice ({interval(uplift)}; {basis})"


def wins_and_losses(uplift: Uplift) -> str:
    """Say on how many images it was better, equal, worse."""
    return f"{uplift.wins} better, {uplift.ties} equal, {uplift.losses} worse"


def what_would_decide(verdict: Verdict) -> str | None:
    """Say how many patients would decide an inconclusive verdict; None where it is decided."""
    if verdict.verdict != "inconclusive":
        return None
    have = verdict.vs_noop.n_patients
    if verdict.patients_needed is None:
        return f"more test patients are needed than the {count(have, 'patient')} of this run"
    return (
        f"about {count(verdict.patients_needed, 'test patient')} would decide it (80 % power);"
        f" this run had {have}"
    )


def learned(info: TrainingInfo) -> list[Learned]:
    """Return what the policy, and each phase of weights, added over the best fixed action."""
    of_folds = [phase for fold in info.folds for phase in fold.weights]
    names = {"ppo", *(phase.name for phase in (*info.weights, *of_folds))}
    rows = [row for row in info.results.ladder if row.candidate in names]
    return [_learned(row, significance(info)) for row in rows]


def experiments(info: TrainingInfo) -> list[ExperimentAnswer]:
    """Return the mission's three experiments in their order, those that were not run too."""
    rows = {row.experiment: row for row in info.results.ladder if row.experiment is not None}
    return [_answer(name, rows.get(name), significance(info)) for name in get_args(Experiment)]


def experiment_line(answer: ExperimentAnswer) -> str:
    """Return an experiment's answer on one line."""
    if answer.dice is None or answer.vs_noop is None or answer.judgement is None:
        return "not run"
    against = f"{signed(answer.vs_noop.mean)} against today, {interval(answer.vs_noop)}"
    return f"Dice {figure(answer.dice.mean)} ({against}{corrected(answer)}): {JUDGED[answer.judgement]}"


def corrected(answer: ExperimentAnswer) -> str:
    """Return the corrected p value as it goes on a sentence: `, Holm p 0.012`; empty without one."""
    return "" if answer.holm_p is None else f", Holm p {p_value(answer.holm_p)}"


def capitalised(text: str) -> str:
    """Return a text with a capital first letter and all others as they were: `Reward-network RL`."""
    return text[:1].upper() + text[1:]


def significance(info: TrainingInfo) -> float:
    """Return the largest p value that counts as shown: what the run's intervals leave out."""
    confidence = info.spec.get("evaluate", {}).get("confidence")
    return SIGNIFICANCE if confidence is None else round(1 - confidence, 9)


def _learned(row: LadderRow, significance: float) -> Learned:
    uplift = row.vs_best_fixed
    return Learned(
        candidate_name(row.candidate),
        judge(uplift, uplift.p_value, significance),
        signed(uplift.mean),
        wins_and_losses(uplift),
    )


def _answer(name: Experiment, row: LadderRow | None, significance: float) -> ExperimentAnswer:
    if row is None:
        return ExperimentAnswer(name)
    judgement = judge_row(row, significance)
    return ExperimentAnswer(name, detail(row), row.test["dice"], row.vs_noop, row.holm_p, judgement)
