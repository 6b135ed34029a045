"""Run a job: find out whether it is done, and if not take it through the stages to its run folder."""

import time
from dataclasses import dataclass

from job import inputs as job_inputs
from job.errors import EXIT_OK, InvalidResult
from job.inputs import Inputs
from job.logs import Output, ReportedProgress, raise_if_stopped
from job.spec.loading import LoadedSpec
from job.storage.local import exclusive, local_path
from job.storage.run_folder import LOCK, Finished, RunFolder, utc_now


@dataclass(frozen=True)
class Ended:
    """How a run ended, and where its results are."""

    run: RunFolder
    exit_code: int
    verdict: str


def run(loaded: LoadedSpec, output: Output, *, run_id: str | None = None) -> Ended:
    """Run the job that a spec describes, going on where an earlier attempt stopped.

    A run that is finished, with unchanged inputs, is answered from its manifest before torch is imported.
    Raises every error of `job.errors`.
    """
    spec = loaded.spec
    inputs = job_inputs.resolve(spec)
    root = local_path(spec.output.uri).resolve()
    identity = inputs.identity(spec, root / "cache" / "inputs")
    folder = RunFolder(root, spec.name, job_inputs.run_id_of(identity, run_id))
    folder.require_identity(identity)
    finished = folder.finished()
    if finished is not None:
        return _already_done(folder, finished, output)
    with exclusive(folder.path / LOCK, f"run {folder.run_id}"):
        finished = folder.finished()  # another process may have ended it before we held the lock
        if finished is not None:
            return _already_done(folder, finished, output)
        return _work(loaded, inputs, folder, identity, output)


def _already_done(folder: RunFolder, finished: Finished, output: Output) -> Ended:
    uri = str(folder.path)
    output.log.info("job.already_done", run_id=folder.run_id, run_uri=uri, finished_at=finished.finished_at)
    output.log.info(
        "job.finished", run_uri=uri, verdict=finished.verdict, exit_code=finished.exit_code, seconds=0.0
    )
    return Ended(folder, finished.exit_code, finished.verdict)


def _work(loaded: LoadedSpec, inputs: Inputs, folder: RunFolder, identity: str, output: Output) -> Ended:
    # Only a run that has work to do pays for these imports.
    from job import device, plan
    from job.pipeline import Pipeline

    started, started_at = time.monotonic(), utc_now()
    spec, log = loaded.spec, output.log
    output.open_file(folder.path / "job.log.jsonl")
    folder.write("spec.json", spec.model_dump_json(indent=1, by_alias=True, exclude={"schema_"}) + "\n")
    folder.write_status(identity=identity, started_at=started_at, state="running")
    machine = device.prepare(spec.runtime)
    raise_if_stopped()
    log.info(
        "job.started", name=spec.name, run_id=folder.run_id, run_uri=str(folder.path),
        device=machine.device, device_name=machine.device_name, threads=machine.threads,
    )  # fmt: skip
    for warning in plan.warnings(loaded):
        log.warning("job.warning", message=warning)
    progress = ReportedProgress(output, every_s=spec.runtime.progress_every_s)
    pipeline = Pipeline(loaded, folder, identity, started_at, machine, progress, log)
    verdict = pipeline.run(inputs)
    exit_code = InvalidResult.exit_code if verdict == "invalid" else EXIT_OK
    folder.write_status(state="finished", verdict=verdict, exit_code=exit_code)
    seconds = round(time.monotonic() - started, 1)
    log.info("job.finished", run_uri=str(folder.path), verdict=verdict, exit_code=exit_code, seconds=seconds)
    return Ended(folder, exit_code, verdict)
