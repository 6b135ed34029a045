"""`plan`: what a run would do, what it would find done, and what looks unwise."""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from job import inputs as job_inputs
from job import trust
from job.data.sides import sides_in_words
from job.inputs import Found
from job.places import Places
from job.publish.publishing import finished_in
from job.spec.finetune import WeightPhase
from job.spec.job import JobSpec
from job.spec.loading import LoadedSpec
from job.spec.reward import on_one_scale
from job.spec.segmenter import AnySegmenterSpec, PluginSpec
from job.spec.tuning import SftSpec
from job.spec.unwise import warnings
from job.storage import lease
from job.storage.fetch import Listing
from job.storage.manifest import LEASE
from job.storage.run_folder import RunFolder


def plan(loaded: LoadedSpec) -> str:
    """Return the plan as text; raises what resolving the inputs raises."""
    spec = loaded.spec
    places = Places.of(spec)
    found = job_inputs.find(spec, places)
    trust.require_vouched(spec.segmenter, found.segmenter)
    folder = RunFolder(places.root, spec.name, job_inputs.run_id_of(found.identity(spec), None))
    path = folder.path.relative_to(places.root).as_posix()
    prompts, postprocess = len(spec.actions.prompts), len(spec.actions.postprocess)
    actions = prompts * postprocess
    lines = [
        f"run        {places.store.uri}/{path}",
        f"state      {_state(places, folder, path)}",
        f"data       {_data(loaded, found)}",
        f"segmenter  {_segmenter(spec.segmenter)}",
        f"actions    K = {actions}: {prompts} prompts x {postprocess} post-processings; action 0 is today's",
        f"reward     {_sum(spec.reward.terms)}",
        *(f"finetune   {phase}" for phase in _phases(spec)),
    ]
    if spec.sweep:
        lines.append(f"sweep      {_grid(spec)}")
    lines += [f"warning    {warning}" for warning in warnings(loaded)]
    return "\n".join(lines)


def _phases(spec: JobSpec) -> list[str]:
    lines = []
    if spec.has_policy:
        policy = spec.policy
        rollout = policy.n_steps * policy.n_envs
        rollouts = -(-policy.total_timesteps // rollout)
        lines.append(
            f"PPO, {rollouts * rollout} steps ({rollouts} rollouts of {rollout}), seeds: {policy.seeds},"
            f" start: {policy.policy_uri or policy.init}, rewards: {policy.rollout}"
        )
    width, before = _known_width(spec), "the segmenter's weights"
    for name, phase in spec.weight_phases:
        size = "whole images" if phase.crop is None else f"crops of {phase.crop} px"
        if phase.crop is not None and width is not None and phase.crop > width:
            size += f" (as wide as the images: {width} px)"
        prompt = f'"{phase.prompt}"' if phase.prompt else "the best fixed action's"
        lines.append(
            f"{name}, at most {phase.steps} steps of {phase.batch_size} {size}, from {before},"
            f" prompt: {prompt}, learns from {_teachers(spec, phase)}"
        )
        before = f"those of {name}"
    return lines


def _teachers(spec: JobSpec, phase: WeightPhase) -> str:
    """Say what a phase of weights learns from, and what may cost it Dice."""
    if isinstance(phase, SftSpec):
        also = f", soft clDice with weight {phase.cldice_weight:g}" if phase.cldice_weight else ""
        return f"the images' masks{also}"
    if phase.hide_labels:
        teachers = "reward networks on all training images (hide_labels)"
    else:
        terms = on_one_scale(phase.terms or spec.reward.true_terms)
        by_masks = f"{_sum(terms)} on labelled images, by their masks"
        share = f"unlabelled_share {phase.unlabelled_share:g}"
        if phase.unlabelled_share == 1:
            teachers = f"reward networks on unlabelled images ({share}; without any: {by_masks})"
        elif phase.unlabelled_share:
            teachers = f"{by_masks}; reward networks on unlabelled ones ({share})"
        else:
            teachers = f"{by_masks} ({share})"
    return teachers + (f", dice_slack {phase.dice_slack:g}" if phase.dice_slack else "")


def _sum(terms: Mapping[Any, float]) -> str:
    return " + ".join(f"{weight:g} {term}" for term, weight in terms.items())


def _known_width(spec: JobSpec) -> int | None:
    """Return the width that images are worked on; None where their files alone know it."""
    is_made = spec.data.uri.startswith("synthetic:")
    return spec.data.width or (spec.data.synthetic.size if is_made else None)


def _segmenter(spec: AnySegmenterSpec) -> str:
    """Return kind and place, and what was set besides them."""
    shown = {"kind", "uri", "name", "batch_size", "trust_code"}
    options = ", ".join(
        f"{name}: {json.dumps(value)}"
        for name, value in spec.model_dump(mode="json", exclude_defaults=True, exclude=shown).items()
    )
    name = f" {spec.name}" if isinstance(spec, PluginSpec) else ""
    return f"{spec.kind}{name} {spec.uri}{f' ({options})' if options else ''}"


def _state(places: Places, folder: RunFolder, path: str) -> str:
    finished = finished_in(places.store, path) if places.is_remote else folder.finished()
    if finished is not None:
        return f"finished {finished.finished_at} ({finished.verdict}): running it again does nothing"
    held, stage = _held(places, folder, path)
    if held:
        return f"held by another attempt{held}{f', at the stage {stage}' if stage else ''}"
    return f"stopped at {stage}: finished stages are taken over" if stage else "new"


def _held(places: Places, folder: RunFolder, path: str) -> tuple[str, Any]:
    """Return who works on a run (nothing where nobody does), and at which stage it is or was left."""
    stage = folder.status().get("stage")
    if folder.is_held():
        return " on this machine", stage
    found = lease.read(places.store, f"{path}/{LEASE}") if places.is_remote else None
    if found is None:
        return "", stage
    held = f": {found.holder}, attempt {found.attempt}, heard of {found.age_s:.0f} s ago"
    return held if found.is_live else "", found.facts.get("stage") or stage


def _grid(spec: JobSpec) -> str:
    fields = [f"{path} {', '.join(map(str, values))}" for path, values in spec.sweep.items()]
    points = prod(len(values) for values in spec.sweep.values())
    return f"{points} points, of which validation images choose one: {'; '.join(fields)}"


def _data(loaded: LoadedSpec, found: Found) -> str:
    if isinstance(found.data, Listing):
        size = f" ({len(found.data.objects)} objects, {found.data.total_bytes / 1e6:.1f} MB)"
        return f"{found.data.uri}{size}{_counts(loaded)}"
    if found.data is not None:
        spec = loaded.spec
        trains = spec.reward.network.epochs > 0
        sides = sides_in_words(found.data, spec.data.split, spec.seed, trains_network=trains)
        return f"{found.data}, split: {sides}"
    return f"{loaded.spec.data.uri}{_counts(loaded)}"


def _counts(loaded: LoadedSpec) -> str:
    data = loaded.spec.data
    if not data.uri.startswith("synthetic:"):
        if data.split.kind == "folds":
            return f", split: folds, k = {data.split.k}: as many runs, every patient tested once"
        return f", split: {data.split.kind}"
    made = data.synthetic
    return (
        f": {made.train} training, {made.validation} validation, {made.test} test images"
        f" of {made.size} px, annotated {made.annotation}"
    )
