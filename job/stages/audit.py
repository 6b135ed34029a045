"""audit: before the first PPO step, on training and validation images, whether learning can work at all."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.actions import apply
from job.checks import VALIDITY, CheckResult, GapEvidence, Thresholds, ValidityEvidence, oracle_gap
from job.data.dataset import Dataset, Sample
from job.data.on_demand import OnDemand
from job.finetune.choosers import left_out_best_fixed
from job.finetune.env import ActionChoiceEnv, TableRewards
from job.finetune.observation import Observer
from job.metrics import overlap
from job.progress import track
from job.reward.probes import ACTIONS_TO_SWAP, swap_effect
from job.reward.terms import combine
from job.stages import pull, reward, rewards
from job.stages.pull import open_dataset
from job.stages.rewards import scored_table
from job.stages.stage import Stage, StageContext
from job.storage import strict_json
from job.storage.local import sha256_json, write_atomic
from job.table import ActionTable

CHECKS = "checks.json"
IMAGES_TO_SWAP = 8
"""A network that ignores the image does so on every one; reading an image twice is what this check costs."""


def reads(context: StageContext) -> Mapping[str, Any]:
    """The thresholds, the table, the reward and who learns by it, and which images look alike."""
    done, spec = context.done, context.spec
    return {
        "checks": spec.checks.model_dump(),
        "table": done["table"].outputs["table"],
        "reward": dict(done["reward"].outputs),
        "learners": rewards.learners(context),
        "segmenter": context.segmentations.key,
        "leaks": done["pull"].outputs["leaks"],
        "test_patients": _test_patients(context),
        "confidence": spec.evaluate.confidence,
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Gather the evidence and run every check."""
    rows = scored_table(context).of("train", "validation")
    thresholds = Thresholds(**context.spec.checks.model_dump())
    evidence = _evidence(context, rows)
    results = [check(evidence, thresholds) for check in VALIDITY]
    results.append(oracle_gap(_gap(context, rows), thresholds))
    tell(context, results)
    document = [asdict(result) for result in results]
    write_atomic(context.folder / CHECKS, strict_json.dumps(document))
    return {"checks": sha256_json(strict_json.plain(document))}


STAGE = Stage("audit", 4, reads, ("numpy", "scipy", "gymnasium", "torch"), run)


def load_checks(context: StageContext) -> list[CheckResult]:
    """Return what the checks said."""
    document = strict_json.loads((context.done["audit"].folder / CHECKS).read_text())
    return [CheckResult(**{**check, "about": tuple(check.get("about", ()))}) for check in document]


def passed(context: StageContext) -> bool:
    """Return whether no validity check failed."""
    return not any(check.failed for check in load_checks(context) if check.severity == "validity")


def skipped(context: StageContext) -> list[str]:
    """Return the names of the phases that a failed validity check keeps from running."""
    if passed(context):
        return []
    return [*(["ppo"] if context.spec.has_policy else []), *(name for name, _ in context.spec.weight_phases)]


def tell(context: StageContext, results: list[CheckResult]) -> None:
    """Log what checks said."""
    for result in results:
        told = asdict(result.without_names())
        del told["about"]
        context.log.info("check.result", **told)
        if result.about:
            context.log.debug("names", of=f"check.result {result.name}", names=list(result.about))


def _evidence(context: StageContext, rows: ActionTable) -> ValidityEvidence:
    weights = rewards.learned_by(context)
    own_M, swapped_M = _swapped(context, rows)
    return ValidityEvidence(
        names=rows.names,
        patients=rows.patients,
        dice_NK=rows.scores["dice"],
        rewards_NK=combine(rows.scores, weights) if weights else np.zeros_like(rows.scores["dice"]),
        terms={term: rows.scores[term] for term in weights},
        weights=weights,
        diversity_N=rows.diversity_N,
        replayed_dice_N=_replayed(context, rows),
        baseline_dice_N=_baseline(context, rows),
        reward_net_NK=rows.scores["reward_net"],
        confidence_NK=rows.judges["confidence"],
        consensus_NK=rows.judges["consensus"],
        own_M=own_M,
        swapped_M=swapped_M,
        leaks=tuple(pull.load_leaks(context)),
        network_rewards=rewards.network_rewards(context),
    )


def _gap(context: StageContext, rows: ActionTable) -> GapEvidence:
    return GapEvidence(
        patients=rows.patients,
        dice_NK=rows.scores["dice"],
        left_out_N=left_out_best_fixed(rows.scores["dice"], rows.patients),
        n_test_patients=_test_patients(context),
        confidence=context.spec.evaluate.confidence,
    )


def _test_patients(context: StageContext) -> int:
    return len({sample.patient for sample in open_dataset(context).of("test")})


def _replayed(context: StageContext, rows: ActionTable) -> NDArray[np.float64]:
    """Step the environment with the no-op until every image was seen once."""
    observer = Observer.fit(
        rows.embeddings_NE, rows.statistics_NS, rows.statistic_names, context.spec.policy.pca_components
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
    """Apply the first prompt and post-processing alone and score, past table and environment."""
    dataset, samples = _samples(context, rows)
    dice = []
    for sample in track(context.progress, "segmenting past the table", samples, len(samples), "images"):
        loaded = dataset.load(sample)
        logits_PHW = context.segmentations.get([loaded.image])[0].logits_PHW
        mask = apply(context.space, 0, logits_PHW, (loaded.image.shape[0], loaded.image.shape[1]))
        assert loaded.truth is not None
        dice.append(float(overlap.dice(overlap.confusion(mask[None], loaded.truth))[0]))
    return np.array(dice)


def _swapped(context: StageContext, rows: ActionTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Let each image's judge score some of its masks, with the image and with another one."""
    dataset, samples = _samples(context, rows)
    judge_of = reward.load_judges(context)
    images = OnDemand(len(samples), lambda i: dataset.load(samples[i]).image)

    # A few actions spread over all tell as much as every one, and post-processing is what costs.
    actions = np.unique(np.linspace(0, len(context.space) - 1, ACTIONS_TO_SWAP).round().astype(int))

    def masks_of(i: int) -> NDArray[np.bool_]:
        image = images[i]
        logits_PHW = context.segmentations.get([image])[0].logits_PHW
        size = (image.shape[0], image.shape[1])
        return np.stack([apply(context.space, int(action), logits_PHW, size) for action in actions])

    return swap_effect(
        lambda i: judge_of(samples[i]), images, masks_of, most=IMAGES_TO_SWAP, progress=context.progress
    )


def _samples(context: StageContext, rows: ActionTable) -> tuple[Dataset, list[Sample]]:
    dataset = open_dataset(context)
    by_name = {sample.name: sample for sample in dataset.of("train", "validation")}
    return dataset, [by_name[name] for name in rows.names]
