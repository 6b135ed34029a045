"""Finished stages as they lie on the disk, with made-up figures: what later stages take over."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from job.checks import CheckResult
from job.device import Machine
from job.finetune.observation import Observer
from job.finetune.policy import Layer, Policy
from job.inputs import Inputs
from job.logs import Output
from job.progress import SILENT
from job.rows import RowCache
from job.spec.job import JobSpec
from job.stages import audit, finetune, reward
from job.stages.stage import StageContext, StageResult, action_space
from job.storage import strict_json
from job.storage.tensor_file import write_tensors
from job.table import ActionTable
from tests.segmenters.fakes import cache_of

SIDES = ("train",) * 6 + ("validation",) * 6 + ("unlabelled",) * 2
PATIENTS = ("a", "a", "b", "b", "c", "c", "u", "v", "v", "w", "x", "x", "y", "z")
ACTIONS = {"prompts": ["a", "b"], "postprocess": [{"threshold": 0.5}, {"threshold": 0.7}]}


def spec_of(**sections: Any) -> JobSpec:
    """A spec with four actions."""
    return JobSpec.model_validate({"name": "x", "actions": ACTIONS, **sections})


def make_table(seed: int = 0) -> ActionTable:
    """Six training, six validation and two unlabelled images under four actions; action 3 is the best."""
    rng = np.random.default_rng(seed)
    dice_NK = 0.5 + 0.1 * np.arange(4) + rng.normal(0, 0.03, (14, 4))
    scores = {"dice": dice_NK, "recall": dice_NK**2, "precision": np.sqrt(dice_NK)}
    for values in scores.values():
        values[12:] = np.nan
    return ActionTable(
        names=tuple(f"i{n}" for n in range(14)),
        patients=PATIENTS,
        splits=SIDES,
        scores=scores,
        diversity_N=np.full(14, 0.2),
        embeddings_NE=rng.normal(size=(14, 3)).astype(np.float32),
        statistics_NS=rng.normal(size=(14, 2)).astype(np.float32),
        statistic_names=("contrast", "noise"),
        judges={judge: rng.random((14, 4)) for judge in ("confidence", "consensus")},
    )


def always(action: int, table: ActionTable, labels: Sequence[str]) -> Policy:
    """A policy that chooses one action for every image."""
    train = table.of("train")
    observer = Observer.fit(train.embeddings_NE, train.statistics_NS, train.statistic_names, 2)
    head = Layer(np.zeros((4, observer.size), np.float32), np.eye(4, dtype=np.float32)[action])
    return Policy(observer, (head,), tuple(labels))


def finished(
    root: Path,
    spec: JobSpec,
    *,
    action: int | None = 3,
    passed: bool = True,
    reused: Sequence[str] = (),
    table: ActionTable | None = None,
) -> StageContext:
    """Write table, reward, audit and finetune below `root`; the policy, if any, always chooses `action`."""
    table, space = table or make_table(), action_space(spec)
    folders = {name: root / name for name in ("table", "reward", "audit", "finetune")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    table.save(folders["table"])
    network_NK = np.random.default_rng(1).random((14, 4))
    write_tensors(folders["reward"] / reward.SCORES, {"reward_net": network_NK}, {})
    check = CheckResult(
        "replay_identity", 0.0, 1e-6, "validity", "passed" if passed else "failed", "found", ""
    )
    (folders["audit"] / audit.CHECKS).write_text(strict_json.dumps([asdict(check)]))
    seeds: list[dict[str, Any]] = []
    if action is not None:
        always(action, table, [one.label for one in space]).save(folders["finetune"] / finetune.POLICY)
        seeds = [{"seed": 0, "validation_dice": 0.6 + action / 100, "entropy": 0.5, "ships": True}]
    figures = {"total_timesteps": 0, "iterations": [], "checkpoints": [], "seeds": seeds}
    (folders["finetune"] / finetune.FIGURES).write_text(strict_json.dumps(figures))
    done = {
        name: StageResult(name, "f" * 32, folder, {}, seconds, reused=name in reused)
        for (name, folder), seconds in zip(folders.items(), (1.0, 2.0, 4.0, 8.0), strict=True)
    }
    return StageContext(
        spec, Inputs(None, None, root, None, None), done, Machine("cpu", "some CPU", 1), space,
        cache_of(root, space.prompts)[0], RowCache(None), SILENT, Output(stream=io.StringIO()).log,
        scratch=root / "scratch",
    )  # fmt: skip
