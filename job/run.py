"""Run a job: find out whether it is done, and if not take it through the stages to where readers find it."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace

from job import inputs as job_inputs
from job import last_words
from job.errors import EXIT_OK, DeadlineReached, Interrupted, InvalidResult, JobError
from job.home import Hold, Home, checked
from job.inputs import Found, segmenter_folder
from job.logs import Output, ReportedProgress
from job.places import Places
from job.publish import promotion, retention
from job.publish.published import PublishedRun, open_run
from job.spec.loading import LoadedSpec
from job.spec.unwise import warnings
from job.stopping import raise_if_stopped
from job.storage.fetch import Fetcher
from job.storage.local import private_folder
from job.storage.local_store import LocalStore
from job.storage.run_folder import Finished, RunFolder, utc_now
from job.waiting import interruptibly

GIGA = 1_000_000_000


@dataclass(frozen=True)
class Ended:
    """How a run ended, and where its results are."""

    folder: RunFolder
    """On this machine; empty where a run in a store was found done."""
    uri: str
    exit_code: int
    failure: InvalidResult | None = None
    """Why the results cannot be trusted."""


def run(loaded: LoadedSpec, output: Output, *, run_id: str | None = None) -> Ended:
    """Run the job that a spec describes, going on where an earlier attempt stopped.

    A run that is finished, with unchanged inputs, is answered from its manifest before torch is imported, and
    so is a promoting job that finds nothing new. Raises every error of `job.errors`.
    """
    started = time.monotonic()
    spec = loaded.spec
    places = Places.of(spec)
    if places.is_remote or spec.cache.uri:
        places.require_cache()
    if places.is_remote:
        places = checked(places, output.log)
    found = interruptibly(lambda: job_inputs.find(spec, places))
    with suppress(OSError):  # whoever writes to it says what is wrong; not before the inputs are there
        private_folder(places.cache)
    identity = found.identity(spec, places.cache / job_inputs.IDENTITIES)
    folder = RunFolder(places.root, spec.name, job_inputs.run_id_of(identity, run_id))
    home = Home(places, folder, output.log, int(spec.cache.max_gb * GIGA))
    finished = interruptibly(home.finished)
    if finished is not None:
        return _already_done(loaded, home, finished, identity, output)
    if spec.promote.when == "better":
        last = promotion.nothing_new(places.store, spec.name, identity)
        if last is not None:
            seconds = round(time.monotonic() - started, 1)
            output.log.info("job.nothing_new", last_run=last.run.run, seconds=seconds)
            uri = f"{places.store.uri}/{last.run.run}"
            return Ended(folder, uri, last.exit_code, _distrusted(uri, last.exit_code, output))
    folder.require_identity(identity)
    with home.held(identity) as hold:
        finished = home.finished()  # another attempt may have ended it before we held it
        if finished is not None:
            return _already_done(loaded, home, finished, identity, output)
        try:
            return _work(loaded, found, home, hold, identity, output)
        except Exception as error:
            last_words.log(error, output)  # here, so that a log in a store has it
            failure = last_words.Failure.of(error)
            with suppress(JobError, OSError):  # a full disk takes no status: what ended the run is told
                folder.write_status(
                    state=_STATES.get(failure.exit_code, "failed"), exit_code=failure.exit_code,
                    message=failure.message, progress=None,
                )  # fmt: skip
            raise


_STATES = {Interrupted.exit_code: "interrupted", DeadlineReached.exit_code: "deadline"}


def _already_done(loaded: LoadedSpec, home: Home, finished: Finished, identity: str, output: Output) -> Ended:
    home.require_same(finished.identity, identity)
    home.log.info(
        "job.already_done", run_id=home.folder.run_id, run_uri=home.uri, finished_at=finished.finished_at
    )
    run = open_run(home.places.store, home.path, or_invalid=True)
    if run is not None:
        _settle(loaded, home, run)
    return _ended(home, finished.verdict, finished.exit_code, 0.0, output)


def _ended(home: Home, verdict: str, exit_code: int, seconds: float, output: Output) -> Ended:
    home.log.info("job.finished", run_uri=home.uri, verdict=verdict, exit_code=exit_code, seconds=seconds)
    return Ended(home.folder, home.uri, exit_code, _distrusted(home.uri, exit_code, output))


def _distrusted(run_uri: str, exit_code: int, output: Output) -> InvalidResult | None:
    """Log what an invalid run's exit code stands for; returns it as the error that it is."""
    if exit_code != InvalidResult.exit_code:
        return None
    failure = InvalidResult(
        f"the result is invalid, and nothing is promoted: a check failed ({run_uri}/report.md)",
        advice="the report names the failed checks, and what to do about each",
    )
    last_words.log(failure, output)
    return failure


def _work(loaded: LoadedSpec, found: Found, home: Home, hold: Hold, identity: str, output: Output) -> Ended:
    raise_if_stopped()
    # Only a run that has work to do pays for these imports.
    from job import device, trust
    from job.pipeline import Pipeline

    started, started_at = time.monotonic(), utc_now()
    spec, folder, log, places = loaded.spec, home.folder, output.log, home.places
    output.open_file(folder.path / "job.log.jsonl")
    folder.write("spec.json", spec.model_dump_json(indent=1, by_alias=True, exclude={"schema_"}) + "\n")
    folder.write_status(identity=identity, started_at=started_at, state="running")
    trust.require_vouched(spec.segmenter, found.segmenter)
    machine = device.prepare(spec.runtime)
    raise_if_stopped()
    log.info(
        "job.started", name=spec.name, run_id=folder.run_id, run_uri=home.uri,
        device=machine.device, device_name=machine.device_name, threads=machine.threads,
    )  # fmt: skip
    for warning in filter(None, (device.without_accelerator(machine, spec.runtime), *warnings(loaded))):
        log.warning("job.warning", message=warning)
    progress = ReportedProgress(
        output,
        every_s=spec.runtime.progress_every_s,
        observe=lambda doing, eta_s: folder.write_status(progress=doing, eta_s=eta_s),
    )
    fetcher = Fetcher(places.cache, int(spec.cache.max_gb * GIGA), progress, log)
    champion = None
    if spec.promote.when == "better":
        champion = promotion.incumbent(places.store, spec.name, places.cache)
    if champion is not None:
        champion = promotion.with_segmenter(champion, lambda uri: segmenter_folder(uri, fetcher))
    pipeline = Pipeline(
        loaded, folder, home.uri, identity,
        inputs_of=lambda of: replace(found.of(of).fetch(fetcher), champion=champion),
        identity_of=lambda of: found.of(of).identity(of, places.cache / job_inputs.IDENTITIES),
        cache=places.cache, mirror=hold.mirror, started_at=started_at,
        machine=machine, progress=progress, log=log,
    )  # fmt: skip
    with fetcher.named():
        verdict = pipeline.run()
    exit_code = InvalidResult.exit_code if verdict == "invalid" else EXIT_OK
    published = hold.publish(progress)
    folder.write_status(state="finished", verdict=verdict, exit_code=exit_code, progress=None, eta_s=None)
    _settle(loaded, home, published)
    seconds = round(time.monotonic() - started, 1)
    return _ended(home, verdict, exit_code, seconds, output)


def _settle(loaded: LoadedSpec, home: Home, published: PublishedRun) -> None:
    """Do what follows a published run: any part of it may be left from an attempt that was killed."""
    spec, store, log = loaded.spec, home.places.store, home.log
    if spec.promote.when == "better":
        promotion.settle(store, published, log)
        promotion.note_last(store, published)
    if spec.output.keep_runs is not None:
        retention.sweep_out(store, spec.name, spec.output.keep_runs, log)
        if home.places.is_remote:
            retention.sweep_out(LocalStore(home.places.root), spec.name, spec.output.keep_runs, log)
