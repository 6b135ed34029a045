"""Folds put together: every image judged once, by a run that never saw its patient."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.checks.result import CheckResult
from job.data.samples import SPLITS
from job.errors import EXIT_OK, InvalidResult
from job.evaluation.arms import MEASURED, Arms, joined
from job.evaluation.assess import assess, images_of
from job.evaluation.conventions import Counts, Key, conventions, protocol
from job.evaluation.judging import judge_rows, review_of
from job.evaluation.ladder import NOOP
from job.evaluation.results import Coverage, EvaluationResults
from job.metrics.statistics import patient_means
from job.publish.training_info import (
    DataSummary,
    FinetuneSummary,
    FoldSummary,
    RewardSummary,
    StageSummary,
    TrainingInfo,
)
from job.stages import audit, evaluate, reward, rewards
from job.stages import publish as publishing
from job.stages.evaluate import COUNTS, TEST_TABLE
from job.stages.publish import Record
from job.stages.pull import open_dataset
from job.stages.stage import StageContext
from job.storage.local import sha256_json
from job.storage.run_folder import RunFolder, utc_now
from job.storage.tensor_file import read_tensors
from job.table import ActionTable

SELECTED = "selected"
"""The candidate of the joined results: what each fold chose on its validation images."""


@dataclass(frozen=True)
class Fold:
    """A finished fold: its number from 1, its stages and its run folder."""

    number: int
    context: StageContext
    folder: RunFolder


def publish(folds: Sequence[Fold], record: Record) -> str:
    """Judge all folds' test images together and fill the run folder; returns the verdict."""
    found = [evaluate.load_results(fold.context) for fold in folds]
    shipped = [results.verdict.ships for results in found]
    arms = joined([_arms(fold) for fold in folds], shipped, SELECTED)
    checks = [check for fold in folds for check in audit.load_checks(fold.context)]
    valid = not any(check.failed for check in checks if check.severity == "validity")
    results = _results(folds, found, arms, shipped, valid=valid)
    evaluate.tell(folds[0].context, results)
    arms.save(record.folder.path / "evaluation" / MEASURED)
    record.folder.write("evaluation/results.json", results.model_dump_json(indent=1))
    info = _training_info(folds, found, record, results)
    with publishing.panels([fold.context for fold in folds]) as shown:
        publishing.write_documents(record, info, shown)
    return results.verdict.verdict


def _results(
    folds: Sequence[Fold],
    found: Sequence[EvaluationResults],
    arms: Arms,
    shipped: Sequence[str],
    *,
    valid: bool,
) -> EvaluationResults:
    spec = folds[0].context.spec
    judged = assess(
        arms,
        ships=SELECTED,
        valid=valid,
        dropped={},
        smallest_effect=spec.evaluate.smallest_effect,
        confidence=spec.evaluate.confidence,
    )
    chosen = arms[SELECTED]
    counts = _joined_counts(folds, shipped)
    tables = [ActionTable.load(fold.context.done["evaluate"].folder / TEST_TABLE) for fold in folds]
    return EvaluationResults(
        verdict=judged.verdict,
        ladder=judged.ladder,
        images=images_of(arms, SELECTED),
        actions_chosen=np.bincount(chosen.actions_N, minlength=len(folds[0].context.space)).tolist(),
        checks=_worst([results.checks for results in found]),
        protocol=protocol(
            width=spec.data.width, n_patients=len(set(arms.patients)), confidence=spec.evaluate.confidence
        )
        | {"folds": f"{len(folds)} folds by patient: each image is tested once, by a run that never saw it"},
        conventions=conventions(counts, arms.patients),
        judges=judge_rows({"test": _stacked(tables)}),
        coverage=_coverage(found) if valid else None,
        review=review_of(chosen.quality_N, chosen.test["dice"], spec.evaluate.review_share)
        if valid
        else None,
        other_datasets=[],
    )


def _arms(fold: Fold) -> Arms:
    return Arms.load(fold.context.done["evaluate"].folder / MEASURED)


def _joined_counts(folds: Sequence[Fold], shipped: Sequence[str]) -> dict[Key, Counts]:
    """Join the pixel counts of the no-op, the best fixed action and what each fold shipped."""
    parts: dict[Key, list[Counts]] = {}
    for fold, ships in zip(folds, shipped, strict=True):
        tensors, _ = read_tensors(fold.context.done["evaluate"].folder / COUNTS)
        for name, counts in tensors.items():
            region, resolution, candidate = name.split("/")
            for shown in (SELECTED, candidate) if candidate == ships else (candidate,):
                parts.setdefault((region, resolution, shown), []).append(counts)
    return {key: np.concatenate(rows) for key, rows in parts.items() if len(rows) == len(folds)}


def _stacked(tables: Sequence[ActionTable]) -> ActionTable:
    first = tables[0]

    def together(columns: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
        return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}

    return replace(
        first,
        names=tuple(name for table in tables for name in table.names),
        patients=tuple(patient for table in tables for patient in table.patients),
        splits=tuple(split for table in tables for split in table.splits),
        scores=together([table.scores for table in tables]),
        judges=together([table.judges for table in tables]),
        diversity_N=np.concatenate([table.diversity_N for table in tables]),
        embeddings_NE=np.concatenate([table.embeddings_NE for table in tables]),
        statistics_NS=np.concatenate([table.statistics_NS for table in tables]),
    )


def _coverage(found: Sequence[EvaluationResults]) -> Coverage | None:
    """Join the folds' coverage: each image counts with the half-width of its own fold."""
    parts = [results.coverage for results in found if results.coverage is not None]
    if len(parts) < len(found):
        return None
    n_test = sum(part.n_test for part in parts)
    return Coverage(
        promised=parts[0].promised,
        held=sum(part.held * part.n_test for part in parts) / n_test,
        halfwidth=float(np.mean([part.halfwidth for part in parts])),
        n_calibration=min(part.n_calibration for part in parts),
        n_test=n_test,
    )


def _worst(of_folds: Sequence[Sequence[CheckResult]]) -> list[CheckResult]:
    """Return each check once: the first fold where it failed speaks for all, else the first fold."""
    names = list(dict.fromkeys(check.name for checks in of_folds for check in checks))
    return [_worst_of(name, of_folds) for name in names]


def _worst_of(name: str, of_folds: Sequence[Sequence[CheckResult]]) -> CheckResult:
    results = [
        (number, check) for number, checks in enumerate(of_folds, 1) for check in checks if check.name == name
    ]
    failed = [(number, check) for number, check in results if check.failed]
    number, shown = (failed or results)[0]
    times = f"failed in {len(failed)} of {len(results)} folds; " if failed else ""
    return replace(shown, finding=f"{times}fold {number}: {shown.finding}")


def _training_info(
    folds: Sequence[Fold], found: Sequence[EvaluationResults], record: Record, results: EvaluationResults
) -> TrainingInfo:
    first = folds[0].context
    spec = record.loaded.spec
    documents = [
        json.loads((fold.folder.path / "training_info.json").read_text(encoding="utf-8")) for fold in folds
    ]
    infos = [TrainingInfo.model_validate(document) for document in documents]
    samples = {s.name: s for fold in folds for s in open_dataset(fold.context).of("test")}
    return TrainingInfo(
        name=spec.name,
        run_id=record.folder.run_id,
        run_uri=record.uri,
        started_at=record.started_at,
        finished_at=utc_now(),
        exit_code=InvalidResult.exit_code if results.verdict.verdict == "invalid" else EXIT_OK,
        spec=spec.model_dump(mode="json", exclude={"schema_"}),
        origins=record.loaded.origins,
        provenance=publishing.provenance(first),
        data=DataSummary(
            uri=spec.data.uri,
            width=spec.data.width,
            images={**dict.fromkeys(SPLITS, 0), "test": len(samples)},
            patients={**dict.fromkeys(SPLITS, 0), "test": len({s.patient for s in samples.values()})},
            digests={"test": sha256_json(sorted(info.data.digests["test"] for info in infos))},
            bad_images=infos[0].data.bad_images,  # every fold has looked at every image
        ),
        segmenter=infos[0].segmenter,
        segmentations=_sums([info.segmentations for info in infos]),
        actions=publishing.action_summaries(first),
        stages=_stages(infos),
        checks=_worst([audit.load_checks(fold.context) for fold in folds]),
        reward=RewardSummary(
            terms=dict(spec.reward.terms),
            source=spec.reward.network.uri or spec.reward.network.init,
            epochs=[],
            best_epoch=0,
            validation={},
            normalised=spec.reward.normalise,
            scales=rewards.scales(first),
            probes=reward.load_figures(first)["probes"],
        ),
        finetune=FinetuneSummary(
            total_timesteps=sum(info.finetune.total_timesteps for info in infos),
            iterations=[],
            checkpoints=[],
            seeds=[],
        ),
        skipped=list(dict.fromkeys(name for info in infos for name in info.skipped)),
        results=results,
        sweep=[],
        folds=[_summary(*parts) for parts in zip(folds, found, infos, strict=True)],
        results_digest=sha256_json(
            [[info.results_digest for info in infos], json.loads(results.model_dump_json())]
        ),
    )


def _summary(fold: Fold, results: EvaluationResults, info: TrainingInfo) -> FoldSummary:
    verdict = results.verdict
    row = next(row for row in results.ladder if row.candidate == verdict.ships)
    arms = _arms(fold)
    before = float(patient_means(arms[NOOP].test["dice"], arms.patients).mean())
    return FoldSummary(
        fold=fold.number,
        run=f"folds/{fold.number}",
        patients=sorted(set(arms.patients)),
        setting=next((point.label for point in info.sweep if point.chosen), ""),
        ships=verdict.ships,
        verdict=verdict.verdict,
        validation_dice=row.validation_dice.mean,
        dice_before=before,
        dice_after=row.test["dice"].mean,
        weights=info.weights,
    )


def _stages(infos: Sequence[TrainingInfo]) -> list[StageSummary]:
    """Return each fold's stages, named by fold."""
    return [
        stage.model_copy(update={"name": f"{stage.name} (fold {number})"})
        for number, info in enumerate(infos, 1)
        for stage in info.stages
    ]


def _sums(parts: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)
