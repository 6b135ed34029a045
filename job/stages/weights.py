"""Phases of weights: each trains the segmenter from where the one before ended, and scores what comes of it.

Only a job with `sft` or `grpo` in `finetune` has these stages, one a phase and named as it: what a phase made
is kept whatever becomes of the next. A failed validity check skips them, as it does PPO.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from job import segmenters
from job.data.dataset import Dataset, Loaded, Sample
from job.data.on_demand import OnDemand
from job.finetune.choosers import best_fixed
from job.publish.training_info import PhaseSummary
from job.segmenters.cache import SegmentationCache
from job.spec.finetune import WeightPhase
from job.spec.job import JobSpec
from job.spec.segmenter import PromptableUNetSpec
from job.spec.tuning import SftSpec
from job.stages import audit, reward, rewards, table
from job.stages.judged import judge
from job.stages.pull import open_dataset
from job.stages.stage import Stage, StageContext
from job.storage.local import sha256_json, write_atomic
from job.table import ActionTable
from job.tuning.grpo import train_grpo
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom
from job.tuning.sft import train_sft

SUMMARY = "phase.json"
SEGMENTER = "segmenter"
"""Folder of checkpoints in a run; of the checkpoint in a stage."""
TABLE = "table"
SIDES = ("train", "validation", "unlabelled")
"""Images that a phase may see, and whose table is kept."""
LIBRARIES = ("torch", "tokenizers", "numpy", "scipy", "pillow")


def stages(spec: JobSpec) -> tuple[Stage, ...]:
    """Return a stage for each phase that changes weights, in their order."""
    return tuple(
        Stage(name, 7, partial(_reads, name), LIBRARIES, partial(_run, name))
        for name, _ in spec.weight_phases
    )


def load_phases(context: StageContext) -> list[PhaseSummary]:
    """Return how each phase went; empty for a job without any, and where a failed check skipped them."""
    places = [context.done[name].folder / SUMMARY for name, _ in context.spec.weight_phases]
    return [PhaseSummary.model_validate_json(place.read_bytes()) for place in places if place.exists()]


def load_tables(context: StageContext) -> dict[str, ActionTable]:
    """Return the scored table of each phase's segmenter, on the images that learning may see."""
    names = [phase.name for phase in load_phases(context)]
    return {name: ActionTable.load(context.done[name].folder / TABLE) for name in names}


def contexts(context: StageContext) -> dict[str, StageContext]:
    """Return this context with the segmenter of each phase in place of the job's own."""
    names = [phase.name for phase in load_phases(context)]
    return {name: of_segmenter(context, checkpoint(context, name)) for name in names}


def checkpoint(context: StageContext, name: str) -> Path:
    """Return the folder of the segmenter that a phase made."""
    return context.done[name].folder / SEGMENTER


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


def _reads(name: str, context: StageContext) -> Mapping[str, Any]:
    """The phase, the weights that it starts from, the images, and the networks that judge."""
    done, spec = context.done, context.spec
    before = _before(spec, name)
    return {
        "phase": _phase(spec, name).model_dump(),
        "start": context.segmentations.key if before is None else done[before].outputs.get("segmenter"),
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


def _run(name: str, context: StageContext) -> Mapping[str, str]:
    """Train the phase; returns the key of its segmenter and the digests of its table and figures."""
    if not audit.passed(context):
        return {}
    dataset, phase = open_dataset(context), _phase(context.spec, name)
    data = _data(context, dataset, phase)
    folder, result = _train(context, name, phase, data)
    tuned = of_segmenter(context, folder)
    rows = _score(tuned, dataset)
    rows.save(context.folder / TABLE)
    summary = PhaseSummary(
        name=name,
        algorithm=phase.algorithm,
        prompt=data.prompt,
        key=tuned.segmentations.key,
        steps=result.steps,
        best_step=result.best_step,
        ended=result.ended,
        start_dice=result.start_gold,
        best_dice=result.best_gold,
        curve=result.curve,
        facts=result.facts,
    )
    context.log.info(
        "phase.finished", phase=name, steps=result.steps, best_step=result.best_step, ended=result.ended,
        validation_dice=round(result.best_gold, 4), at_start=round(result.start_gold, 4),
    )  # fmt: skip
    write_atomic(context.folder / SUMMARY, summary.model_dump_json(indent=1))
    return {
        "segmenter": summary.key,
        "table": rows.digest(),
        "figures": sha256_json(summary.model_dump(mode="json")),
    }


def _train(context: StageContext, name: str, phase: WeightPhase, data: PhaseData) -> tuple[Path, PhaseResult]:
    assert isinstance(context.spec.segmenter, PromptableUNetSpec)
    before = _before(context.spec, name)
    start = context.inputs.segmenter if before is None else checkpoint(context, before)
    model = segmenters.open_trainable(context.spec.segmenter, start, context.machine.device)
    room = PhaseRoom(
        seed=context.spec.seed,
        device=context.machine.device,
        log=context.log.bind(phase=name),
        resume_folder=context.scratch,
        field=_field(context.spec, phase),
        progress=context.progress,
        networks=reward.load_networks(context),
    )
    if isinstance(phase, SftSpec):
        result = train_sft(phase, model, data, room)
    else:
        terms = phase.terms or rewards.true_terms(context)
        result = train_grpo(phase.model_copy(update={"terms": terms}), model, data, room)
    folder = context.folder / SEGMENTER
    model.save(folder)
    return folder, result


def _phase(spec: JobSpec, name: str) -> WeightPhase:
    return dict(spec.weight_phases)[name]


def _field(spec: JobSpec, phase: WeightPhase) -> str:
    """Return where the spec has a phase: `finetune[1]`."""
    phases = spec.finetune if isinstance(spec.finetune, list) else []
    return next((f"finetune[{i}]" for i, one in enumerate(phases) if one is phase), "finetune")


def _before(spec: JobSpec, name: str) -> str | None:
    """Return the phase whose weights a phase starts from; None for the job's own."""
    names = [one for one, _ in spec.weight_phases]
    at = names.index(name)
    return names[at - 1] if at else None


def _data(context: StageContext, dataset: Dataset, phase: WeightPhase) -> PhaseData:
    action = best_fixed(table.load(context).of("train").scores["dice"])
    validation = dataset.of("validation")
    return PhaseData(
        prompt=phase.prompt or context.space[action].prompt,
        labelled=_loaded(dataset, dataset.of("train")),
        unlabelled=_loaded(dataset, dataset.of("unlabelled")),
        validation=_loaded(dataset, validation),
        validation_patients=[sample.patient for sample in validation],
    )


def _loaded(dataset: Dataset, samples: list[Sample]) -> OnDemand[Loaded]:
    return OnDemand(len(samples), lambda i: dataset.load(samples[i]))


def _score(tuned: StageContext, dataset: Dataset) -> ActionTable:
    samples = dataset.of(*SIDES)
    rows = table.build_of(tuned, dataset, samples, table.terms(tuned))
    judges = reward.load_judges(tuned)
    scores = judge(tuned, dataset, samples, judges, name="judged", key=tuned.segmentations.key)
    return rows.with_scores(reward_net=scores)
