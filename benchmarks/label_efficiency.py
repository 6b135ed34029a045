"""How few labels: SFT, self-training and reward-guided GRPO on 2, 4, 8, 16 labelled images and the rest.

    python -m benchmarks.label_efficiency DATA --output FOLDER [--labels 2 4 8 16] [--seeds 3] [--folds 7]
        [--device cuda] [--minutes 9]

Folds over all patients: one fold tests, another chooses, of the rest `n` images keep their labels (of as many
patients as can be; drawn anew for each seed) and the others are unlabelled. Arms with the same labels:

* SFT: `sft` on the labelled images;
* SFT, SFT: as many supervised steps more, the control of what follows;
* self-training: SFT goes on with what it is sure of on the unlabelled images, in as many steps;
* GRPO: SFT goes on with rewards, true Dice on the labelled images, reward networks on the unlabelled ones, in
  as many steps; the networks learn from the labelled images alone.

The ceiling is SFT on all images of the rest with their labels. Differences are paired by image, averaged over
seeds and clustered by patient. Every arm chooses by the same labelled validation images, which are not among
the `n`. `--folds 0` takes the split of `specs/chase_db1.json`. `--quick` shows that it works, no more.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.weights_pool import run_all
from benchmarks.weights_report import Arm, Section, arms_table, differences_table, write
from benchmarks.weights_runs import (
    Base,
    Result,
    Run,
    SelfTraining,
    Sides,
    fold_sides,
    grpo_of,
    labelled_samples,
    parser,
    project_sides,
    setting_of,
    settings,
    sft_of,
)
from job.data.dataset import Sample
from job.metrics.statistics import holm
from job.report.charts import line_chart
from job.report.numbers import p_value, signed
from job.spec.reward import RewardNetworkSpec

SFT, AGAIN, STUDENT, GRPO = "SFT", "SFT, SFT", "self-training", "SFT, GRPO (reward network)"
FOLDERS = {SFT: "sft", AGAIN: "sft_again", STUDENT: "self_training", GRPO: "grpo"}
CEILING = "all labels"


def drawn(samples: Sequence[Sample], pool: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """Draw `n` images that keep their labels, no patient twice before each was there once."""
    rng = np.random.default_rng([seed, 31])
    by_patient: dict[str, list[str]] = {}
    for sample in samples:
        if sample.name in pool:
            by_patient.setdefault(sample.patient, []).append(sample.name)
    queues = [list(rng.permutation(by_patient[patient])) for patient in sorted(by_patient)]
    order = [int(i) for i in rng.permutation(len(queues))]
    rounds = range(max(len(queue) for queue in queues))
    names = [str(queues[i][at]) for at in rounds for i in order if at < len(queues[i])]
    return tuple(names[:n])


def runs_of(arguments: argparse.Namespace, samples: Sequence[Sample]) -> list[Run]:
    """Return every training, in an order in which each comes after what it needs."""
    sft, networks = sft_of(arguments), RewardNetworkSpec.model_validate(arguments.network)
    again = sft_of(arguments, after_sft=True)
    grpo = grpo_of(arguments, after_sft=True, terms={"dice": 1.0})
    runs = []
    for fold, whole in enumerate(_folds(arguments, samples)):
        base = Run(f"fold{fold}/base", Base(), whole)
        runs.append(base)
        for seed in range(arguments.seeds):
            runs.append(Run(f"fold{fold}/seed{seed}/all", sft, whole, seed, base.name))
            for n in counts(arguments, whole):
                at = f"fold{fold}/seed{seed}/labels{n}"
                labelled = drawn(samples, whole.train, n, seed)
                rest = tuple(name for name in whole.train if name not in labelled)
                sides = replace(whole, train=labelled, unlabelled=rest)
                first = f"{at}/sft"
                runs += [
                    Run(f"{at}/base", Base(), replace(sides, test=())),  # for its prompt alone
                    Run(first, sft, sides, seed, f"{at}/base"),
                    Run(f"{at}/networks", networks, sides, seed),
                    Run(f"{at}/sft_again", again, sides, seed, first),
                    Run(f"{at}/grpo", grpo, sides, seed, first, f"{at}/networks"),
                    *(
                        Run(_student(at, confidence), SelfTraining(again, confidence), sides, seed, first)
                        for confidence in arguments.confidence
                    ),
                ]
    return runs


def counts(arguments: argparse.Namespace, whole: Sides) -> list[int]:
    """Return the numbers of labels that leave something unlabelled."""
    return [n for n in arguments.labels if n < len(whole.train)]


def report(
    arguments: argparse.Namespace, samples: Sequence[Sample], results: Mapping[str, Result]
) -> list[Section]:
    """Lay out the plot, a table a number of labels, and GRPO against each other arm."""
    patients = {sample.name: sample.patient for sample in samples}
    wholes = _folds(arguments, samples)
    folds, seeds = range(len(wholes)), range(arguments.seeds)
    shown_counts = [n for n in arguments.labels if all(n in counts(arguments, whole) for whole in wholes)]
    base = [[results[f"fold{fold}/base"] for fold in folds]]
    ceiling = Arm.of(CEILING, [[results[f"fold{f}/seed{s}/all"] for f in folds] for s in seeds])
    sections: list[Section] = []
    means: dict[str, list[float]] = {name: [] for name in FOLDERS}
    tests: list[tuple[int, Mapping[str, Any]]] = []
    for n in shown_counts:
        arms = {
            name: Arm.of(name, [[_result(arguments, results, f, s, n, name) for f in folds] for s in seeds])
            for name in FOLDERS
        }
        for name, arm in arms.items():
            means[name].append(arm.interval("dice", patients).mean)
        shown, data = arms_table(
            [Arm.of("best fixed action", base), *arms.values(), ceiling], patients, [arms[SFT]], marked=GRPO
        )
        differences, figures = [], []
        for other in (SFT, AGAIN, STUDENT):
            made, found = differences_table([arms[GRPO]], arms[other], ("dice", "cldice"), patients)
            differences.append(made)
            figures += found
            tests += [(n, row) for row in found if row["metric"] == "dice"]
        sections.append(
            Section(
                f"{n} labelled images", tables=[shown, *differences], data={"arms": data, "grpo": figures}
            )
        )
    chart = line_chart(
        "Test Dice by labelled images",
        shown_counts,
        {**means, CEILING: [ceiling.interval("dice", patients).mean] * len(shown_counts)},
        x_name="labelled images",
    )
    told = [_basis(wholes[0]), *_corrected(tests)]
    return [Section("Label efficiency", told, charts=[chart] if chart else [], data=means), *sections]


def _corrected(tests: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    """Say where GRPO is shown to be better, with p corrected for all these comparisons."""
    adjusted = holm([row["p_value"] for _, row in tests])
    lines = []
    for (n, row), p in zip(tests, adjusted, strict=True):
        is_shown = "shown to be better" if row["low"] > 0 else "not shown to be better"
        lines.append(
            f"{n} labels, {GRPO} against {row['before']}: {is_shown}, {signed(row['mean'], 4)}"
            f" ({signed(row['low'], 4)} to {signed(row['high'], 4)}), p corrected for {len(tests)}"
            f" comparisons {p_value(p)}."
        )
    return lines


def _basis(whole: Sides) -> str:
    return (
        f"{len(whole.train)} images to learn from in the first fold, {len(whole.validation)} labelled ones to"
        f" choose by beside them, {len(whole.test)} to test on."
    )


def _result(
    arguments: argparse.Namespace, results: Mapping[str, Result], fold: int, seed: int, n: int, name: str
) -> Result:
    at = f"fold{fold}/seed{seed}/labels{n}"
    if name != STUDENT:
        return results[f"{at}/{FOLDERS[name]}"]
    students = [results[_student(at, confidence)] for confidence in arguments.confidence]
    return max(students, key=lambda result: float(result["validation"]))


def _student(at: str, confidence: float) -> str:
    return f"{at}/self_training_{confidence:g}"


def _folds(arguments: argparse.Namespace, samples: Sequence[Sample]) -> list[Sides]:
    if not arguments.folds:
        return [project_sides(samples)]
    return fold_sides(samples, arguments.folds, 0)[: arguments.first]


def main() -> None:
    """Train what is not yet trained, and write the report."""
    made = parser(__doc__, seeds=3)
    made.add_argument("--labels", type=int, nargs="+", default=[2, 4, 8, 16])
    made.add_argument("--folds", type=int, default=7)
    made.add_argument("--first", type=int, help="only so many of the folds")
    made.add_argument(
        "--confidence", type=float, nargs="+", default=[0.8, 0.95],
        help="of pseudo-labels; of several the one best on validation is taken",
    )  # fmt: skip
    made.add_argument("--network", type=settings, default={"epochs": 10}, help="reward.network, JSON")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.width, arguments.first, arguments.seeds = 192, arguments.first or 2, 1
        arguments.labels, arguments.confidence = [2, 4], arguments.confidence[:1]
        arguments.steps, arguments.network = arguments.steps or 12, {"epochs": 1}
        small = {"batch_size": 2, "crop": 96, "validate_every": 6}
        arguments.sft = {**small, **arguments.sft}
        arguments.grpo = {**small, "round_every": 6, "round_images": 2, **arguments.grpo}
    samples = labelled_samples(arguments.data)
    results = run_all(runs_of(arguments, samples), setting_of(arguments), arguments)
    sections = report(arguments, samples, results)
    write(arguments.output, "Label efficiency", sections, setting_of(arguments), results)


if __name__ == "__main__":
    main()
