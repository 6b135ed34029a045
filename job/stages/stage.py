"""What a stage is: a function of the spec fields it reads, the artifacts before it, and a seed.

Outputs are immutable under `stages/<stage>/<fingerprint>/`. A fingerprint covers what the stage reads, the
digests of the artifacts it takes, its `revision` and the versions of the libraries that shape its result; a
finished fingerprint is never computed again, which is what resume is.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from job import segmenters
from job.actions import ActionSpace, PostProcess
from job.data.image_names import ImageNames
from job.device import Machine
from job.inputs import IDENTITIES, Inputs
from job.logs import Log
from job.progress import Progress
from job.rows import RowCache
from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Segmenter
from job.spec.job import JobSpec
from job.storage.local import exclusive, naming_a_full_disk, sha256_json, write_atomic
from job.storage.mirror import Mirror
from job.storage.sealed_folder import read_sealed, seal


@dataclass(frozen=True)
class StageResult:
    """A finished stage: where its files are, and the digest of each named output."""

    name: str
    fingerprint: str
    folder: Path
    outputs: Mapping[str, str]
    seconds: float
    reused: bool
    machines: tuple[str, ...] = ()
    """What computed it: several where an attempt went on with what another had begun elsewhere."""


@dataclass(frozen=True)
class StageContext:
    """What a running stage is given."""

    spec: JobSpec
    inputs: Inputs
    done: Mapping[str, StageResult]
    """Earlier stages by name."""
    machine: Machine
    space: ActionSpace
    segmentations: SegmentationCache
    rows: RowCache
    progress: Progress
    log: Log
    folder: Path = Path()
    """Files written here become the stage's immutable result."""
    scratch: Path = Path()
    """Survives an interruption, is removed once the stage is finished."""

    @classmethod
    def open(
        cls,
        spec: JobSpec,
        inputs: Inputs,
        cache: Path,
        mirror: Mirror,
        done: Mapping[str, StageResult],
        machine: Machine,
        progress: Progress,
        log: Log,
        names_of: Callable[["StageContext", int | None], ImageNames],
    ) -> "StageContext":
        """Put together what all stages of a run share; `cache` holds rows and logits on this machine.

        `names_of` gives the names of a run's images at a width, to a segmenter that goes by names.
        """
        space, memory = action_space(spec), cache / IDENTITIES

        def open_segmenter() -> Segmenter:
            return segmenters.load(
                spec.segmenter, inputs.segmenter, machine.device, log,
                memory=memory, names=names_of(context, spec.data.width),
            )  # fmt: skip

        segmentations = SegmentationCache(
            cache,
            key=segmenters.content_key(spec.segmenter, inputs.segmenter, memory),
            prompts=space.prompts,
            keep=spec.table.keep_logits == "all",
            open_segmenter=open_segmenter,
            mirror=mirror,
        )
        rows = RowCache(cache, mirror)
        context = cls(spec, inputs, done, machine, space, segmentations, rows, progress, log)
        return context


@dataclass(frozen=True)
class Stage:
    """A stage of the job."""

    name: str
    revision: int
    """Raised whenever the same inputs would give another result."""
    reads: Callable[[StageContext], Mapping[str, Any]]
    """The spec fields and the earlier outputs' digests that the result depends on, and nothing else."""
    libraries: tuple[str, ...]
    """Distributions whose version shapes the result."""
    run: Callable[[StageContext], Mapping[str, str]]
    """Computes; returns the digest of each named output."""

    def fingerprint(self, context: StageContext) -> str:
        """Return the key of this stage's result, 32 hex digits."""
        key = {
            "stage": self.name,
            "revision": self.revision,
            "reads": self.reads(context),
            "libraries": {name: metadata.version(name) for name in self.libraries},
        }
        return sha256_json(key)[:32]


def action_space(spec: JobSpec) -> ActionSpace:
    """Return the actions that a spec names."""
    postprocess = tuple(PostProcess(**p.model_dump()) for p in spec.actions.postprocess)
    by_way_of = segmenters.enlarged_by_way_of(spec.segmenter)
    return ActionSpace(tuple(spec.actions.prompts), postprocess, by_way_of)


def compute(stage: Stage, context: StageContext, root: Path, fingerprint: str) -> StageResult:
    """Run `stage` below `root` (`stages/<stage>/`) and make its result permanent by one rename."""
    final, partial = root / fingerprint, root / f"{fingerprint}.partial"
    with exclusive(root / f"{fingerprint}.lock", f"stage {stage.name}"):
        finished = find(stage.name, root, fingerprint)
        if finished is not None:
            return finished
        folder, scratch = partial / "out", partial / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)  # without its record it is no result, and stands in the way
        folder.mkdir(parents=True)
        scratch.mkdir(exist_ok=True)
        machines = _machines(scratch / "machines.json", context.machine)
        started = time.monotonic()
        with naming_a_full_disk(folder):
            outputs = dict(stage.run(replace(context, folder=folder, scratch=scratch)))
            seconds = round(time.monotonic() - started, 3)
            context.inputs.settle()  # what a failing disk lost may have been read
            record = {"stage": stage.name, "fingerprint": fingerprint, "outputs": outputs, "seconds": seconds}
            seal(folder, {**record, "machines": machines})
        folder.replace(final)
        shutil.rmtree(partial, ignore_errors=True)  # whoever finds the result removes it as well
    return StageResult(stage.name, fingerprint, final, outputs, seconds, False, tuple(machines))


def find(name: str, root: Path, fingerprint: str) -> StageResult | None:
    """Return the finished result of a fingerprint, or None.

    Raises `IntegrityError` when its record is broken or a file is not what was written.
    """
    folder = root / fingerprint
    advice = f"delete {folder} and run the same command: the stage is computed again"
    facts, needs = {"stage": name, "fingerprint": fingerprint}, ("outputs", "seconds")
    record = read_sealed(folder, facts, needs=needs, advice=advice)
    if record is None:
        return None
    machines = tuple(record.get("machines", ()))
    return StageResult(name, fingerprint, folder, record["outputs"], record["seconds"], True, machines)


def clear(root: Path, fingerprint: str) -> None:
    """Remove what a process that was killed as it finished a stage had no time to remove."""
    shutil.rmtree(root / f"{fingerprint}.partial", ignore_errors=True)


def _machines(path: Path, machine: Machine) -> list[str]:
    """Return the machines that have worked on a stage, this one among them, and keep that."""
    this = f"{machine.device} ({machine.device_name}), threads: {machine.threads}"
    before = [str(one) for one in json.loads(path.read_bytes())] if path.exists() else []
    if this not in before:
        write_atomic(path, json.dumps([*before, this]))
    return list(dict.fromkeys([*before, this]))
