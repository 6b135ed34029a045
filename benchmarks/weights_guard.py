"""The guard at work: GRPO with reward networks alone, whose score rises while true Dice falls.

    python -m benchmarks.weights_guard DATA --output FOLDER [--seeds 3] [--device cuda] [--minutes 9]

Reward networks learn from half of the training patients of `specs/chase_db1.json`; GRPO starts from the
embedded checkpoint and sees the other half's images without their masks. Arms:

* unguarded: the mean of the networks as the only reward, to the last step;
* guarded: the same reward and seed, as the phase `grpo` runs it: true Dice on the validation images ends it
  when it falls while the reward rises, and the best state is put back;
* whole: with the labelled half's true Dice, networks taught anew on the model's masks, and their
  disagreement taken off (`k_sd`), as label-efficient training does.

Curves show the reward (proxy) and true validation Dice (gold) by step. `--quick` shows that it works, no
more.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.weights_pool import run_all
from benchmarks.weights_report import Arm, Section, arms_table, write
from benchmarks.weights_runs import (
    Base,
    Result,
    Run,
    Sides,
    Unguarded,
    grpo_of,
    labelled_samples,
    parser,
    project_sides,
    setting_of,
    settings,
)
from job.data.dataset import Sample
from job.report.charts import LineChart, line_chart
from job.report.numbers import figure
from job.report.tables import Row, Table
from job.report.weights import ENDED
from job.spec.reward import RewardNetworkSpec

ARMS = ("unguarded", "guarded", "whole")


def halves(samples: Sequence[Sample], sides: Sides) -> Sides:
    """Return the split with the images of every second training patient unlabelled."""
    patient_of = {sample.name: sample.patient for sample in samples}
    patients = sorted({patient_of[name] for name in sides.train})
    hidden = tuple(name for name in sides.train if patient_of[name] in patients[1::2])
    return replace(sides, train=tuple(n for n in sides.train if n not in hidden), unlabelled=hidden)


def runs_of(arguments: argparse.Namespace, sides: Sides) -> list[Run]:
    """Return every training, in an order in which each comes after what it needs."""
    networks = RewardNetworkSpec.model_validate(arguments.network)
    alone, whole = grpo_of(arguments, k_sd=0.0), grpo_of(arguments)
    unlabelled = replace(sides, train=())
    runs = [Run("base", Base(), sides)]
    for seed in range(arguments.seeds):
        at = f"seed{seed}"
        runs += [
            Run(f"{at}/networks", networks, sides, seed),
            Run(f"{at}/unguarded", Unguarded(alone), unlabelled, seed, "base", f"{at}/networks"),
            Run(f"{at}/guarded", alone, unlabelled, seed, "base", f"{at}/networks"),
            Run(f"{at}/whole", whole, sides, seed, "base", f"{at}/networks"),
        ]
    return runs


def report(
    arguments: argparse.Namespace, samples: Sequence[Sample], results: Mapping[str, Result]
) -> list[Section]:
    """Lay out how each run went, its curve, and what its weights make of test images."""
    patients = {sample.name: sample.patient for sample in samples}
    seeds = range(arguments.seeds)
    names = [f"seed{seed}/{arm}" for seed in seeds for arm in ARMS]
    rows = [_row(name, results[name]) for name in names]
    head = (
        "Run", "Ended", "Steps", "Kept", "Reward at start", "at the end",
        "Dice at start", "lowest", "at the end", "kept",
    )  # fmt: skip
    base = [[results["base"]]]
    today = Arm.of("today", base, "plain")
    arms = [Arm.of(arm, [[results[f"seed{seed}/{arm}"]] for seed in seeds]) for arm in ("guarded", "whole")]
    fixed = Arm.of("best fixed action", base)
    shown, data = arms_table([today, fixed, *arms], patients, [fixed])
    charts = [chart for name in names if (chart := _chart(name, results[name])) is not None]
    return [
        Section(
            "Reward and true Dice",
            ["Dice is of validation images, the trained prompt, threshold 0.5."],
            [Table(head, tuple(rows), 2)],
            charts,
            data={name: results[name]["curve"] for name in names},
        ),
        Section("Test images", ["What the guard put back, under its best fixed action."], [shown], data=data),
    ]


def _row(name: str, result: Result) -> Row:
    curve = result["curve"]
    golds = [row["gold"] for row in curve]
    proxies = [row["proxy"] for row in curve if "proxy" in row] or [None]
    kept = f"step {result['best_step']}" if result["best_step"] else "its start"
    return Row(
        (
            name,
            _ended(result),
            str(result["steps"]),
            kept,
            figure(proxies[0]),
            figure(proxies[-1]),
            figure(golds[0]),
            figure(min(golds)),
            figure(golds[-1]),
            figure(result["best_gold"]),
        )
    )


def _chart(name: str, result: Result) -> LineChart | None:
    curve = result["curve"]
    return line_chart(
        name,
        [row["step"] for row in curve],
        {
            "true Dice, validation": [row["gold"] for row in curve],
            "reward": [row.get("proxy") for row in curve],
        },
        note=f"{_ended(result)}; step {result['best_step']:,} was kept",
        marker=float(result["best_step"]),
    )


def _ended(result: Result) -> str:
    return ENDED.get(result["ended"], str(result["ended"]))


def main() -> None:
    """Train what is not yet trained, and write the report."""
    made = parser(__doc__, seeds=3)
    made.add_argument("--network", type=settings, default={"epochs": 10}, help="reward.network, JSON")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.width, arguments.seeds = 192, 1
        arguments.steps, arguments.network = arguments.steps or 30, {"epochs": 1}
        small = {"batch_size": 2, "crop": 96, "validate_every": 5, "round_every": 10, "round_images": 2}
        arguments.grpo = {**small, **arguments.grpo}
    samples = labelled_samples(arguments.data)
    sides = halves(samples, project_sides(samples))
    results = run_all(runs_of(arguments, sides), setting_of(arguments), arguments)
    title = "Guards against reward hacking"
    write(arguments.output, title, report(arguments, samples, results), setting_of(arguments), results)


if __name__ == "__main__":
    main()
