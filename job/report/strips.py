"""Strip charts: a row for each thing, its marks on one scale that all rows share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from job.publish.training_info import SeedSummary, TrainingInfo
from job.report.charts import Axis, Tick, tick_label, tight_axis
from job.report.numbers import figure, percent
from job.reward.probes import Probe

UNITS = {"dilation": "px", "erosion": "px", "islands": "specks"}
Shape = Literal["dot", "diamond"]


@dataclass(frozen=True)
class Mark:
    """A value, at a percent of the strip's width; shapes differ, so that colours need not."""

    at: float
    shape: Shape
    title: str


@dataclass(frozen=True)
class StripRow:
    """One row; a line joins its marks."""

    name: str
    tag: str
    marks: tuple[Mark, ...]
    figures: str
    is_marked: bool = False
    note: str = ""
    """Below the name."""

    @property
    def ends(self) -> tuple[float, float]:
        """Where the line that joins the marks starts and ends."""
        places = [mark.at for mark in self.marks]
        return min(places), max(places)


@dataclass(frozen=True)
class StripChart:
    """Rows over one scale."""

    rows: tuple[StripRow, ...]
    ticks: tuple[Tick, ...]
    keys: tuple[tuple[Shape, str], ...]
    """What each shape stands for; empty where there is only one."""
    heading: str
    """Over the figures."""


def probe_chart(probes: Sequence[Probe]) -> StripChart | None:
    """Lay out predicted against true Dice of the masks that were made to fool the reward network."""
    if not probes:
        return None
    axis = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    return StripChart(
        rows=tuple(_probe_row(probe, axis) for probe in probes),
        ticks=_ticks(axis),
        keys=(("dot", "what the network predicts"), ("diamond", "true Dice")),
        heading="predicted · true",
    )


def fooled(probes: Sequence[Probe]) -> str:
    """Say where the network praises a bad mask most."""
    if not probes:
        return ""
    worst = max(probes, key=lambda probe: probe.predicted - probe.true)
    excess = worst.predicted - worst.true
    if excess < 0.0005:
        return "It overrates none of them."
    return (
        f"It overrates “{probe_name(worst)}” most:"
        f" predicted {figure(worst.predicted)}, true {figure(worst.true)}."
    )


def probe_name(probe: Probe) -> str:
    """Return what was done to the mask: `dilation 2 px`, `islands 50 specks`, `skeleton`."""
    if probe.kind in UNITS:
        return f"{probe.kind} {probe.amount:g} {UNITS[probe.kind]}"
    return {"truth": "the truth itself", "empty": "empty mask", "full": "full mask"}.get(
        probe.kind, probe.kind
    )


def seed_chart(info: TrainingInfo) -> StripChart | None:
    """Lay out the validation Dice of trainings that differ by their seed; None for fewer than two."""
    seeds = info.finetune.seeds
    if len(seeds) < 2:
        return None
    axis = tight_axis([seed.validation_dice for seed in seeds], 4, margin=0.15)
    tag = "ships" if info.results.verdict.ships == "ppo" else "candidate"
    return StripChart(
        rows=tuple(_seed_row(seed, axis, tag) for seed in seeds),
        ticks=_ticks(axis),
        keys=(),
        heading="Dice · entropy",
    )


def seeds_sentence(seeds: Sequence[SeedSummary]) -> str:
    """Say how far the trainings differ by chance alone, and which one is the candidate."""
    if not seeds:
        return ""
    if len(seeds) == 1:
        return f"One training, seed {seeds[0].seed}: how far chance alone moves it was not measured."
    dice = [seed.validation_dice for seed in seeds]
    return (
        f"{len(seeds)} trainings that differ by their seed alone: validation Dice {figure(min(dice))} to"
        f" {figure(max(dice))}. The one of median Dice is the candidate; entropy is a share of a uniform"
        " choice's."
    )


def _probe_row(probe: Probe, axis: Axis) -> StripRow:
    return StripRow(
        name=probe_name(probe),
        tag="",
        marks=(
            Mark(axis.percent(probe.true), "diamond", f"true Dice {figure(probe.true)}"),
            Mark(axis.percent(probe.predicted), "dot", f"predicted {figure(probe.predicted)}"),
        ),
        figures=f"{figure(probe.predicted, 2)} · {figure(probe.true, 2)}",
    )


def _seed_row(seed: SeedSummary, axis: Axis, tag: str) -> StripRow:
    return StripRow(
        name=f"Seed {seed.seed}",
        tag=tag if seed.ships else "",
        marks=(Mark(axis.percent(seed.validation_dice), "dot", f"Dice {figure(seed.validation_dice)}"),),
        figures=f"{figure(seed.validation_dice)} · {percent(seed.entropy)}",
        is_marked=seed.ships,
    )


def _ticks(axis: Axis) -> tuple[Tick, ...]:
    return tuple(Tick(axis.percent(tick), tick_label(tick, axis)) for tick in axis.ticks)
