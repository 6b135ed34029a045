"""evaluate: fit every rung of the ladder on train, choose on validation, and judge once on test."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.actions import apply
from job.data.images import pixel_digest
from job.evaluation import candidate, ladder
from job.evaluation.assess import Choices, assess, choose, winner
from job.evaluation.candidate import CandidateFile
from job.evaluation.ladder import BEST_FIXED, NOOP, Ladder, scores_of
from job.evaluation.results import EvaluationResults
from job.progress import track
from job.reward.calibration import conformal_halfwidth, review_threshold
from job.reward.terms import METRICS, measure
from job.spec.actions import SegmenterSpec
from job.stages import audit, reward, table
from job.stages.finetune import fit_observer, load_policy, scored_table
from job.stages.pull import open_dataset
from job.stages.stage import Stage, StageContext
from job.storage.local import sha256_json, write_atomic
from job.table import ActionTable

RESULTS = "results.json"
TEST_TABLE = "test_table"
MASKS = "masks"
CONFIDENCE_OF_QUALITY = 0.9
"""Share of masks whose true Dice the interval of a predicted quality is meant to hold."""


def reads(context: StageContext) -> Mapping[str, Any]:
    """Everything that was learned, and the test images."""
    done, spec = context.done, context.spec
    return {
        "evaluate": spec.evaluate.model_dump(),
        "segmenter": context.segmentations.key,
        "actions": spec.actions.model_dump(),
        "pca_components": spec.finetune.pca_components,
        "width": spec.data.width,
        "table": done["table"].outputs["table"],
        "reward": dict(done["reward"].outputs),
        "policy": done["finetune"].outputs["policy"],
        "passed": audit.passed(context),
        "test": done["pull"].outputs["test"],
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Judge every candidate; write results, test table, candidate and masks."""
    train = table.load(context).of("train")
    validation = scored_table(context).of("validation")
    labels = [action.label for action in context.space]
    built = ladder.build(
        train, labels, len(context.space.postprocess), fit_observer(context), load_policy(context)
    )
    test = _test_table(context)
    test.save(context.folder / TEST_TABLE)
    choices = choose(built, validation, test)
    valid = audit.passed(context)
    ships = winner(built, choices, validation, valid=valid)
    results = assess(
        built,
        choices,
        validation,
        test,
        _measure(context, choices, ships),
        ships=ships,
        valid=valid,
        n_actions=len(context.space),
        smallest_effect=context.spec.evaluate.smallest_effect,
        confidence=context.spec.evaluate.confidence,
    )
    for row in results.ladder:
        context.log.info(
            "evaluate.candidate", candidate=row.candidate, validation_dice=round(row.validation_dice.mean, 4),
            test_dice=round(row.test["dice"].mean, 4), ships=row.ships,
        )  # fmt: skip
    verdict = results.verdict
    context.log.info(
        "evaluate.verdict", verdict=verdict.verdict, ships=ships, sentence=verdict.sentence,
        learning=verdict.learning,
    )  # fmt: skip
    if valid:
        file = _candidate(context, built, choices, validation, ships, results)
        candidate.save(context.folder, file, built)
    document = results.model_dump_json(indent=1)
    write_atomic(context.folder / RESULTS, document)
    return {"results": sha256_json(json.loads(document)), "test_table": test.digest()}


STAGE = Stage("evaluate", 1, reads, ("torch", "numpy", "scipy", "scikit-image"), run)


def load_results(context: StageContext) -> EvaluationResults:
    """Return what the stage found."""
    return EvaluationResults.model_validate_json((context.done["evaluate"].folder / RESULTS).read_bytes())


def _test_table(context: StageContext) -> ActionTable:
    rows = table.build(context, "test", scored=["dice"])
    dataset = open_dataset(context)
    scores_NK = table.judge(context, dataset, dataset.of("test"), reward.load_judges(context))
    return rows.with_scores(reward_net=scores_NK)


def _measure(
    context: StageContext, choices: Choices, ships: str
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Measure every rung's masks on the test images; keep the masks of the no-op and of what ships."""
    dataset = open_dataset(context)
    samples = dataset.of("test")
    measured = {name: {metric: np.empty(len(samples)) for metric in METRICS} for name in choices.test}
    for i, sample in enumerate(track(context.progress, "measuring", samples, len(samples), "images")):
        loaded = dataset.load(sample)
        assert loaded.truth is not None
        size = (loaded.image.shape[0], loaded.image.shape[1])
        logits_PHW = context.segmentations.get([loaded.image])[0].logits_PHW
        wanted = sorted({int(actions_N[i]) for actions_N in choices.test.values()})
        masks_BHW = np.stack([apply(context.space, action, logits_PHW, size) for action in wanted])
        values = measure(masks_BHW, loaded.truth)
        for name, actions_N in choices.test.items():
            for metric in METRICS:
                measured[name][metric][i] = values[metric][wanted.index(int(actions_N[i]))]
        for which, name in (("before", NOOP), ("after", ships)):
            mask_HW = masks_BHW[wanted.index(int(choices.test[name][i]))]
            write_atomic(context.folder / MASKS / which / f"{sample.name}.png", png_of(mask_HW))
    return measured


def png_of(mask_HW: NDArray[np.bool_]) -> bytes:
    """Return a mask as a PNG of one bit a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(mask_HW).save(buffer, "PNG")
    return buffer.getvalue()


def _candidate(
    context: StageContext,
    built: Ladder,
    choices: Choices,
    validation: ActionTable,
    ships: str,
    results: EvaluationResults,
) -> CandidateFile:
    spec, rung = context.spec, built[ships]
    chosen_N = choices.validation[ships]
    quality_N = scores_of(chosen_N, validation.scores["reward_net"])
    residuals_N = quality_N - scores_of(chosen_N, validation.scores["dice"])
    halfwidth = conformal_halfwidth(residuals_N, CONFIDENCE_OF_QUALITY)
    fixed = built[BEST_FIXED].fixed
    assert fixed is not None
    return CandidateFile(
        name=ships,
        verdict=results.verdict.verdict,
        segmenter=_where(context),
        segmenter_key=context.segmentations.key,
        width=spec.data.width,
        prompts=list(context.space.prompts),
        postprocess=[vars(p) for p in context.space.postprocess],
        chooser=candidate.chooser_kind(rung),
        action=rung.fixed if rung.fixed is not None else fixed,
        interval_halfwidth=min(halfwidth, 1.0),
        confidence=CONFIDENCE_OF_QUALITY,
        review_below=review_threshold(quality_N, spec.evaluate.review_share),
        trained_on=_trained_on(context),
    )


def _where(context: StageContext) -> SegmenterSpec:
    """Return the segmenter with a place that does not depend on where the job was started."""
    spec = context.spec.segmenter
    if spec.uri.startswith("embedded:"):
        return spec
    return spec.model_copy(update={"uri": str(context.inputs.segmenter)})


def _trained_on(context: StageContext) -> list[str]:
    dataset = open_dataset(context)
    shaped = dataset.of("train", "validation", "unlabelled")
    return sorted(pixel_digest(dataset.load(sample).image) for sample in shaped)
