"""Phases that changed the segmenter's weights: what they gained, why they ended, reward and Dice by step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from job.publish.training_info import PhaseSummary, TrainingInfo
from job.report.charts import LineChart, line_chart
from job.report.numbers import MISSING, count, figure, signed
from job.report.summary import change, significance, skipped
from job.report.tables import Row, Table, table
from job.report.training import reward_formula
from job.report.words import JUDGED, candidate_name, judge_row

HEAD = ("Phase", "Ended", "Steps", "Kept", "Dice before", "Dice after", "Change")
COURSE_HEAD = (
    "Phase", "Learns from", "Dice: start → kept → end", "What it maximises: start → kept → end",
)  # fmt: skip
WORTH_HEAD = "Its terms on validation: start → kept → end"
NOTE = (
    "A phase's row of the ladder has its best action and the test images. The trained prompt is that of the"
    " action that was best on training images before, or the phase's own (prompt in finetune). A phase that"
    " ships does so with the action that is best on validation under its weights, so that its prompt and"
    " threshold may be others."
)
ENDED = {
    "steps": "all steps taken",
    "patience": "no better on validation",
    "reward_hacking": "reward rose while Dice fell",
    "overfitting": "reward rose on training images while Dice fell on validation images",
    "kl": "too far from its start to be kept",
    "diverged": "training diverged",
}
_FOOLED = {
    "reward_hacking": "the reward rising while true Dice fell: what it liked were no better masks, and",
    "overfitting": "the reward of its samples rising on training images while the Dice of its mask fell on"
    " validation images, and",
}
_CURVES = {
    "gold": "true Dice",
    "proxy": "what it maximises",
    "proxy_labelled": "true terms, labelled images",
    "proxy_unlabelled": "networks, unlabelled images",
    "worth": "its terms, validation images",
}
_ROUNDS = "; what rounds of the networks alone would move is taken out"


def phases_table(info: TrainingInfo) -> Table | None:
    """Set the phases one below the other, those of folds side by side; None without any."""
    return table(HEAD, [_row(course) for course in _courses(info)], n_text=2)


def course_table(info: TrainingInfo) -> Table | None:
    """Set what each phase learned from, true Dice and its own objective side by side; None without any.

    Where Dice may be given up for a phase's terms, these have a column too.
    """
    courses = _courses(info)
    head, keys = [*COURSE_HEAD], ["gold", "proxy"]
    if any(map(_slack, courses)):
        head, keys = [*head, WORTH_HEAD], [*keys, "worth"]
    return table(head, [_course_row(course, keys) for course in courses], n_text=2)


def phases_sentence(info: TrainingInfo) -> str:
    """Say what was trained, what fooled it, and what a check skipped; empty without phases."""
    courses, told = _courses(info), []
    if courses:
        prompts = dict.fromkeys(course.phase.prompt for course in courses)
        asked = " and ".join(f"“{prompt.rstrip('.')}”" for prompt in prompts)
        told += [_over_folds(info), f"Weights were trained for {asked}. {_kept(courses)} {NOTE}"]
    for ended, how in _FOOLED.items():
        if fooled := [course.title for course in courses if course.phase.ended == ended]:
            told.append(f"{' and '.join(fooled)} ended with {how} the best step before that was restored.")
    told += [*_diverged(courses), *_too_far(courses), *_collapsed(courses), *_unchanged(courses)]
    if set(info.skipped) - {"ppo"}:
        told.append(f"{skipped(info)}.")
    return " ".join(filter(None, told))


def phase_curves(info: TrainingInfo) -> list[LineChart]:
    """Lay out true Dice beside what the phase maximises, for every phase with a curve."""
    charts = []
    for course in _courses(info):
        phase = course.phase
        known = {key for row in phase.curve for key in row}
        series = {
            name: [row.get(key) for row in phase.curve] for key, name in _CURVES.items() if key in known
        }
        charts.append(
            line_chart(
                course.title,
                [row["step"] for row in phase.curve],
                series,
                note=_chart_note(phase) + (_ROUNDS if "proxy_unlabelled" in known else ""),
                marker=float(phase.best_step),
            )
        )
    return [chart for chart in charts if chart is not None]


@dataclass(frozen=True)
class _Course:
    """A phase as it went in the run, or in one of its folds."""

    title: str
    phase: PhaseSummary
    ships: bool


def _courses(info: TrainingInfo) -> list[_Course]:
    """Return every phase in order; with folds all of one phase, then all of the next."""
    if not info.folds:
        ships = info.results.verdict.ships
        return [_Course(candidate_name(phase.name), phase, phase.name == ships) for phase in info.weights]
    courses = [
        _Course(f"{candidate_name(phase.name)}, fold {fold.fold}", phase, phase.name == fold.ships)
        for fold in info.folds
        for phase in fold.weights
    ]
    names = [course.phase.name for course in courses]
    return sorted(courses, key=lambda course: names.index(course.phase.name))


def _slack(course: _Course) -> float:
    """Return how much Dice the phase may have given up for its own terms."""
    return float(course.phase.facts.get("dice_slack", 0.0))


def _kept(courses: list[_Course]) -> str:
    """Say which step phases keep: that of best Dice, or of most of their terms within a slack of Dice."""
    loose = {candidate_name(course.phase.name): course for course in courses if _slack(course)}
    told = ["Dice on validation images, of the trained prompt at the threshold 0.5."]
    told += [
        f"{name} keeps the step of highest {reward_formula(course.phase.facts['worth'])} there, its start"
        f" among them, where Dice is at most {_slack(course):g} below its start's."
        for name, course in loose.items()
    ]
    if not all(map(_slack, courses)):
        each = "Every other" if loose else "Each"
        told.append(f"{each} phase keeps the step that was best there, its start among them.")
    return " ".join(told)


def _chart_note(phase: PhaseSummary) -> str:
    kept = f"{ENDED.get(phase.ended, phase.ended)}; step {phase.best_step:,} was kept"
    worth = [row["worth"] for row in phase.curve if row["step"] == phase.best_step and "worth" in row]
    for_terms = f" for {figure(worth[0])} of its terms" if worth else ""
    return f"{kept}{for_terms}, with {'Dice ' if worth else ''}{figure(phase.best_dice)}"


def _diverged(courses: list[_Course]) -> list[str]:
    diverged = [course for course in courses if course.phase.ended == "diverged"]
    told = []
    for advice in dict.fromkeys(course.phase.facts["advice"] for course in diverged):
        alike = [course for course in diverged if course.phase.facts["advice"] == advice]
        how = f" {alike[0].phase.facts['diverged']}" if len(alike) == 1 else ""
        names = " and ".join(course.title for course in alike)
        told.append(f"{names} diverged{how}. What was best before that was restored; {advice}.")
    return told


def _too_far(courses: list[_Course]) -> list[str]:
    return [
        f"{course.title} ended {figure(course.phase.facts['kl'])} nats a pixel from its start, beyond its"
        f" kl_budget of {course.phase.facts['kl_budget']:g}: a lower learning_rate goes less far a step."
        for course in courses
        if course.phase.ended == "kl" and "kl" in course.phase.facts
    ]


def _collapsed(courses: list[_Course]) -> list[str]:
    return [
        f"{course.title} found no step better than its start, and Dice fell to"
        f" {figure(course.phase.curve[-1]['gold'])}; {course.phase.facts['advice']}."
        for course in courses
        if course.phase.ended != "diverged" and "advice" in course.phase.facts
    ]


def _unchanged(courses: list[_Course]) -> list[str]:
    """Say whose row of the ladder is not its own doing."""
    titles = [course.title for course in courses if not course.phase.best_step]
    if not titles:
        return []
    kept = "kept its start: its weights, and what they gain, are" if len(titles) == 1 else ""
    kept = kept or "kept their starts: their weights, and what these gain, are"
    return [f"{' and '.join(titles)} {kept} those that were there before."]


def _over_folds(info: TrainingInfo) -> str:
    """Say what the joined ladder shows of each phase; empty without folds."""
    names = {phase.name for fold in info.folds for phase in fold.weights}
    judged = [
        f"{candidate_name(row.candidate)} {change(row.vs_noop)}, {JUDGED[judge_row(row, significance(info))]}"
        for row in info.results.ladder
        if row.candidate in names
    ]
    return f"Over all folds, against today on test images: {'; '.join(judged)}." if judged else ""


def _row(course: _Course) -> Row:
    phase = course.phase
    kept = f"step {phase.best_step:,}" if phase.best_step else "its start"
    return Row(
        (
            course.title,
            ENDED.get(phase.ended, phase.ended),
            count(phase.steps, "step"),
            kept,
            figure(phase.start_dice),
            figure(phase.best_dice),
            signed(phase.best_dice - phase.start_dice),
        ),
        "ships" if course.ships else "",
        is_marked=course.ships,
    )


def _course_row(course: _Course, keys: list[str]) -> Row:
    phase = course.phase
    return Row((course.title, _teachers(phase.facts), *(_ends(phase, key) for key in keys)))


def _teachers(facts: Mapping[str, Any]) -> str:
    """Say what taught a phase on how many images; a phase without terms learned from the masks themselves."""
    labelled, unlabelled = facts.get("labelled", 0), facts.get("unlabelled", 0)
    has_steps = labelled and facts.get("unlabelled_share") != 1
    teachers = []
    if has_steps:
        by = f"{reward_formula(facts['terms'])} on" if facts.get("terms") else "masks of"
        teachers.append(f"{by} {count(labelled, 'labelled image')}")
    if unlabelled:
        networks = count(facts.get("networks", 0), "reward network")
        teachers.append(f"{networks} on {count(unlabelled, 'unlabelled image')}")
    if labelled and not has_steps:
        teachers.append(f"{count(labelled, 'labelled image')} for teaching the networks alone")
    return ", ".join(teachers) or MISSING


def _ends(phase: PhaseSummary, key: str) -> str:
    """Return a figure at the start, at the step that was kept and at the end; a dash where it has none.

    What diverged was not looked at in the end.
    """
    kept = [row for row in phase.curve if row["step"] == phase.best_step]
    end = [{}] if phase.ended == "diverged" else phase.curve[-1:]
    rows: list[dict[str, float]] = [*phase.curve[:1], *kept[:1], *end]
    if not any(key in row for row in rows):
        return MISSING
    return " → ".join(figure(row.get(key)) for row in rows)
