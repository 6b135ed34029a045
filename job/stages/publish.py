"""publish: fill the run folder with the named deliverables, the report and the record, then seal it."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from job.errors import EXIT_OK, InvalidResult
from job.evaluation.arms import MEASURED
from job.evaluation.drift import PROFILE
from job.evaluation.results import EvaluationResults
from job.progress import Task
from job.publish.training_info import (
    ActionSummary,
    BadImage,
    DataSummary,
    FinetuneSummary,
    Provenance,
    RewardSummary,
    StageSummary,
    SweepPoint,
    TrainingInfo,
)
from job.publish.versions import versions
from job.report.html import render_html
from job.report.markdown import render_markdown
from job.report.pictures import Panel
from job.spec.loading import LoadedSpec
from job.stages import audit, challenge, evaluate, finetune, reward, rewards, table, weights
from job.stages.measuring import AFTER, BEFORE, MASKS, kept_masks, mask_of
from job.stages.pull import counts, load_bad, open_dataset, patient_counts
from job.stages.stage import StageContext
from job.storage.local import sha256_json
from job.storage.run_folder import RunFolder, utc_now


@dataclass(frozen=True)
class Record:
    """What a run was asked for, and where it goes."""

    loaded: LoadedSpec
    folder: RunFolder
    """On this machine."""
    uri: str
    """Where readers will find the run."""
    identity: str
    started_at: str
    sweep: list[SweepPoint]


def publish(context: StageContext, record: Record) -> str:
    """Write everything that the run leaves behind; returns the verdict."""
    results = evaluate.load_results(context)
    _place(context, record.folder)
    info = _training_info(context, record, results)
    with panels([context]) as shown:
        write_documents(record, info, shown)
    return results.verdict.verdict


def write_documents(record: Record, info: TrainingInfo, shown: Mapping[str, Panel]) -> None:
    """Write the record and the report, then seal the run folder."""
    folder = record.folder
    folder.write("training_info.json", info.model_dump_json(indent=1) + "\n")
    folder.write("report.md", render_markdown(info))
    folder.write("report.html", render_html(info, shown))
    folder.seal(
        exit_code=info.exit_code,
        verdict=info.results.verdict.verdict,
        identity=record.identity,
        results_digest=info.results_digest,
    )


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
    for phase in weights.load_phases(context):
        folder.put(f"{weights.SEGMENTER}/{phase.name}", weights.checkpoint(context, phase.name))
    folder.put("evaluation/results.json", done["evaluate"] / evaluate.RESULTS)
    folder.put("evaluation/measured.safetensors", done["evaluate"] / MEASURED)
    folder.put(f"evaluation/{PROFILE}", done["evaluate"] / PROFILE)
    if context.spec.report.images:
        folder.put(f"evaluation/{MASKS}", done["evaluate"] / MASKS)
    for relative in ("candidate.json", "ridge.safetensors", "exact_policy.safetensors"):
        if (done["evaluate"] / relative).exists():
            folder.put(relative, done["evaluate"] / relative)


def _training_info(context: StageContext, record: Record, results: EvaluationResults) -> TrainingInfo:
    spec, done, folder = context.spec, context.done, record.folder
    verdict = results.verdict.verdict
    dataset = open_dataset(context)
    figures = reward.load_figures(context)
    return TrainingInfo(
        name=spec.name,
        run_id=folder.run_id,
        run_uri=record.uri,
        started_at=record.started_at,
        finished_at=utc_now(),
        exit_code=InvalidResult.exit_code if verdict == "invalid" else EXIT_OK,
        spec=spec.model_dump(mode="json", exclude={"schema_"}),
        origins=record.loaded.origins,
        provenance=provenance(context),
        data=DataSummary(
            uri=spec.data.uri,
            width=spec.data.width,
            images=counts(list(dataset.samples)),
            patients=patient_counts(list(dataset.samples)),
            digests=dict(done["pull"].outputs),
            bad_images=bad_images(context),
        ),
        segmenter={
            "kind": spec.segmenter.kind,
            "uri": spec.segmenter.uri,
            "key": context.segmentations.key,
        },
        segmentations=context.segmentations.counts(),
        agreement=table.load_agreement(context),
        actions=action_summaries(context),
        stages=[
            StageSummary(
                name=name,
                fingerprint=r.fingerprint,
                reused=r.reused,
                seconds=r.seconds,
                machines=list(r.machines),
            )
            for name, r in done.items()
        ],
        checks=audit.load_checks(context),
        reward=RewardSummary(
            terms=dict(spec.reward.terms),
            source=spec.reward.network.uri or spec.reward.network.init,
            epochs=figures["epochs"],
            best_epoch=figures["best_epoch"],
            validation=figures["validation"],
            normalised=spec.reward.normalise,
            scales=rewards.scales(context),
            probes=figures["probes"],
        ),
        finetune=FinetuneSummary(**finetune.load_figures(context)),
        weights=weights.load_phases(context),
        skipped=audit.skipped(context),
        results=results,
        sweep=record.sweep,
        folds=[],
        promotion=challenge.load(context),
        results_digest=results_digest(context, results),
    )


def bad_images(context: StageContext) -> list[BadImage]:
    """Return what was left out because it cannot be used."""
    return [BadImage(dataset=one.dataset, file=one.file, what=one.what) for one in load_bad(context)]


def provenance(context: StageContext) -> Provenance:
    """Return where a result comes from."""
    return Provenance(
        versions=versions(),
        git_commit=git_commit(),
        device=f"{context.machine.device} ({context.machine.device_name})",
        threads=context.machine.threads,
        platform=platform.platform(),
    )


def action_summaries(context: StageContext) -> list[ActionSummary]:
    """Return every action in words."""
    return [
        ActionSummary(index=k, prompt=a.prompt, postprocess=asdict(a.postprocess), label=a.label)
        for k, a in enumerate(context.space)
    ]


@contextmanager
def panels(contexts: Sequence[StageContext]) -> Iterator[Mapping[str, Panel]]:
    """Lend each test image with its truth and its masks before and after; none where none may be shown.

    A panel is made when it is asked for: all test images may fit in no memory. A stop request ends that.
    """
    parts = [_Part(context) for context in contexts if context.spec.report.images]
    part_of = {name: part for part in parts for name in part.samples}
    with contexts[0].progress.task("pictures for the report", len(part_of), "images") as task:
        yield _Panels(part_of, task)


class _Part:
    """The test images of one context."""

    def __init__(self, context: StageContext) -> None:
        self._dataset = open_dataset(context)
        self.samples = {sample.name: sample for sample in self._dataset.of("test")}
        self._masks = kept_masks(context.done["evaluate"].folder)

    def panel(self, name: str) -> Panel:
        sample = self.samples[name]
        loaded = self._dataset.load(sample)
        assert loaded.truth is not None
        before, after = (mask_of(self._masks[which, name]) for which in (BEFORE, AFTER))
        return Panel(name, sample.patient, loaded.image, loaded.truth, before, after)


class _Panels(Mapping[str, Panel]):
    """Test images by name, none held."""

    def __init__(self, part_of: Mapping[str, _Part], task: Task) -> None:
        self._part_of, self._task = part_of, task
        self._made = set[str]()

    def __getitem__(self, name: str) -> Panel:
        panel = self._part_of[name].panel(name)
        self._task.advance(name not in self._made)
        self._made.add(name)
        return panel

    def __contains__(self, name: object) -> bool:
        return name in self._part_of  # without decoding it

    def __iter__(self) -> Iterator[str]:
        return iter(self._part_of)

    def __len__(self) -> int:
        return len(self._part_of)


def git_commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """Return the commit of the checkout that `package` is the top folder's package of, else None.

    A package that is installed somewhere inside another project's checkout has no commit of its own. An image
    has no checkout, and was told its commit when it was built.
    """
    if built := os.environ.get("JOB_REVISION"):
        return built if built != "unknown" else None
    command = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    root, _, commit = answer.stdout.strip().rpartition("\n")
    return commit if Path(root).resolve() == package.resolve().parent else None
