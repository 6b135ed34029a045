"""Phases that changed the segmenter's weights: what they gained, why they ended, reward and Dice by step."""

from collections.abc import Sequence

from job.publish.training_info import PhaseSummary
from job.report.charts import LineChart, line_chart
from job.report.numbers import count, figure, signed
from job.report.tables import Row, Table, table
from job.report.words import candidate_name

HEAD = ("Phase", "Ended", "Steps", "Kept", "Dice before", "Dice after", "Change")
NOTE = (
    "Dice on validation images, of the trained prompt at the threshold 0.5. Each phase keeps the step that"
    " was best there, its start among them; its row of the ladder has its best action and the test images."
)
ENDED = {
    "steps": "all steps taken",
    "patience": "no better on validation",
    "reward_hacking": "reward rose while Dice fell",
    "kl": "too far from its start",
}


def phases_table(phases: Sequence[PhaseSummary], ships: str) -> Table | None:
    """Set the phases one below the other; None without any."""
    return table(HEAD, [_row(phase, is_marked=phase.name == ships) for phase in phases], n_text=2)


def phases_sentence(phases: Sequence[PhaseSummary]) -> str:
    """Say what was trained, and which guard stopped it; empty without phases."""
    if not phases:
        return ""
    prompts = list(dict.fromkeys(phase.prompt for phase in phases))
    asked = " and ".join(f"“{prompt.rstrip('.')}”" for prompt in prompts)
    hacked = [candidate_name(phase.name) for phase in phases if phase.ended == "reward_hacking"]
    told = f"Weights were trained for {asked}. {NOTE}"
    if hacked:
        told += (
            f" {' and '.join(hacked)} was stopped because the reward went on rising while true Dice fell:"
            " the reward was being played, and the best step before that was restored."
        )
    return told


def phase_curves(phases: Sequence[PhaseSummary]) -> list[LineChart]:
    """Lay out true Dice beside what the phase maximises, for every phase with a curve."""
    charts = []
    for phase in phases:
        known = {key for row in phase.curve for key in row}
        series = {
            name: [row.get(key) for row in phase.curve]
            for key, name in (("gold", "true Dice"), ("proxy", "what it maximises"))
            if key in known
        }
        charts.append(
            line_chart(
                candidate_name(phase.name),
                [row["step"] for row in phase.curve],
                series,
                note=f"{ENDED.get(phase.ended, phase.ended)}; step {phase.best_step:,} was kept,"
                f" with {figure(phase.best_dice)}",
                marker=float(phase.best_step),
            )
        )
    return [chart for chart in charts if chart is not None]


def _row(phase: PhaseSummary, *, is_marked: bool) -> Row:
    kept = f"step {phase.best_step:,}" if phase.best_step else "its start"
    return Row(
        (
            candidate_name(phase.name),
            ENDED.get(phase.ended, phase.ended),
            count(phase.steps, "step"),
            kept,
            figure(phase.start_dice),
            figure(phase.best_dice),
            signed(phase.best_dice - phase.start_dice),
        ),
        "ships" if is_marked else "",
        is_marked=is_marked,
    )
