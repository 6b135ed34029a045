"""weights: train the segmenter's weights, phase after phase, and score what each makes of the images.

Only a job with phases of `sft` or `grpo` has this stage. A failed validity check skips it, as it does PPO.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from job import segmenters
from job.data.dataset import Dataset, Loaded, Sample
from job.data.on_demand import OnDemand
from job.finetune.choosers import best_fixed
from job.publish.training_info import PhaseSummary
from job.segmenters.cache import SegmentationCache
from job.spec.finetune import WeightPhase
from job.spec.segmenter import PromptableUNetSpec
from job.spec.tuning import SftSpec
from job.stages import audit, reward, table
from job.stages.judged import judge
from job.stages.pull import open_dataset
from job.stages.stage import Stage, StageContext
from job.storage import strict_json
from job.storage.local import sha256_json, write_atomic
from job.table import ActionTable
from job.tuning.grpo import train_grpo
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom
from job.tuning.sft import train_sft

FIGURES = "weights.json"
SEGMENTER = "segmenter"
TABLES = "tables"
SIDES = ("train", "validation", "unlabelled")
"""Images that a phase may see, and whose table is kept."""


def reads(context: StageContext) -> Mapping[str, Any]:
    """The phases, the segmenter that they start from, the images, and the networks that judge."""
    done, spec = context.done, context.spec
    return {
        "phases": [phase.model_dump() for _, phase in spec.weight_phases],
        "segmenter": context.segmentations.key,
        "batch_size": spec.segmenter.batch_size,
        "actions": spec.actions.model_dump(),
        "terms": table.reward_weights(context),
        "width": spec.data.width,
        "seed": spec.seed,
        "table": done["table"].outputs["table"],
        "networks": dict(done["reward"].outputs),
        "passed": audit.passed(context),
        "images": [done["pull"].outputs[side] for side in SIDES],
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Train every phase from where the one before it ended; returns the key and the table of each."""
    if not audit.passed(context):
        write_atomic(context.folder / FIGURES, strict_json.dumps({"phases": []}))
        return {}
    dataset = open_dataset(context)
    data, folder = _data(context, dataset), context.inputs.segmenter
    phases: list[PhaseSummary] = []
    outputs: dict[str, str] = {}
    for name, phase in context.spec.weight_phases:
        context.log.info("phase.started", phase=name)
        folder, result = _train(context, name, phase, folder, data)
        tuned = of_segmenter(context, folder)
        rows = _score(tuned, dataset, name)
        rows.save(context.folder / TABLES / name)
        summary = _summary(name, phase, phase.prompt or data.prompt, tuned.segmentations.key, result)
        context.log.info(
            "phase.finished", phase=name, steps=result.steps, best_step=result.best_step, ended=result.ended,
            validation_dice=round(result.best_gold, 4), at_start=round(result.start_gold, 4),
        )  # fmt: skip
        phases.append(summary)
        outputs |= {name: summary.key, f"table:{name}": rows.digest()}
    document = {"phases": [summary.model_dump(mode="json") for summary in phases]}
    write_atomic(context.folder / FIGURES, strict_json.dumps(document))
    return {**outputs, "figures": sha256_json(document)}


STAGE = Stage("weights", 1, reads, ("torch", "transformers", "numpy", "scipy", "pillow"), run)


def load_phases(context: StageContext) -> list[PhaseSummary]:
    """Return how each phase went; empty for a job without any, and where a failed check skipped them."""
    if STAGE.name not in context.done:
        return []
    document = strict_json.loads((context.done[STAGE.name].folder / FIGURES).read_text())
    return [PhaseSummary.model_validate(phase) for phase in document["phases"]]


def load_tables(context: StageContext) -> dict[str, ActionTable]:
    """Return the scored table of each phase's segmenter, on the images that learning may see."""
    names = [phase.name for phase in load_phases(context)]
    return {name: ActionTable.load(context.done[STAGE.name].folder / TABLES / name) for name in names}


def contexts(context: StageContext) -> dict[str, StageContext]:
    """Return this context with the segmenter of each phase in place of the job's own."""
    names = [phase.name for phase in load_phases(context)]
    return {name: of_segmenter(context, checkpoint(context, name)) for name in names}


def checkpoint(context: StageContext, name: str) -> Path:
    """Return the folder of the segmenter that a phase made."""
    return context.done[STAGE.name].folder / SEGMENTER / name


def of_segmenter(context: StageContext, folder: Path) -> StageContext:
    """Return a context whose segmenter is another checkpoint of the same kind.

    Its logits are not kept: no later run will ask for them. Its rows are.
    """
    spec = context.spec.segmenter
    segmentations = SegmentationCache(
        Path(),
        key=segmenters.content_key(spec, folder),
        prompts=context.space.prompts,
        keep=False,
        open_segmenter=lambda: segmenters.load(spec, folder, context.machine.device, context.log),
    )
    return replace(context, segmentations=segmentations)


def _train(
    context: StageContext, name: str, phase: WeightPhase, start: Path, data: PhaseData
) -> tuple[Path, PhaseResult]:
    assert isinstance(context.spec.segmenter, PromptableUNetSpec)
    model = segmenters.open_trainable(context.spec.segmenter, start, context.machine.device)
    data = replace(data, prompt=phase.prompt or data.prompt)
    resume = context.scratch / name
    resume.mkdir(exist_ok=True)
    room = PhaseRoom(
        seed=context.spec.seed,
        device=context.machine.device,
        log=context.log.bind(phase=name),
        resume_folder=resume,
        progress=context.progress,
        networks=reward.load_networks(context),
    )
    if isinstance(phase, SftSpec):
        result = train_sft(phase, model, data, room)
    else:
        terms = phase.terms or {
            term: w for term, w in context.spec.reward.terms.items() if term != "reward_net"
        }
        result = train_grpo(phase.model_copy(update={"terms": terms or {"dice": 1.0}}), model, data, room)
    folder = context.folder / SEGMENTER / name
    model.save(folder)
    return folder, result


def _data(context: StageContext, dataset: Dataset) -> PhaseData:
    train = table.load(context).of("train")
    action = best_fixed(train.scores["dice"])
    validation = dataset.of("validation")
    return PhaseData(
        prompt=context.space[action].prompt,
        labelled=_loaded(dataset, dataset.of("train")),
        unlabelled=_loaded(dataset, dataset.of("unlabelled")),
        validation=_loaded(dataset, validation),
        validation_patients=[sample.patient for sample in validation],
    )


def _loaded(dataset: Dataset, samples: list[Sample]) -> OnDemand[Loaded]:
    return OnDemand(len(samples), lambda i: dataset.load(samples[i]))


def _score(tuned: StageContext, dataset: Dataset, name: str) -> ActionTable:
    samples = dataset.of(*SIDES)
    rows = table.build_of(tuned, dataset, samples, table.terms(tuned))
    judges = reward.load_judges(tuned)
    scores = judge(tuned, dataset, samples, judges, name=f"judged.{name}", key=tuned.segmentations.key)
    return rows.with_scores(reward_net=scores)


def _summary(name: str, phase: WeightPhase, prompt: str, key: str, result: PhaseResult) -> PhaseSummary:
    return PhaseSummary(
        name=name,
        algorithm=phase.algorithm,
        prompt=prompt,
        key=key,
        steps=result.steps,
        best_step=result.best_step,
        ended=result.ended,
        start_dice=result.start_gold,
        best_dice=result.best_gold,
        curve=result.curve,
        facts=result.facts,
    )
