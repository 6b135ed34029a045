"""Fine-tuned weights on CHASE_DB1 beside a specialist and a second person, seed by seed.

    python -m benchmarks.weights_chase DATA --output FOLDER [--seeds 3] [--device cuda] [--minutes 9]

The split is that of `specs/chase_db1.json`: patients 11 to 14 are test images, 09 and 10 choose. Arms: the
embedded checkpoint as it is and under its best fixed action; GRPO from it; SFT; GRPO after SFT, for Dice and
for topology; a U-Net from scratch by nnU-Net's recipe (`benchmarks/specialist.py`); the second observer's
masks, where DATA has `masks_second_observer/`. Each phase keeps its best state, and each arm's action is
chosen, on validation images; test images are scored once. Intervals are paired and over test patients, each
image by its mean over seeds. `--quick` shows that it works, no more.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.specialist import SpecialistSpec
from benchmarks.weights_pool import run_all
from benchmarks.weights_report import Arm, Section, arms_table, best_on_validation, differences_table, write
from benchmarks.weights_runs import (
    Base,
    Result,
    Run,
    Sides,
    facts,
    grpo_of,
    labelled_samples,
    parser,
    project_sides,
    setting_of,
    settings,
    sft_of,
)
from job.data.dataset import Sample
from job.data.images import read_mask, resize_mask
from job.report.charts import line_chart
from job.report.numbers import finite
from job.reward.terms import METRICS as MEASURED
from job.reward.terms import measure

TOPOLOGY = {"cldice": 0.5, "dice": 0.5}
ARMS = {
    "grpo": "GRPO",
    "sft": "SFT",
    "sft_grpo": "SFT, GRPO (Dice)",
    "sft_grpo_topology": "SFT, GRPO (topology)",
    "specialist": "specialist",
}
"""Run -> name of its arm."""
MOST_DICE_LOST = 0.01
"""On validation, to the reward for topology."""
SECOND_OBSERVER = "masks_second_observer"


def runs_of(arguments: argparse.Namespace, sides: Sides) -> list[Run]:
    """Return every training, in an order in which each comes after what it needs."""
    sft, dice = sft_of(arguments), grpo_of(arguments, terms={"dice": 1.0})
    more_dice = grpo_of(arguments, after_sft=True, terms={"dice": 1.0})
    topology = grpo_of(
        arguments, after_sft=True, terms=arguments.topology, dice_slack=MOST_DICE_LOST,
        temperature=arguments.temperature,
    )  # fmt: skip
    runs = [Run("base", Base(), sides)]
    for seed in range(arguments.seeds):
        at = f"seed{seed}"
        runs += [
            Run(f"{at}/sft", sft, sides, seed, "base"),
            Run(f"{at}/specialist", SpecialistSpec(**arguments.specialist), sides, seed),
            Run(f"{at}/grpo", dice, sides, seed, "base"),
            Run(f"{at}/sft_grpo", more_dice, sides, seed, f"{at}/sft"),
            Run(f"{at}/sft_grpo_topology", topology, sides, seed, f"{at}/sft"),
        ]
    return [run for run in runs if run.name == "base" or run.name.partition("/")[2] in arguments.arms]


def second_observer(arguments: argparse.Namespace, samples: list[Sample], sides: Sides) -> Arm | None:
    """Measure a second person's masks of the test images like a model's; None where there are none."""
    folder = arguments.data / SECOND_OBSERVER
    if not folder.is_dir():
        return None
    test: dict[str, dict[str, float]] = {}
    for sample in samples:
        if sample.name in sides.test:
            assert isinstance(sample.mask, Path)
            truth_HW, mask_HW = (
                resize_mask(read_mask(path), arguments.width)
                for path in (sample.mask, folder / sample.mask.name)
            )
            measured = measure(mask_HW[None], truth_HW)
            test[sample.name] = {metric: float(measured[metric][0]) for metric in MEASURED}
    return Arm.of("second observer", [[{"test": {"chosen": test}}]])


def report(
    arguments: argparse.Namespace, sides: Sides, results: Mapping[str, Result], person: Arm | None
) -> list[Section]:
    """Lay out arms, differences in topology and curves."""
    samples = labelled_samples(arguments.data)
    patients = {sample.name: sample.patient for sample in samples}
    seeds = range(arguments.seeds)
    today = Arm.of("today", [[results["base"]]], "plain")
    fixed = Arm.of("best fixed action", [[results["base"]]])
    tuned = {
        key: Arm.of(name, [[results[f"seed{seed}/{key}"]] for seed in seeds])
        for key, name in ARMS.items()
        if key in arguments.arms
    }
    plain = [
        Arm.of(f"{name}, threshold 0.5", [[results[f"seed{seed}/{key}"]] for seed in seeds], "plain")
        for key, name in ARMS.items()
        if key in arguments.arms
    ]
    best = best_on_validation([fixed, *(arm for key, arm in tuned.items() if key != "specialist")])
    against = [today, *([tuned["sft"]] if "sft" in tuned else [])]
    if "specialist" in tuned:
        against.append(tuned["specialist"])
    arms = [today, fixed, *tuned.values(), *([person] if person else [])]
    shown, data = arms_table(arms, patients, against, marked=best.name)
    told = [
        f"Test images of {len({patients[n] for n in sides.test})} patients, scored once. Each phase's"
        " state and each arm's action are those that are best on validation images. In bold: the best on"
        f" validation of all that start from the embedded checkpoint ({best.name}).",
    ]
    sections = [Section("Arms", told, [shown], data=data)]
    shown, data = arms_table(plain, patients, [])
    sections.append(
        Section(
            "The same weights at the threshold 0.5",
            ["The trained prompt, no post-processing."],
            [shown],
            data=data,
        )
    )
    if "sft" in tuned:
        after = [tuned[key] for key in ("sft_grpo", "sft_grpo_topology") if key in tuned]
        if after:
            metrics = ("dice", "cldice", "betti0_error", "betti1_error", "betti_error")
            shown, data = differences_table(after, tuned["sft"], metrics, patients)
            sections.append(Section("What GRPO adds to SFT", ["Paired, seeds averaged."], [shown], data=data))
    sections.append(_curves(arguments, results))
    return sections


def _curves(arguments: argparse.Namespace, results: Mapping[str, Result]) -> Section:
    charts = []
    for key, name in ARMS.items():
        curve = results[f"seed0/{key}"]["curve"] if key in arguments.arms else []
        series = {
            label: [row.get(figure) for row in curve]
            for figure, label in (("gold", "true Dice, validation"), ("proxy", "what it maximises"))
            if finite([row.get(figure) for row in curve])
        }
        if chart := line_chart(f"{name}, seed 0", [row["step"] for row in curve], series) if curve else None:
            charts.append(chart)
    used = {
        "sft": facts(sft_of(arguments)),
        "grpo": facts(grpo_of(arguments, terms={"dice": 1.0})),
        "after_sft": arguments.after_sft,
        "topology": arguments.topology,
        "temperature": arguments.temperature,
        "specialist": facts(SpecialistSpec(**arguments.specialist)),
    }
    return Section("Curves", charts=charts, data={"settings": used})


def main() -> None:
    """Train what is not yet trained, and write the report."""
    made = parser(__doc__, seeds=3)
    made.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    made.add_argument("--specialist", type=settings, default={}, help="settings of the specialist, JSON")
    made.add_argument("--topology", type=settings, default=TOPOLOGY, help="terms of the last GRPO, JSON")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.width = min(arguments.seeds, 2), 192
        arguments.steps = arguments.steps or 20
        small = {"batch_size": 2, "crop": 96, "validate_every": 10}
        arguments.sft, arguments.grpo = {**small, **arguments.sft}, {**small, **arguments.grpo}
        tiny = {"steps": 60, "patch": 64, "batch_size": 4, "base_width": 8, "most_width": 64}
        arguments.specialist = {**tiny, "validate_every": 30, **arguments.specialist}
    samples = labelled_samples(arguments.data)
    sides = project_sides(samples)
    results = run_all(runs_of(arguments, sides), setting_of(arguments), arguments)
    sections = report(arguments, sides, results, second_observer(arguments, samples, sides))
    write(arguments.output, "Weights on CHASE_DB1", sections, setting_of(arguments), results)


if __name__ == "__main__":
    main()
