"""A made-up but plausible TrainingInfo with its panels, for tests of whatever reads one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.checks.result import CheckResult
from job.evaluation.results import (
    EvaluationResults,
    Experiment,
    ImageResult,
    LadderRow,
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
    StageSummary,
    TrainingInfo,
)
from job.report.pictures import Panel
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
    ("noop", "what the user has today: 'Please segment the retinal blood vessels.' | t 0.5", None, 0.0),
    ("best_fixed_prompt", "best prompt for all images: 'Segment the major vessels.' | t 0.5",
     "prompt optimisation", 0.009),
    ("best_fixed_postprocess",
     "best post-processing for all images: 'Please segment the retinal blood vessels.' | t 0.8, low 0.4",
     "post-processing optimisation", 0.006),
    ("best_fixed", "best action for all images: 'Segment the major vessels.' | t 0.8, hysteresis 0.4",
     None, 0.014),
    ("ridge", "ridge regression per action, shrunk to the best fixed action", None, 0.024),
    ("reward_net", "the action whose mask the reward network likes best", None, 0.027),
    ("ppo", "PPO policy", "reward-network RL", 0.029),
    ("oracle", "best action per image, with the truth in hand", None, 0.041),
)  # fmt: skip

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
    seed: int = 0,
) -> TrainingInfo:
    """Make the document of a run; `is_bare` empties every list that may be empty."""
    rng = np.random.default_rng(seed)
    images = list(names) if names is not None else [f"fundus_{i:04d}" for i in range(n_images)]
    patients = [f"p{i % (n_patients or len(images)):03d}" for i in range(len(images))]
    ladder, dice = _ladder(rng, patients, verdict)
    ships = {"improved": "ppo", "inconclusive": "ppo"}.get(verdict, "noop")
    ladder = [row.model_copy(update={"ships": row.candidate == ships}) for row in ladder]
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
    chosen = rng.integers(0, len(actions), len(images)) if ships == "ppo" else np.zeros(len(images), int)
    results = EvaluationResults(
        verdict=Verdict(
            verdict=verdict,
            sentence=SENTENCES[verdict],
            ships=ships,
            dice_before=by_name["noop"].test["dice"],
            dice_after=by_name[ships].test["dice"],
            vs_noop=by_name[ships].vs_noop,
            vs_best_fixed=None if is_bare else by_name["ppo"].vs_best_fixed,
            learning="No policy was trained or judged."
            if is_bare
            else "Learning added something over the best fixed action (+0.015 Dice).",
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
            total_timesteps=256 * n_iterations,
            iterations=[] if is_bare else _iterations(rng, n_iterations),
            checkpoints=[] if is_bare else ["checkpoints/sa2va_rl_1000_steps.zip"],
        ),
        results=results,
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
    rows = [
        LadderRow(
            candidate=name,
            description=description,
            can_ship=name != "oracle",
            ships=False,
            experiment=experiment,
            validation_dice=_interval(dice[name] - 0.002, patients),
            test={
                metric: _interval(np.array([_metrics(value)[metric] for value in dice[name]]), patients)
                for metric in METRICS
            },
            vs_noop=paired_uplift(dice[name], dice["noop"], patients),
            vs_best_fixed=paired_uplift(dice[name], dice["best_fixed"], patients),
        )
        for name, description, experiment, _ in CANDIDATES
    ]
    return rows, dice


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


def _checks(verdict: VerdictName) -> list[CheckResult]:
    failed = verdict == "invalid"
    return [
        CheckResult(
            "replay_identity", 0.083 if failed else 0.0, 1e-6, "validity", not failed,
            "the no-op through the environment differs from the baseline by at most"
            f" {'0.083' if failed else '0'} Dice on 40 images",
            "look at fundus_0003: sizes, threshold or scoring differ on the two paths" if failed else "",
        ),
        CheckResult(
            "mask_diversity", 0.121, 0.01, "validity", True,
            "two actions' masks of an image differ by 0.121 (1 - Dice) on average", "",
        ),
    ]  # fmt: skip


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
