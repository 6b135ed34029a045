"""evaluate: fit every rung of the ladder on train, choose on validation, and judge once on test."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.data.dataset import Dataset, Sample
from job.data.images import pixel_digest
from job.evaluation import candidate, ladder
from job.evaluation.arms import MEASURED, Arms
from job.evaluation.assess import Assessment, Choices, arms_of, assess, choose, images_of, winner
from job.evaluation.candidate import CandidateFile
from job.evaluation.conventions import conventions, protocol
from job.evaluation.drift import PROFILE, UNKNOWN, Profile
from job.evaluation.judging import coverage_of, judge_rows, review_of
from job.evaluation.ladder import BEST_FIXED, Ladder, Tables, scores_of
from job.evaluation.results import Coverage, EvaluationResults, OtherResults
from job.progress import track
from job.reward.calibration import conformal_halfwidth, review_threshold
from job.spec.segmenter import AnySegmenterSpec
from job.stages import audit, learned, pull, reward, table, weights
from job.stages.finetune import fit_observer
from job.stages.judged import judge
from job.stages.measuring import keeping_masks, measure_masks
from job.stages.pull import open_dataset
from job.stages.rewards import scored_table
from job.stages.stage import Stage, StageContext
from job.storage.local import sha256_json, write_atomic
from job.storage.tensor_file import write_tensors
from job.storage.uris import is_remote
from job.table import ActionTable

RESULTS = "results.json"
TEST_TABLE = "test_table"
COUNTS = "counts.safetensors"
PIXELS = "pixels.json"
CONFIDENCE_OF_QUALITY = 0.9
"""Share of masks whose true Dice the interval of a predicted quality is meant to hold."""


def reads(context: StageContext) -> Mapping[str, Any]:
    """Everything that was learned, and the test images."""
    done, spec = context.done, context.spec
    return {
        "evaluate": spec.evaluate.model_dump(exclude={"datasets"}),
        "checks": spec.checks.model_dump(),
        "segmenter": context.segmentations.key,
        "actions": spec.actions.model_dump(),
        "finetune": spec.policy.model_dump(exclude={"policy_uri"}) if spec.has_policy else None,
        "weights": [[name, dict(done[name].outputs)] for name, _ in spec.weight_phases],
        "seed": spec.seed,
        "width": spec.data.width,
        "table": done["table"].outputs["table"],
        "reward": dict(done["reward"].outputs),
        "terms": table.reward_weights(context),
        "normalise": spec.reward.normalise,
        "policy": dict(done["finetune"].outputs),
        "passed": audit.passed(context),
        "test": done["pull"].outputs["test"],
        "others": {name: done["pull"].outputs[f"other:{name}"] for name in context.inputs.others},
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Judge every candidate; write results, what was measured, candidate and masks."""
    train, learnt_from = table.load(context).of("train"), weights.load_tables(context)
    validation = Tables(
        scored_table(context).of("validation"),
        {name: rows.of("validation") for name, rows in learnt_from.items()},
    )
    labels = [action.label for action in context.space]
    built = ladder.build(
        train,
        labels,
        len(context.space.postprocess),
        fit_observer(context),
        learned.policies(context),
        seed=context.spec.seed,
        tuned=validation.tuned,
    )
    dataset = open_dataset(context)
    samples = dataset.of("test")
    tuned = weights.contexts(context)
    test = _scored(context, tuned, dataset, samples, "judged")
    test.base.save(context.folder / TEST_TABLE)
    choices = choose(built, validation, test)
    valid = audit.passed(context)
    checks = learned.candidate_checks(context, built, choices, validation.base)
    dropped = learned.dropped(checks, learned.exact_checks(context, built, choices, validation.base))
    ships = winner(built, choices, validation, valid=valid, dropped=dropped)
    with keeping_masks(context.folder) as keep:
        measured = measure_masks(context, dataset, samples, choices.test, ships, keep, tuned)
    pixels = _pixels(context, dataset)
    rung = built[ships]
    learned_rows = table.load(context) if rung.phase is None else learnt_from[rung.phase]
    profile = _profile(
        context, pixels, learned_rows, test.of(rung), choices, ships, measured.metrics[ships]["dice"]
    )
    profile.save(context.folder / PROFILE)
    arms = arms_of(built, choices, validation, test, measured.metrics, measured.pixels)
    arms.save(context.folder / MEASURED)
    write_tensors(
        context.folder / COUNTS, {"/".join(key): found for key, found in measured.counts.items()}, {}
    )
    judged = _assess(context, arms, ships, valid, dropped)
    calibration = _Calibration.of(choices.validation[ships], validation.of(rung))
    results = EvaluationResults(
        verdict=judged.verdict,
        ladder=judged.ladder,
        images=images_of(arms, ships),
        actions_chosen=np.bincount(choices.test[ships], minlength=len(context.space)).tolist(),
        checks=checks,
        protocol=_protocol(context, arms),
        conventions=conventions(measured.counts, arms.patients),
        judges=judge_rows({"validation": validation.base, "test": test.base}),
        coverage=calibration.coverage(arms, ships) if valid else None,
        review=review_of(arms[ships].quality_N, arms[ships].test["dice"], context.spec.evaluate.review_share)
        if valid
        else None,
        other_datasets=[
            _on_other(context, tuned, name, built, validation, ships, valid, dropped)
            for name in context.inputs.others
        ],
    )
    tell(context, results)
    if valid:
        file = _candidate(context, tuned, built, ships, results, calibration, _shaping(dataset, pixels))
        candidate.save(context.folder, file, built)
    document = results.model_dump_json(indent=1)
    write_atomic(context.folder / RESULTS, document)
    return {
        "results": sha256_json(json.loads(document)),
        "test_table": test.base.digest(),
        "profile": profile.digest(),
    }


STAGE = Stage("evaluate", 4, reads, ("torch", "stable-baselines3", "numpy", "scipy"), run)


def load_results(context: StageContext) -> EvaluationResults:
    """Return what the stage found."""
    return EvaluationResults.model_validate_json((context.done["evaluate"].folder / RESULTS).read_bytes())


def load_pixels(context: StageContext) -> dict[str, str]:
    """Return the digest of each image's pixels at the working width, by the image's name."""
    pixels: dict[str, str] = json.loads((context.done["evaluate"].folder / PIXELS).read_text())
    return pixels


def tell(context: StageContext, results: EvaluationResults) -> None:
    """Log the ladder and the verdict."""
    for row in results.ladder:
        context.log.info(
            "evaluate.candidate", candidate=row.candidate, validation_dice=round(row.validation_dice.mean, 4),
            test_dice=round(row.test["dice"].mean, 4), ships=row.ships,
        )  # fmt: skip
    verdict = results.verdict
    context.log.info(
        "evaluate.verdict", verdict=verdict.verdict, ships=verdict.ships, sentence=verdict.sentence,
        learning=verdict.learning,
    )  # fmt: skip


def _scored(
    context: StageContext,
    tuned: Mapping[str, StageContext],
    dataset: Dataset,
    samples: list[Sample],
    name: str,
) -> Tables:
    """Score samples that nothing was learned from under every segmenter."""
    return Tables(
        _scored_by(context, dataset, samples, name),
        {phase: _scored_by(one, dataset, samples, f"{name}.{phase}") for phase, one in tuned.items()},
    )


def _scored_by(context: StageContext, dataset: Dataset, samples: list[Sample], name: str) -> ActionTable:
    rows = table.build_of(context, dataset, samples, list(table.ALWAYS))
    # The judges are in the stage's fingerprint, and so in the place where the rows are kept.
    judges = reward.load_judges(context)
    return rows.with_scores(reward_net=judge(context, dataset, samples, judges, name=name, key=""))


def _assess(
    context: StageContext, arms: Arms, ships: str, valid: bool, dropped: Mapping[str, list[str]]
) -> Assessment:
    settings = context.spec.evaluate
    return assess(
        arms,
        ships=ships,
        valid=valid,
        dropped=dropped,
        smallest_effect=settings.smallest_effect,
        confidence=settings.confidence,
        progress=context.progress,
    )


def _protocol(context: StageContext, arms: Arms) -> dict[str, str]:
    return protocol(
        width=context.spec.data.width,
        n_patients=len(set(arms.patients)),
        confidence=context.spec.evaluate.confidence,
    )


@dataclass(frozen=True)
class _Calibration:
    """Predicted quality of what ships against true Dice, on validation images."""

    quality_M: NDArray[np.float64]
    halfwidth: float

    @classmethod
    def of(cls, chosen_M: NDArray[np.int64], validation: ActionTable) -> "_Calibration":
        quality_M = scores_of(chosen_M, validation.scores["reward_net"])
        residuals_M = quality_M - scores_of(chosen_M, validation.scores["dice"])
        return cls(quality_M, min(conformal_halfwidth(residuals_M, CONFIDENCE_OF_QUALITY), 1.0))

    def coverage(self, arms: Arms, ships: str) -> Coverage:
        """Say how often the interval held on test."""
        arm = arms[ships]
        return coverage_of(
            arm.quality_N,
            arm.test["dice"],
            self.halfwidth,
            promised=CONFIDENCE_OF_QUALITY,
            n_calibration=len(self.quality_M),
        )


def _on_other(
    context: StageContext,
    tuned: Mapping[str, StageContext],
    name: str,
    built: Ladder,
    validation: Tables,
    ships: str,
    valid: bool,
    dropped: Mapping[str, list[str]],
) -> OtherResults:
    """Judge the same ladder, and what ships, on a dataset that nothing was learned from."""
    dataset = pull.open_other(context, name)
    samples = dataset.of("test")
    rows = _scored(context, tuned, dataset, samples, f"judged.{name}")
    choices = choose(built, validation, rows)
    measured = measure_masks(context, dataset, samples, choices.test, ships, tuned=tuned)
    arms = arms_of(built, choices, validation, rows, measured.metrics, measured.pixels)
    judged = _assess(context, arms, ships, valid, dropped)
    return OtherResults(
        name=name,
        uri=next(one.uri for one in context.spec.evaluate.datasets if one.name == name),
        images=len(samples),
        patients=len(set(arms.patients)),
        verdict=judged.verdict,
        ladder=judged.ladder,
    )


def _candidate(
    context: StageContext,
    tuned: Mapping[str, StageContext],
    built: Ladder,
    ships: str,
    results: EvaluationResults,
    calibration: _Calibration,
    trained_on: list[str],
) -> CandidateFile:
    spec, rung = context.spec, built[ships]
    fixed = built[BEST_FIXED].fixed
    assert fixed is not None
    return CandidateFile(
        name=ships,
        verdict=results.verdict.verdict,
        segmenter=_where(context),
        segmenter_key=(tuned[rung.phase] if rung.phase else context).segmentations.key,
        segmenter_folder=f"{weights.SEGMENTER}/{rung.phase}" if rung.phase else None,
        today_key=context.segmentations.key if rung.phase else None,
        width=spec.data.width,
        prompts=list(context.space.prompts),
        postprocess=[vars(p) for p in context.space.postprocess],
        chooser=candidate.chooser_kind(rung),
        action=rung.fixed if rung.fixed is not None else fixed,
        interval_halfwidth=calibration.halfwidth,
        confidence=CONFIDENCE_OF_QUALITY,
        review_below=review_threshold(calibration.quality_M, spec.evaluate.review_share),
        trained_on=trained_on,
    )


def _where(context: StageContext) -> AnySegmenterSpec:
    """Return the segmenter with a place that does not depend on where the job was started."""
    spec = context.spec.segmenter
    if spec.uri.startswith("embedded:") or is_remote(spec.uri):
        return spec
    return spec.model_copy(update={"uri": str(context.inputs.segmenter)})


def _pixels(context: StageContext, dataset: Dataset) -> dict[str, str]:
    """Return the digest of each image's pixels by the image's name, and remember them."""
    samples = track(context.progress, "digests of images", dataset.samples, len(dataset.samples), "images")
    pixels = {sample.name: pixel_digest(dataset.load(sample).image) for sample in samples}
    write_atomic(context.folder / PIXELS, json.dumps(pixels, indent=1))
    return pixels


def _shaping(dataset: Dataset, pixels: Mapping[str, str]) -> list[str]:
    return sorted(pixels[sample.name] for sample in dataset.of("train", "validation", "unlabelled"))


def _profile(
    context: StageContext,
    pixels: Mapping[str, str],
    learned: ActionTable,
    test: ActionTable,
    choices: Choices,
    ships: str,
    test_dice_N: NDArray[np.float64],
) -> Profile:
    """Describe every image of the run as what ships sees it, for later nights to compare with."""
    parts = [learned.of("train"), learned.of("validation"), learned.of("unlabelled"), test]
    unasked = [np.full(len(part.names), UNKNOWN) for part in parts]
    unscored = [np.full(len(part.names), np.nan) for part in parts[:-1]]
    return Profile(
        pixels=tuple(pixels[name] for part in parts for name in part.names),
        splits=tuple(split for part in parts for split in part.splits),
        patients=tuple(patient for part in parts for patient in part.patients),
        statistic_names=test.statistic_names,
        labels=tuple(action.label for action in context.space),
        statistics_NS=np.concatenate([part.statistics_NS for part in parts]),
        actions_N=np.concatenate([unasked[0], choices.validation[ships], unasked[2], choices.test[ships]]),
        dice_N=np.concatenate([*unscored, test_dice_N]),
    )
