"""audit: before the first PPO step, on training and validation images, whether learning can work at all."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.actions import apply
from job.checks import VALIDITY, CheckResult, ValidityEvidence
from job.finetune.env import ActionChoiceEnv, TableRewards
from job.finetune.observation import Observer
from job.metrics import overlap
from job.stages import table
from job.stages.pull import open_dataset
from job.stages.stage import Stage, StageContext
from job.storage import strict_json
from job.storage.local import sha256_json, write_atomic
from job.table import ActionTable

CHECKS = "checks.json"


def reads(context: StageContext) -> Mapping[str, Any]:
    """The thresholds and the table."""
    return {
        "checks": context.spec.checks.model_dump(),
        "table": context.done["table"].outputs["table"],
        "segmenter": context.segmentations.key,
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Gather the evidence and run every check."""
    rows = table.load(context).of("train", "validation")
    evidence = ValidityEvidence(
        dice_NK=rows.scores["dice"],
        diversity_N=rows.diversity_N,
        replayed_dice_N=_replayed(context, rows),
        baseline_dice_N=_baseline(context, rows),
        names=rows.names,
        **context.spec.checks.model_dump(),
    )
    results = [check(evidence) for check in VALIDITY]
    for result in results:
        context.log.info("check.result", **asdict(result))
    document = [asdict(result) for result in results]
    write_atomic(context.folder / CHECKS, strict_json.dumps(document))
    return {"checks": sha256_json(strict_json.plain(document))}


STAGE = Stage("audit", 1, reads, ("numpy", "gymnasium"), run)


def load_checks(context: StageContext) -> list[CheckResult]:
    """Return what the checks said."""
    document = strict_json.loads((context.done["audit"].folder / CHECKS).read_text())
    return [CheckResult(**check) for check in document]


def passed(context: StageContext) -> bool:
    """Return whether every validity check passed."""
    return all(check.passed for check in load_checks(context) if check.severity == "validity")


def _replayed(context: StageContext, rows: ActionTable) -> NDArray[np.float64]:
    """Step the environment with the no-op until every image was seen once."""
    observer = Observer.fit(
        rows.embeddings_NE, rows.statistics_NS, rows.statistic_names, context.spec.finetune.pca_components
    )
    dice_NK = rows.scores["dice"]
    outcome = TableRewards(dice_NK, dice_NK, np.full_like(dice_NK, np.nan))
    observations = observer.observe(rows.embeddings_NE, rows.statistics_NS)
    env = ActionChoiceEnv(observations, len(context.space), outcome, seed=context.spec.seed)
    replayed = np.full(len(rows.names), np.nan)
    for _ in rows.names:
        env.reset()
        info = env.step(np.int64(0))[-1]
        replayed[info["image"]] = info["gt_dice"]
    return replayed


def _baseline(context: StageContext, rows: ActionTable) -> NDArray[np.float64]:
    """Segment with the first prompt alone and score, past table, cache and environment."""
    dataset = open_dataset(context)
    by_name = {sample.name: sample for sample in dataset.of("train", "validation")}
    dice = []
    for name in rows.names:
        loaded = dataset.load(by_name[name])
        logits_PHW = context.segmentations.get([loaded.image])[0].logits_PHW
        mask = apply(context.space, 0, logits_PHW, (loaded.image.shape[0], loaded.image.shape[1]))
        assert loaded.truth is not None
        dice.append(float(overlap.dice(overlap.confusion(mask[None], loaded.truth))[0]))
    return np.array(dice)
