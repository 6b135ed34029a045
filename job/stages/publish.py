"""publish: fill the run folder with the named deliverables, the report and the record, then seal it."""

import json
import platform
import subprocess
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

from job import __version__
from job.errors import EXIT_OK, InvalidResult
from job.evaluation.results import EvaluationResults
from job.publish.training_info import (
    ActionSummary,
    DataSummary,
    FinetuneSummary,
    Provenance,
    RewardSummary,
    StageSummary,
    TrainingInfo,
)
from job.report.html import render_html
from job.report.markdown import render_markdown
from job.report.pictures import Panel
from job.spec.loading import LoadedSpec
from job.stages import audit, evaluate, finetune, reward
from job.stages.pull import counts, open_dataset, patient_counts
from job.stages.stage import StageContext
from job.storage.local import sha256_json
from job.storage.run_folder import RunFolder, utc_now

LIBRARIES = (
    "torch", "transformers", "stable-baselines3", "gymnasium", "numpy", "scipy", "scikit-image", "pillow",
    "safetensors", "pydantic", "structlog",
)  # fmt: skip


def publish(
    context: StageContext, loaded: LoadedSpec, folder: RunFolder, *, identity: str, started_at: str
) -> str:
    """Write everything that the run leaves behind; returns the verdict."""
    results = evaluate.load_results(context)
    verdict = results.verdict.verdict
    exit_code = InvalidResult.exit_code if verdict == "invalid" else EXIT_OK
    info = _training_info(context, loaded, folder, results, started_at, exit_code)
    _place(context, folder)
    folder.write("training_info.json", info.model_dump_json(indent=1) + "\n")
    folder.write("report.md", render_markdown(info))
    folder.write("report.html", render_html(info, _panels(context)))
    folder.seal(exit_code=exit_code, verdict=verdict, identity=identity)
    return verdict


def results_digest(context: StageContext, results: EvaluationResults) -> str:
    """Return a digest of splits, tables, networks, choices and metrics; no times, no paths."""
    return sha256_json(
        {
            "outputs": {name: dict(result.outputs) for name, result in context.done.items()},
            "results": json.loads(results.model_dump_json()),
        }
    )


def _place(context: StageContext, folder: RunFolder) -> None:
    done = {name: result.folder for name, result in context.done.items()}
    folder.put("splits.json", done["pull"] / "splits.json")
    folder.put("reward/best_reward_net.safetensors", done["reward"] / reward.NETWORK)
    folder.put("reward/best_reward_net.pth", (done["reward"] / reward.NETWORK).with_suffix(".pth"))
    for relative in ("final_model.zip", "policy.safetensors", "checkpoints", "logs"):
        if (done["finetune"] / relative).exists():
            folder.put(relative, done["finetune"] / relative)
    folder.put("evaluation/results.json", done["evaluate"] / evaluate.RESULTS)
    folder.put("evaluation/masks", done["evaluate"] / evaluate.MASKS)
    for relative in ("candidate.json", "ridge.safetensors"):
        if (done["evaluate"] / relative).exists():
            folder.put(relative, done["evaluate"] / relative)


def _training_info(
    context: StageContext,
    loaded: LoadedSpec,
    folder: RunFolder,
    results: EvaluationResults,
    started_at: str,
    exit_code: int,
) -> TrainingInfo:
    spec, done = context.spec, context.done
    dataset = open_dataset(context)
    figures = reward.load_figures(context)
    return TrainingInfo(
        name=spec.name,
        run_id=folder.run_id,
        run_uri=str(folder.path),
        started_at=started_at,
        finished_at=utc_now(),
        exit_code=exit_code,
        spec=spec.model_dump(mode="json", exclude={"schema_"}),
        origins=loaded.origins,
        provenance=Provenance(
            versions=versions(),
            git_commit=git_commit(),
            device=f"{context.machine.device} ({context.machine.device_name})",
            threads=context.machine.threads,
            platform=platform.platform(),
        ),
        data=DataSummary(
            uri=spec.data.uri,
            width=spec.data.width,
            images=counts(list(dataset.samples)),
            patients=patient_counts(list(dataset.samples)),
            digests=dict(done["pull"].outputs),
        ),
        segmenter={
            "kind": spec.segmenter.kind,
            "uri": spec.segmenter.uri,
            "key": context.segmentations.key,
        },
        segmentations={
            "computed": context.segmentations.computed,
            "cached": context.segmentations.cached,
        },
        actions=[
            ActionSummary(index=k, prompt=a.prompt, postprocess=asdict(a.postprocess), label=a.label)
            for k, a in enumerate(context.space)
        ],
        stages=[
            StageSummary(name=name, fingerprint=r.fingerprint, reused=r.reused, seconds=r.seconds)
            for name, r in done.items()
        ],
        checks=audit.load_checks(context),
        reward=RewardSummary(
            terms=dict(spec.reward.terms),
            source=spec.reward.network.uri or spec.reward.network.init,
            epochs=figures["epochs"],
            best_epoch=figures["best_epoch"],
            validation=figures["validation"],
        ),
        finetune=FinetuneSummary(**finetune.load_figures(context)),
        results=results,
        results_digest=results_digest(context, results),
    )


def _panels(context: StageContext) -> dict[str, Panel]:
    dataset = open_dataset(context)
    masks = context.done["evaluate"].folder / evaluate.MASKS
    panels = {}
    for sample in dataset.of("test"):
        loaded = dataset.load(sample)
        assert loaded.truth is not None
        before, after = (_read(masks / which / f"{sample.name}.png") for which in ("before", "after"))
        panels[sample.name] = Panel(sample.name, sample.patient, loaded.image, loaded.truth, before, after)
    return panels


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.bool_)


def versions() -> dict[str, str]:
    """Return the versions that shape results."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {"segmenter-rl-job": __version__, "python": platform.python_version(), **found}


def git_commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """Return the commit of the checkout that `package` is the top folder's package of, else None.

    A package that is installed somewhere inside another project's checkout has no commit of its own.
    """
    command = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    root, _, commit = answer.stdout.strip().rpartition("\n")
    return commit if Path(root).resolve() == package.resolve().parent else None
