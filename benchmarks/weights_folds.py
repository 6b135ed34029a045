"""What a reward without a gradient adds to supervised training: connectedness, over folds of all patients.

    python -m benchmarks.weights_folds DATA --output FOLDER [--seeds 1] [--device cuda] [--minutes 9]

Each fold is tested on patients that its trainings never saw, another one chooses, the rest is learned from.
Arms: SFT; SFT and then GRPO with a clDice or a Betti term in its reward. Controls: as many supervised steps
more (SFT, SFT), soft clDice in the supervised loss, and GRPO for Dice alone. Differences are paired by image,
averaged over seeds and clustered by patient. `--quick` shows that it works, no more.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.weights_pool import run_all
from benchmarks.weights_report import Arm, Section, arms_table, differences_table, write
from benchmarks.weights_runs import (
    Base,
    Result,
    Run,
    Sides,
    What,
    fold_sides,
    grpo_of,
    labelled_samples,
    parser,
    setting_of,
    settings,
    sft_of,
)
from job.data.dataset import Sample

REWARDS = {
    "clDice": {"cldice": 0.5, "dice": 0.5},
    "Betti": {"betti": 0.6, "dice": 0.4},
    "both": {"cldice": 0.4, "betti": 0.3, "dice": 0.3},
}
"""Name of an arm -> terms of its reward."""
FIGURES = ("dice", "cldice", "betti0_error", "betti1_error", "betti_error")
MOST_DICE_LOST = 0.01
SFT, SOFT, AGAIN, DICE = "SFT", "SFT with soft clDice", "SFT, SFT", "SFT, GRPO (Dice)"


def phases(arguments: argparse.Namespace) -> dict[str, What]:
    """Return the last phase of each arm, by the arm's name."""
    found: dict[str, What] = {SFT: sft_of(arguments)}
    if arguments.controls:
        found[SOFT] = sft_of(arguments, cldice_weight=arguments.soft_cldice)
        found[AGAIN] = sft_of(arguments, after_sft=True)
        found[DICE] = grpo_of(arguments, after_sft=True, terms={"dice": 1.0})
    for name, terms in arguments.rewards.items():
        found[_arm_of(name)] = grpo_of(
            arguments, after_sft=True, terms=terms, dice_slack=arguments.slack,
            temperature=arguments.temperature,
        )  # fmt: skip
    return found


def runs_of(arguments: argparse.Namespace, samples: Sequence[Sample]) -> list[Run]:
    """Return every training of every fold and seed."""
    runs = []
    for fold, sides in enumerate(_folds(arguments, samples)):
        base = Run(f"fold{fold}/base", Base(), sides)
        runs.append(base)
        for seed in range(arguments.seeds):
            for name, what in phases(arguments).items():
                start = base.name if name in (SFT, SOFT) else name_of(fold, seed, SFT)
                runs.append(Run(name_of(fold, seed, name), what, sides, seed, start))
    return runs


def name_of(fold: int, seed: int, arm: str) -> str:
    """Return the name of a run, which is a folder's."""
    plain = "".join(c if c.isalnum() else "_" for c in arm.lower())
    return f"fold{fold}/seed{seed}/{plain}"


def report(
    arguments: argparse.Namespace, samples: Sequence[Sample], results: Mapping[str, Result]
) -> list[Section]:
    """Lay out the arms, their differences to SFT, and whether the target is met."""
    patients = {sample.name: sample.patient for sample in samples}
    folds, seeds = range(len(_folds(arguments, samples))), range(arguments.seeds)
    arms = {
        name: Arm.of(name, [[results[name_of(fold, seed, name)] for fold in folds] for seed in seeds])
        for name in phases(arguments)
    }
    base = [[results[f"fold{fold}/base"] for fold in folds]]
    today, fixed = Arm.of("today", base, "plain"), Arm.of("best fixed action", base)
    shown, data = arms_table([today, fixed, *arms.values()], patients, [arms[SFT]])
    others = [arm for name, arm in arms.items() if name != SFT]
    differences, figures = differences_table(others, arms[SFT], FIGURES, patients)
    told = (
        f"{len({patients[name] for name in today.images('dice')})} patients, each tested in the one fold that"
        " did not learn from it. Each phase's state and each arm's action were chosen on the images of"
        " another fold, by Dice; the states of rewards for connectedness by that reward,"
        f" within {arguments.slack} of their start's Dice."
    )
    sections = [
        Section("Arms", [told], [shown], data=data),
        Section(
            "Against SFT",
            [verdict([row for row in figures if row["arm"] == arm.name]) for arm in others],
            [differences],
            data=figures,
        ),
    ]
    rewarded = [arms[_arm_of(name)] for name in arguments.rewards]
    for control in (AGAIN, SOFT) if arguments.controls and rewarded else ():
        differences, figures = differences_table(rewarded, arms[control], FIGURES, patients)
        sections.append(Section(f"Rewards against {control}", tables=[differences], data=figures))
    return sections


def verdict(figures: Sequence[Mapping[str, Any]]) -> str:
    """Say of one arm whether it is better connected than SFT, at which price in Dice."""
    by_metric = {row["metric"]: row for row in figures}
    arm, dice = figures[0]["arm"], by_metric["dice"]
    gains = [
        what
        for what, is_shown in (
            ("clDice is higher", by_metric["cldice"]["low"] > 0),
            ("the Betti error is lower", by_metric["betti_error"]["high"] < 0),
            ("fewer components are off", by_metric["betti0_error"]["high"] < 0),
            ("fewer holes are off", by_metric["betti1_error"]["high"] < 0),
        )
        if is_shown
    ]
    shown = ", ".join(gains) if gains else "no figure of connectedness is shown to be better"
    price = f"Dice {dice['mean']:+.4f} (interval {dice['low']:+.4f} to {dice['high']:+.4f})"
    kept = "no loss beyond" if dice["mean"] >= -MOST_DICE_LOST else "a loss beyond"
    return f"{arm}: {shown}; {price}, {kept} {MOST_DICE_LOST}."


def _arm_of(reward: str) -> str:
    return f"SFT, GRPO ({reward})"


def _folds(arguments: argparse.Namespace, samples: Sequence[Sample]) -> list[Sides]:
    return fold_sides(samples, arguments.folds, 0)[: arguments.first]


def main() -> None:
    """Train what is not yet trained, and write the report."""
    made = parser(__doc__, seeds=1)
    made.add_argument("--folds", type=int, default=7)
    made.add_argument("--first", type=int, help="only so many of the folds")
    made.add_argument("--rewards", type=settings, default=REWARDS, help="terms by name of the arm, JSON")
    made.add_argument("--slack", type=float, default=MOST_DICE_LOST, help="dice_slack of these rewards")
    made.add_argument("--soft-cldice", type=float, default=0.5)
    made.add_argument("--no-controls", dest="controls", action="store_false")
    arguments = made.parse_args()
    if arguments.quick:
        arguments.width, arguments.first = 192, arguments.first or 2
        arguments.steps = arguments.steps or 20
        small = {"batch_size": 2, "crop": 96, "validate_every": 10}
        arguments.sft, arguments.grpo = {**small, **arguments.sft}, {**small, **arguments.grpo}
    samples = labelled_samples(arguments.data)
    results = run_all(runs_of(arguments, samples), setting_of(arguments), arguments)
    title = "SFT, then GRPO for connectedness"
    write(arguments.output, title, report(arguments, samples, results), setting_of(arguments), results)


if __name__ == "__main__":
    main()
