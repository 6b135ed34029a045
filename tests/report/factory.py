"""A made-up but plausible TrainingInfo with its panels, for tests of whatever reads one."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from job.checks.result import CheckResult, Outcome
from job.evaluation.results import (
    Convention,
    Coverage,
    EvaluationResults,
    Experiment,
    ImageResult,
    JudgeRow,
    LadderRow,
    OtherResults,
    Review,
    Verdict,
    VerdictName,
)
from job.metrics.statistics import Interval, paired_uplift, patient_means, t_interval
from job.publish.training_info import (
    ActionSummary,
    DataSummary,
    FinetuneSummary,
    Provenance,
    RewardSummary,
    SeedSummary,
    StageSummary,
    SweepPoint,
    TrainingInfo,
)
from job.report.pictures import Panel
from job.reward.calibration import judge_quality
from job.reward.probes import Probe, ProbeKind
from job.reward.terms import METRICS

PROMPTS = (
    "Please segment the retinal blood vessels.",
    "Segment all vessels, including the finest branches.",
    "Segment the major vessels.",
)
POSTPROCESS: tuple[dict[str, Any], ...] = (
    {"threshold": 0.5, "low": None, "min_area": 0, "closing_radius": 0},
    {"threshold": 0.8, "low": 0.4, "min_area": 0, "closing_radius": 0},
)

CANDIDATES: tuple[tuple[str, str, Experiment | None, float], ...] = (
    ("uniform", "an action drawn at random for each image", None, -0.021),
    ("noop", "what the user has today: 'Please segment the retinal blood vessels.' | t 0.5", None, 0.0),
    ("best_fixed_prompt", "best prompt for all images: 'Segment the major vessels.' | t 0.5",
     "prompt optimisation", 0.009),
    ("best_fixed_postprocess",
     "best post-processing for all images: 'Please segment the retinal blood vessels.' | t 0.8, low 0.4",
     "post-processing optimisation", 0.006),
    ("best_fixed", "best action for all images: 'Segment the major vessels.' | t 0.8, hysteresis 0.4",
     None, 0.014),
    ("confidence", "the action whose mask the segmenter is most sure of", None, 0.004),
    ("consensus", "the action whose mask most resembles all others", None, 0.012),
    ("ridge", "ridge regression per action, shrunk to the best fixed action", None, 0.024),
    ("reward_net", "the action whose mask the reward network likes best", None, 0.027),
    ("exact", "the policy that the exact gradient finds on the action table", None, 0.028),
    ("ppo", "PPO policy", "reward-network RL", 0.029),
    ("ppo_random_start", "PPO policy from random weights", None, 0.011),
    ("oracle", "best action per image, with the truth in hand", None, 0.041),
)  # fmt: skip
COMPARED = frozenset({"uniform", "ppo_random_start", "oracle"})
LEARNED = frozenset({"exact", "ppo", "ppo_random_start"})
"""What an invalid result lacks: nothing is trained after a failed validity check."""

SENTENCES: dict[VerdictName, str] = {
    "improved": "ppo beats what you have today: Dice 0.842 -> 0.871 (+0.029, interval +0.020 to +0.038).",
    "no-improvement": "Nothing beats what you have today: Dice 0.842 -> 0.842.",
    "inconclusive": "It is not decided whether ppo beats what you have today: about 64 would decide.",
    "invalid": "A validity check failed: the numbers below cannot be trusted, and nothing ships.",
}


def make_info(
    verdict: VerdictName = "improved",
    *,
    n_images: int = 12,
    n_patients: int | None = None,
    n_iterations: int = 8,
    names: Sequence[str] | None = None,
    name: str = "quick",
    is_bare: bool = False,
    dropped_by: Sequence[str] = (),
    n_seeds: int = 3,
    has_sweep: bool = True,
    seed: int = 0,
) -> TrainingInfo:
    """Make the document of a run; `is_bare` empties every list that may be empty.

    `dropped_by` names candidate checks that fail: the policy may not ship, and ridge does in its place.
    """
    rng = np.random.default_rng(seed)
    images = list(names) if names is not None else [f"fundus_{i:04d}" for i in range(n_images)]
    patients = [f"p{i % (n_patients or len(images)):03d}" for i in range(len(images))]
    ladder, dice = _ladder(rng, patients, verdict)
    winner = "ridge" if dropped_by else "ppo"
    ships = {"improved": winner, "inconclusive": winner}.get(verdict, "noop")
    ladder = [
        row.model_copy(
            update={
                "ships": row.candidate == ships,
                "dropped_by": list(dropped_by) if row.candidate == "ppo" else [],
            }
        )
        for row in ladder
        if verdict != "invalid" or row.candidate not in LEARNED
    ]
    by_name = {row.candidate: row for row in ladder}
    actions = [
        ActionSummary(
            index=p * len(POSTPROCESS) + q,
            prompt=prompt,
            postprocess=dict(postprocess),
            label=f"'{prompt}' | t {postprocess['threshold']}"
            + (f", hysteresis {postprocess['low']}" if postprocess["low"] else ""),
        )
        for p, prompt in enumerate(PROMPTS)
        for q, postprocess in enumerate(POSTPROCESS)
    ]
    chosen = rng.integers(0, len(actions), len(images)) if ships == winner else np.zeros(len(images), int)
    is_trained = not is_bare and verdict != "invalid"
    results = EvaluationResults(
        verdict=Verdict(
            verdict=verdict,
            sentence=SENTENCES[verdict].replace("ppo", winner),
            ships=ships,
            dice_before=by_name["noop"].test["dice"],
            dice_after=by_name[ships].test["dice"],
            vs_noop=by_name[ships].vs_noop,
            vs_best_fixed=by_name["ppo"].vs_best_fixed if is_trained else None,
            learning="Learning added something over the best fixed action (+0.015 Dice)."
            if is_trained
            else "No policy was trained or judged.",
            patients_needed=64 if verdict == "inconclusive" else None,
        ),
        ladder=[] if is_bare else ladder,
        images=[]
        if is_bare
        else [
            ImageResult(
                name=image,
                patient=patients[i],
                action=int(chosen[i]),
                before=_metrics(dice["noop"][i]),
                after=_metrics(dice[ships][i]),
                oracle_dice=float(dice["oracle"][i]),
                predicted_quality=math.nan if i == 0 else float(dice[ships][i] - 0.01),
            )
            for i, image in enumerate(images)
        ],
        actions_chosen=[] if is_bare else np.bincount(chosen, minlength=len(actions)).tolist(),
        checks=_candidate_checks(dropped_by) if is_trained else [],
        protocol={} if is_bare else PROTOCOL,
        conventions=[] if is_bare else _conventions(by_name, ships),
        judges=[] if is_bare else _judges(rng),
        coverage=None
        if is_bare
        else Coverage(promised=0.9, held=0.91, halfwidth=0.034, n_calibration=20, n_test=len(images)),
        review=None
        if is_bare
        else Review(share=0.2, all=0.871, kept=0.880, kept_at_random=0.871, kept_at_best=0.886),
        other_datasets=[]
        if is_bare
        else [
            OtherResults(
                name="other_camera",
                uri="s3://me:hunter2@fundus/other_camera",
                images=len(images),
                patients=len(set(patients)),
                verdict=_verdict_elsewhere(by_name, ships),
                ladder=[row for row in ladder if row.candidate in ("noop", "best_fixed", ships, "oracle")],
            )
        ],
    )
    return TrainingInfo(
        name=name,
        run_id="3f9c2a71be04",
        run_uri=f"output/runs/{name}/3f9c2a71be04",
        started_at="2026-11-23T19:17:22Z",
        finished_at="2026-11-23T19:18:09Z",
        exit_code=5 if verdict == "invalid" else 0,
        spec=_spec(name),
        origins={
            "name": "specs/quick.json:3:11",
            "finetune.total_timesteps": "specs/quick.json:9:24",
            "data.synthetic.train": "--set",
        },
        provenance=Provenance(
            versions={"segmenter-rl-job": "0.1.0", "python": "3.12.4", "torch": "2.10.0", "numpy": "2.4.0"},
            git_commit="4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            device="cpu (13th Gen Intel Core i7-1360P)",
            threads=2,
            platform="Linux-6.1.0-x86_64-with-glibc2.36",
        ),
        data=DataSummary(
            uri="synthetic:fundus",
            width=None,
            images={"train": 20, "validation": 20, "test": len(images)},
            patients={"train": 20, "validation": 20, "test": len(set(patients))},
            digests={"train": "a1" * 32, "validation": "b2" * 32, "test": "c3" * 32},
        ),
        segmenter={"kind": "promptable_unet", "uri": "embedded:promptable_unet", "key": "d4" * 32},
        segmentations={"computed": 120, "cached": 360},
        actions=actions,
        stages=[] if is_bare else _stages(),
        checks=[] if is_bare else _checks(verdict),
        reward=_reward(is_bare=is_bare),
        finetune=FinetuneSummary(
            total_timesteps=256 * n_iterations if is_trained else 0,
            iterations=_iterations(rng, n_iterations) if is_trained else [],
            checkpoints=["checkpoints/sa2va_rl_1000_steps.zip"] if is_trained else [],
            seeds=[
                SeedSummary(
                    seed=i,
                    validation_dice=0.866 + 0.003 * (i - n_seeds // 2),
                    entropy=0.41 + 0.02 * i,
                    ships=i == n_seeds // 2,
                )
                for i in range(n_seeds if is_trained else 0)
            ],
        ),
        results=results,
        folds=[],
        sweep=_sweep() if has_sweep and is_trained else [],
        results_digest="e5" * 32,
    )


def make_panels(info: TrainingInfo, size: int = 64, seed: int = 0) -> dict[str, Panel]:
    """Draw a panel for every test image: bright curved lines, found in part."""
    rng = np.random.default_rng(seed)
    return {image.name: _panel(rng, image.name, image.patient, size) for image in info.results.images}


def _panel(rng: np.random.Generator, name: str, patient: str, size: int) -> Panel:
    y_HW, x_HW = np.mgrid[:size, :size] / size
    truth_HW = np.zeros((size, size), dtype=np.bool_)
    for _ in range(4):
        slope, curve, offset = rng.normal(0, 0.6), rng.normal(0, 0.8), rng.uniform(0.1, 0.9)
        truth_HW |= np.abs(y_HW - offset - slope * (x_HW - 0.5) - curve * (x_HW - 0.5) ** 2) < 0.02
    image_HWC = np.clip(
        np.array([150, 80, 40]) - 40 * truth_HW[..., None] + rng.normal(0, 8, (size, size, 3)), 0, 255
    ).astype(np.uint8)
    before_HW = truth_HW ^ (rng.random((size, size)) < 0.05)
    after_HW = truth_HW & (rng.random((size, size)) < 0.9)
    return Panel(name, patient, image_HWC, truth_HW, before_HW, after_HW)


def _ladder(
    rng: np.random.Generator, patients: list[str], verdict: VerdictName
) -> tuple[list[LadderRow], dict[str, NDArray[np.float64]]]:
    difficulty = rng.normal(0.842, 0.04, len(patients))
    scale = {"improved": 1.0, "no-improvement": 0.0, "inconclusive": 0.2, "invalid": 1.0}[verdict]
    noise = 0.012 if verdict != "no-improvement" else 0.004
    dice = {
        name: np.clip(
            difficulty + (0 if name == "noop" else scale * gain + rng.normal(0, noise, len(patients))),
            0.0,
            1.0,
        )
        for name, _, _, gain in CANDIDATES
    }
    dice["oracle"] = np.max(list(dice.values()), axis=0)
    uplifts = {name: paired_uplift(dice[name], dice["noop"], patients) for name in dice}
    holm = _holm({name: uplifts[name].p_value for name, _, experiment, _ in CANDIDATES if experiment})
    gap = float((dice["oracle"] - dice["best_fixed"]).mean())
    rows = [
        LadderRow(
            candidate=name,
            description=description,
            can_ship=name not in COMPARED,
            dropped_by=[],
            ships=False,
            experiment=experiment,
            validation_dice=_interval(dice[name] - 0.002, patients),
            test={
                metric: _interval(np.array([_metrics(value)[metric] for value in dice[name]]), patients)
                for metric in METRICS
            },
            vs_noop=uplifts[name],
            vs_best_fixed=paired_uplift(dice[name], dice["best_fixed"], patients),
            holm_p=holm.get(name),
            left_out_dice=float(dice[name].mean() - 0.004) if name.startswith("best_") else None,
            regret=float((dice["oracle"] - dice[name]).mean()),
            gap_closed=float((dice[name] - dice["best_fixed"]).mean()) / gap if gap > 0 else None,
        )
        for name, description, experiment, _ in CANDIDATES
    ]
    return rows, dice


def _holm(p_values: dict[str, float]) -> dict[str, float]:
    corrected, least = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        least = max(least, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = math.nan if math.isnan(p) else least
    return corrected


def _interval(values: NDArray[np.float64], patients: list[str]) -> Interval:
    return t_interval(patient_means(values, patients))


def _metrics(dice: float) -> dict[str, float]:
    shape = {
        "dice": dice,
        "iou": dice / (2 - dice),
        "recall": dice - 0.02,
        "precision": min(1.0, dice + 0.02),
        "specificity": 0.98,
        "cldice": dice - 0.05,
        "betti0_error": 20 * (1 - dice),
        "betti1_error": 9 * (1 - dice),
    }
    assert set(shape) == set(METRICS)
    return {metric: float(value) for metric, value in shape.items()}


PROTOCOL = {
    "region": "whole frame; the conventions below also count inside the field of view alone",
    "resolution": "images and masks resized to a width of 128 px",
    "aggregation": "mean over the images of a patient, then over patients",
    "threshold": "part of the action: tuned on training images, never on test images",
    "empty masks": "two empty masks score 1; an empty mask or an empty truth alone scores 0",
    "connectivity": "foreground 8-connected, background 4-connected",
    "statistics": "paired by image, 95% intervals by Student's t over patient means",
}


def _checks(verdict: VerdictName) -> list[CheckResult]:
    failed = verdict == "invalid"
    return [
        CheckResult(
            "replay_identity", 0.083 if failed else 0.0, 1e-6, "validity", "failed" if failed else "passed",
            "the no-op through the environment differs from the baseline by at most"
            f" {'0.083' if failed else '0'} Dice on 40 images",
            "look at fundus_0003: sizes, threshold or scoring differ on the two paths" if failed else "",
        ),
        CheckResult(
            "mask_diversity", 0.121, 0.01, "validity", "passed",
            "two actions' masks of an image differ by 0.121 (1 - Dice) on average", "",
        ),
        CheckResult(
            "reward_variance", 0.84, 0.1, "validity", "passed",
            "within an image the reward moves 0.84 times as much as true Dice", "",
            {"within": 0.031, "between": 0.054, "interaction": 0.012, "dice_within": 0.037},
        ),
        CheckResult(
            "term_audit", 0.74, 0.0, "validity", "passed",
            "every term orders an image's masks as Dice does; reward_net least, with 0.74", "",
            {"reward_net.mean": 0.83, "reward_net.spearman": 0.74, "dice.mean": 0.842, "dice.spearman": 1.0},
        ),
        CheckResult(
            "proxy_quality", 0.88, 0.0, "validity", "passed",
            "the network explains 88 % of the variance of Dice, and a swapped image moves it by 0.31", "",
            {"mae": 0.041, "spearman": 0.79, "regret": 0.011, "swap_effect": 0.31},
        ),
        CheckResult(
            "split_leak", 0.0, 0.9, "validity", "passed",
            "no held-out image resembles one to learn from", "",
        ),
        CheckResult(
            "oracle_gap", 0.027, 0.031, "advice", "failed",
            "a perfect chooser gains 0.027 Dice, and 12 test patients can show 0.031 at 80 % power",
            "add test patients or other actions",
        ),
    ]  # fmt: skip


def _candidate_checks(dropped_by: Sequence[str]) -> list[CheckResult]:
    def outcome(name: str) -> Outcome:
        return "failed" if name in dropped_by else "passed"

    hacked = "reward_hacking" in dropped_by
    return [
        CheckResult(
            "ladder", 0.015, 0.0, "advice", "passed",
            "on validation the policy reaches 0.866 Dice, and the best fixed action 0.851", "",
            {"noop": 0.840, "best_fixed": 0.851, "ppo": 0.866, "oracle": 0.881},
        ),
        CheckResult(
            "gap_closed", 0.5, 0.0, "candidate", outcome("gap_closed"),
            "the policy closes 50 % of the gap between best fixed action and oracle (regret 0.015)", "",
        ),
        CheckResult(
            "learning", 0.43, 0.9, "candidate", outcome("learning"),
            "the policy's entropy is 43 % of a uniform one's", "",
            {"entropy": 0.77, "explained_variance": 0.6, "approx_kl": 0.012, "distinct_actions": 5.0},
        ),
        CheckResult(
            "uplift", 0.026, 0.0, "candidate", outcome("uplift"),
            "the policy gains 0.026 Dice over the no-op (0.017 to 0.035; 18 won, 0 tied, 2 lost)", "",
        ),
        CheckResult(
            "reward_hacking", -0.012 if hacked else 0.026, 0.0, "candidate", outcome("reward_hacking"),
            f"the reward rises by 0.031 while Dice {'falls by 0.012' if hacked else 'rises by 0.026'}",
            "weigh true Dice or precision into the reward" if hacked else "",
            {"reward": 0.031, "dice": -0.012 if hacked else 0.026, "recall": 0.04, "precision": -0.01},
        ),
        CheckResult(
            "stability", math.nan, 1.0, "candidate", "unmeasured",
            "a single seed says nothing of how far chance moves the policy", "set finetune.seeds to 3",
        ),
    ]  # fmt: skip


def _conventions(ladder: dict[str, LadderRow], ships: str) -> list[Convention]:
    shapes = itertools.product(
        get_args(Convention.model_fields["region"].annotation),
        get_args(Convention.model_fields["resolution"].annotation),
        get_args(Convention.model_fields["aggregation"].annotation),
    )
    return [
        Convention(
            region=region,
            resolution=resolution,
            aggregation=aggregation,
            metrics={
                name: {
                    metric: ladder[name].test[metric].mean - 0.003 * i
                    for metric in ("dice", "iou", "recall", "precision")
                }
                for name in dict.fromkeys(("noop", "best_fixed", ships))
            },
        )
        for i, (region, resolution, aggregation) in enumerate(shapes)
    ]


def _judges(rng: np.random.Generator) -> list[JudgeRow]:
    rows = []
    for split in ("validation", "test"):
        true_NK = np.clip(0.84 + rng.normal(0, 0.03, (40, 1)) + rng.normal(0, 0.02, (40, 6)), 0, 1)
        for judge, noise in (("reward_net", 0.008), ("confidence", 0.03), ("consensus", 0.02)):
            quality = judge_quality(true_NK + rng.normal(0, noise, true_NK.shape), true_NK)
            rows.append(JudgeRow.model_validate({"judge": judge, "split": split, "quality": quality}))
    return rows


def _probes() -> list[Probe]:
    made: tuple[tuple[ProbeKind, float, float, float], ...] = (
        ("truth", 0, 0.93, 1.0),
        ("dilation", 1, 0.80, 0.78),
        ("dilation", 2, 0.66, 0.61),
        ("erosion", 1, 0.52, 0.49),
        ("islands", 10, 0.92, 0.96),
        ("islands", 200, 0.81, 0.58),
        ("skeleton", 0, 0.55, 0.52),
        ("empty", 0, 0.02, 0.0),
        ("full", 0, 0.21, 0.19),
        ("swapped image", 0, 0.27, 0.14),
    )
    return [Probe(kind, amount, predicted, true, 16) for kind, amount, predicted, true in made]


BROKEN = 1
"""The point of the sweep that failed a validity check."""


def _sweep() -> list[SweepPoint]:
    rng = np.random.default_rng(1)
    patients = [f"v{i:02d}" for i in range(20)]
    first = rng.normal(0.862, 0.03, 20)
    points = []
    for i, (rate, epochs) in enumerate(itertools.product((0.0003, 0.0005), (10, 20))):
        dice = first + 0.002 * i + (rng.normal(0, 0.004, 20) if i else 0)
        points.append(
            SweepPoint(
                label=f"learning_rate {rate:g}, n_epochs {epochs}",
                values={"finetune.learning_rate": rate, "finetune.n_epochs": epochs},
                validation_dice=_interval(dice, patients) if i != BROKEN else None,
                vs_first=paired_uplift(dice, first, patients) if i != BROKEN else None,
                seeds_dice=[float(dice.mean()) + step for step in (-0.003, 0, 0.002)] if i != BROKEN else [],
                valid=i != BROKEN,
                chosen=i == 2,
                seconds=6.1 + i,
                reused=["pull", "table", "reward", "audit"] if i else [],
            )
        )
    return points


def _verdict_elsewhere(ladder: dict[str, LadderRow], ships: str) -> Verdict:
    return Verdict(
        verdict="inconclusive",
        sentence="It is not decided whether the PPO policy beats what you have today: Dice 0.742 -> 0.751.",
        ships=ships,
        dice_before=ladder["noop"].test["dice"],
        dice_after=ladder[ships].test["dice"],
        vs_noop=ladder[ships].vs_noop,
        vs_best_fixed=None,
        learning="",
        patients_needed=90,
    )


def _stages() -> list[StageSummary]:
    seconds = {"pull": 0.8, "table": 9.4, "reward": 14.2, "audit": 0.3, "finetune": 6.1, "evaluate": 3.9}
    return [
        StageSummary(name=name, fingerprint=f"{i:02d}" * 8, reused=name in ("pull", "table"), seconds=taken)
        for i, (name, taken) in enumerate(seconds.items())
    ]


def _reward(*, is_bare: bool) -> RewardSummary:
    epochs = [
        {"epoch": 0.0, "train_mse": math.nan, "validation_mse": 0.0121},
        {"epoch": 1.0, "train_mse": 0.0084, "validation_mse": 0.0059},
        {"epoch": 2.0, "train_mse": 0.0048, "validation_mse": 0.0042},
        {"epoch": 3.0, "train_mse": 0.0037, "validation_mse": 0.0044},
    ]
    figures = {
        "mse": 0.0042,
        "mae": 0.041,
        "r2": 0.88,
        "spearman": 0.79,
        "regret": 0.011,
        "oracle_gap": 0.027,
        "slope": 0.97,
        "intercept": 0.02,
        "interval_halfwidth": math.inf,
    }
    return RewardSummary(
        terms={"reward_net": 0.5, "dice": 0.5},
        source="embedded",
        epochs=[] if is_bare else epochs,
        best_epoch=0 if is_bare else 2,
        validation={} if is_bare else figures,
        normalised=not is_bare,
        scales={} if is_bare else {"reward_net": 0.031, "dice": 0.037},
        probes=[] if is_bare else _probes(),
    )


def _iterations(rng: np.random.Generator, n: int) -> list[dict[str, float]]:
    progress = np.linspace(0, 1, n)
    wobble = rng.normal(0, 0.004, (5, n))
    # stable-baselines3 logs no train/* figure before the first update.
    return [
        {
            "timesteps": 256.0 * (i + 1),
            "ep_rew_mean": 0.822 + 0.03 * p + wobble[0, i],
            "gt_dice": 0.835 + 0.028 * p + wobble[1, i],
            "reward_net_score": 0.81 + 0.032 * p + wobble[2, i],
            "best_reward": 0.97,
            "entropy": 1.7 - 0.9 * p if i else math.nan,
            "explained_variance": -0.1 + 0.7 * p if i else math.nan,
            "value_loss": 0.04 * math.exp(-3 * p) if i else math.nan,
            "policy_gradient_loss": -0.01 if i else math.nan,
            "approx_kl": 0.012 + abs(wobble[3, i]) if i else math.nan,
            "clip_fraction": 0.12 + 4 * abs(wobble[4, i]) if i else math.nan,
            "fps": 900.0,
        }
        for i, p in enumerate(progress)
    ]


def _spec(name: str) -> dict[str, Any]:
    return {
        "version": 1,
        "name": name,
        "seed": 0,
        "data": {"uri": "synthetic:fundus", "width": None, "synthetic": {"train": 20, "test": 12}},
        "actions": {"prompts": list(PROMPTS), "postprocess": [dict(one) for one in POSTPROCESS]},
        "reward": {"terms": {"reward_net": 0.5, "dice": 0.5}},
        "finetune": {
            "algorithm": "ppo",
            "total_timesteps": 2000,
            "net_arch": {"pi": [128, 64], "vf": [128, 64]},
        },
    }
