"""Promotion: which run is in use, by a job that found it better or by hand; and whether anything is new.

`models/<name>/champion.json` is written last of all, on the condition that it is still what the job compared
with. `models/<name>/last.json` remembers what the last promoting job has seen.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from job.errors import InputError, IntegrityError, InvalidResult, Missing, SpecError, TryAgain
from job.evaluation.drift import PROFILE
from job.logs import Log
from job.publish import champion as champions
from job.publish.champion import (
    MOST_EARLIER,
    ChampionFile,
    Incumbent,
    LastFile,
    Reign,
    RunPointer,
)
from job.publish.local_run import champion_run
from job.publish.pointers import LAST, MODELS
from job.publish.published import PublishedRun, files_within, newest_run, trusted_run
from job.publish.publishing import finished_in
from job.publish.training_info import TrainingInfo
from job.publish.versions import versions
from job.storage import strict_json
from job.storage.documents import parse_as, read_bytes
from job.storage.local import sha256_file, sha256_json
from job.storage.run_folder import utc_now
from job.storage.store import ObjectStore
from job.storage.uris import is_remote, open_store, parent_and_name

PREVIOUS = "previous"
TRAINING_INFO, CANDIDATE = "training_info.json", "candidate.json"
NEEDED = (
    CANDIDATE, "policy.safetensors", "ridge.safetensors", "exact_policy.safetensors",
    "reward/best_reward_net.safetensors", f"evaluation/{PROFILE}", "segmenter",
)  # fmt: skip
"""What a job needs of the champion's run; a run has the chooser's file that it ships, if any."""
SPLITS = ("train", "validation", "test", "unlabelled")


def incumbent(store: ObjectStore, name: str, cache: Path) -> Incumbent | None:
    """Return the champion that a job meets, with its files on this machine; None where there is none yet.

    Raises `InputError` or `IntegrityError` for a champion that is named and cannot be had: no absence.
    """
    found = champions.read(store, name)
    if found is None:
        return None
    record, etag = found
    run = champion_run(store, name)
    if not record.is_of(run.path, run.manifest_sha256):
        raise TryAgain(
            f"{store.uri}: the champion of {name!r} changes at this moment",
            advice="run the same command again",
        )
    folder = run.bring(cache, NEEDED)
    for file, facts in files_within(run.manifest.files, NEEDED).items():
        if not _is(folder / file, facts.sha256):
            raise IntegrityError(
                f"{folder / file}: a file of the champion is missing or was changed",
                advice=f"mend it, or put another run in its place: {champions.verb(store, name)} --to RUN_ID",
            )
    return Incumbent(record, etag, folder)


def with_segmenter(met: Incumbent, bring: Callable[[str], Path]) -> Incumbent:
    """Return the champion with its segmenter on this machine, which `bring` fetches where it is in a store.

    Raises what `bring` raises, with the champion named in it.
    """
    uri = _segmenter_uri(met.folder / CANDIDATE)  # empty where the run brings its segmenter along
    if not is_remote(uri):
        return met
    try:
        return replace(met, segmenter=bring(uri))
    except InputError as error:
        raise InputError(
            f"the segmenter of the champion {met.record.current.run} cannot be had: {error}",
            advice="bring it back to its place, or put another run in use: promote .../models/"
            f"{met.record.name} --to RUN_ID",
        ) from error


def _segmenter_uri(path: Path) -> str:
    # Alone: the module that knows the whole document brings torch.
    try:
        document = strict_json.parse(read_bytes(path))
        return "" if document.get("segmenter_folder") else str(document.get("segmenter", {}).get("uri", ""))
    except (ValueError, AttributeError) as error:
        raise IntegrityError(
            f"{path}: not a candidate of this program: {error}", advice="fetch an undamaged copy of the run"
        ) from error


def settle(store: ObjectStore, published: PublishedRun, log: Log) -> bool:
    """Make a run that its own record calls better the champion; returns whether it is the champion now.

    It takes the place of the champion that it was compared with and of no other: where another job was
    faster, that one stays (`champion.race_lost`). Doing it again changes nothing.
    """
    name, info = published.manifest.name, _info(published)
    promotion = info.promotion
    if promotion is None or promotion.decision != "promote":
        return False
    found = champions.read(store, name)
    if found is not None and found[0].is_of(published.path, published.manifest_sha256):
        return True
    before = None if found is None else found[0]
    if before is not None and any(p.run == published.path for p in before.followed):
        return False  # it was the champion once: what came after it stays
    record = _crowned(published, info, before, by="job", reason=promotion.sentence)
    is_the_one = promotion.generation == (0 if before is None else before.generation)
    if is_the_one and champions.write(store, record, None if found is None else found[1]):
        log.info(
            "champion.promoted", model_uri=f"{store.uri}/{MODELS}/{name}", run=published.path,
            generation=record.generation, previous=record.previous and record.previous.run,
        )  # fmt: skip
        return True
    log.warning("champion.race_lost", model_uri=f"{store.uri}/{MODELS}/{name}", run=published.path)
    return False


def by_hand(place: str, to: str | None = None) -> ChampionFile:
    """Put a run in use: `place` is `.../models/NAME`, `to` a run id, `previous`, or None for the newest run.

    Without `to` the run's own record must call it better than this champion. What becomes the champion is
    read whole first. Raises `SpecError` for another place, `InputError` for a run that is not there, not
    better or has no candidate, `InvalidResult` for an invalid one, `IntegrityError` for a damaged one,
    `TryAgain` where the champion changes meanwhile.
    """
    store, name = _model(place)
    read = champions.read_bytes(store, name)
    before, etag = None, None
    if read is not None:
        etag = read[1]
        try:
            before = champions.parse(store, name, read[0])
        except IntegrityError:
            # Naming a run is the way out of a record that cannot be read.
            if to is None or to == PREVIOUS:
                raise
    if to == PREVIOUS:
        record = _back(store, name, before)
    else:
        run = newest_run(store, f"runs/{name}") if to is None else _run(store, name, to)
        if before is not None and before.is_of(run.path, run.manifest_sha256):
            return before
        info = _info(run)
        _require_whole(run)
        if to is None:
            _require_better(store, run, info, before)
        reason = f"Put in use by hand. {info.results.verdict.sentence}"
        record = _crowned(run, info, before, by="hand", reason=reason)
    if not champions.write(store, record, etag):
        raise TryAgain(
            f"{store.uri}/{MODELS}/{name}: another job changed the champion at this moment",
            advice="look at it, then run the same command again",
        )
    return record


def last(store: ObjectStore, name: str) -> LastFile | None:
    """Return what the last promoting job of a name has seen; None where nothing readable says so."""
    try:
        return parse_as(LastFile, store.read(champions.key(name, LAST))[0], LAST, advice="")
    except (Missing, IntegrityError):
        return None  # it only saves a night's work: without it the job runs


def note_last(store: ObjectStore, published: PublishedRun) -> LastFile:
    """Remember a run of a promoting job, whatever it decided: an equal night has nothing to do.

    A later one stays: an old run may be asked for again. Returns the note that is there afterwards.
    """
    before = last(store, published.manifest.name)
    if before is not None and before.finished_at > published.manifest.finished_at:
        return before
    note = LastFile(
        run=RunPointer(run=published.path, manifest_sha256=published.manifest_sha256),
        identity=published.manifest.identity,
        versions=_info(published).provenance.versions,
        exit_code=published.manifest.exit_code,
        finished_at=published.manifest.finished_at,
    )
    store.write(champions.key(published.manifest.name, LAST), champions.to_bytes(note))
    return note


def nothing_new(
    store: ObjectStore, name: str, identity: str, installed: Mapping[str, str] | None = None
) -> LastFile | None:
    """Return the last promoting job's note where spec, inputs, program and libraries are still the same.

    None as well where the run that it names is gone or damaged. `installed` are by default the versions here.
    """
    note = last(store, name)
    if note is None or note.identity != identity:
        return None
    if note.versions != dict(versions() if installed is None else installed):
        return None
    return note if finished_in(store, note.run.run) is not None else None


def _require_better(
    store: ObjectStore, run: PublishedRun, info: TrainingInfo, before: ChampionFile | None
) -> None:
    """Raise unless the run's own record says that it should replace this very champion."""
    name, promotion = run.manifest.name, info.promotion
    advice = f"to put it in use all the same: {champions.verb(store, name)} --to {run.manifest.run_id}"
    if before is None:
        if info.results.verdict.verdict != "improved":
            raise InputError(
                f"{run.uri} is not surely better than what you have today: {info.results.verdict.sentence}",
                advice=advice,
            )
        return
    if promotion is None:
        raise InputError(f"{run.uri} was not compared with the champion {before.current.run}", advice=advice)
    if promotion.decision != "promote":
        raise InputError(f"{run.uri} does not replace the champion: {promotion.sentence}", advice=advice)
    if promotion.champion != before.current.run:
        other = promotion.champion or "what you have today"
        raise InputError(
            f"{run.uri} was compared with {other}, but {before.current.run} is the champion by now",
            advice=f"run the job again, which compares it with that one; {advice}",
        )


def _require_whole(run: PublishedRun) -> None:
    if CANDIDATE not in run.manifest.files:
        raise InputError(
            f"{run.uri} ships no candidate", advice="a run of folds measures a procedure: name another run"
        )
    damaged = run.verify()
    if damaged:
        raise IntegrityError(
            f"{run.uri}: {damaged[0]}" + (f", and {len(damaged) - 1} more" if damaged[1:] else ""),
            advice="name another run, or run its spec again, which publishes it anew",
        )


def _back(store: ObjectStore, name: str, before: ChampionFile | None) -> ChampionFile:
    """Return the record with the champion before in use again; the one that it follows is forgotten."""
    target = None if before is None else before.previous
    if before is None or target is None:
        raise InputError(
            f"{store.uri}/{MODELS}/{name}: there is no champion before to go back to",
            advice=f"name a run: {champions.verb(store, name)} --to RUN_ID",
        )
    run = _run(store, name, target.run.rpartition("/")[2])
    if run.manifest_sha256 != target.manifest_sha256:
        raise IntegrityError(
            f"{run.uri} is not the run that was champion: its manifest is another one",
            advice=f"name a run: {champions.verb(store, name)} --to RUN_ID",
        )
    _require_whole(run)
    reason = f"Rolled back by hand from {before.current.run}."
    record = _crowned(run, _info(run), before, by="hand", reason=reason)
    following = before.earlier
    return record.model_copy(
        update={"previous": following[0] if following else None, "earlier": following[1:]}
    )


def _crowned(
    run: PublishedRun, info: TrainingInfo, before: ChampionFile | None, *, by: str, reason: str
) -> ChampionFile:
    verdict, promotion = info.results.verdict, info.promotion
    was_compared = before is not None and promotion is not None and promotion.champion == before.current.run
    row = next((row for row in info.results.ladder if row.candidate == verdict.ships), None)
    return ChampionFile.model_validate(
        {
            "name": run.manifest.name,
            "generation": 1 if before is None else before.generation + 1,
            "current": Reign(run=run.path, manifest_sha256=run.manifest_sha256, promoted_at=utc_now()),
            "previous": None if before is None else before.current,
            "earlier": [] if before is None else before.followed[:MOST_EARLIER],
            "by": by,
            "reason": reason,
            "candidate": verdict.ships if row is None else row.description,
            "dice": verdict.dice_after,
            "vs_noop": verdict.vs_noop,
            "vs_champion": promotion.vs_champion if was_compared and promotion else None,
            "data_fingerprint": sha256_json({split: info.data.digests.get(split) for split in SPLITS}),
        }
    )


def _run(store: ObjectStore, name: str, run_id: str) -> PublishedRun:
    if "/" in run_id or run_id in ("", ".", ".."):
        raise SpecError(
            f"--to {run_id!r} is no run id", advice=f"write the last part of {store.uri}/runs/{name}/RUN_ID"
        )
    run = trusted_run(store, f"runs/{name}/{run_id}", or_invalid=True)
    if run.is_invalid:
        raise InvalidResult(
            f"{run.uri} ended invalid: its figures prove nothing, and it ships nothing",
            advice="name another run, or mend what its report names and run it again",
        )
    return run


def _info(run: PublishedRun) -> TrainingInfo:
    facts = run.manifest.files.get(TRAINING_INFO)
    if facts is None:
        raise IntegrityError(f"{run.uri} has no {TRAINING_INFO}", advice="run its spec again")
    data, _ = run.store.read(f"{run.path}/{facts.key}")
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise IntegrityError(
            f"{run.uri}: {TRAINING_INFO} has other content than the manifest says",
            advice="run its spec again, which publishes it anew",
        )
    return parse_as(
        TrainingInfo,
        data,
        f"{run.uri}: {TRAINING_INFO}",
        what="a record of this version",
        advice="run its spec again with this version: what has not changed is not computed again",
    )


def _model(place: str) -> tuple[ObjectStore, str]:
    models, name = parent_and_name(place.rstrip("/"))
    root, kind = parent_and_name(models)
    if kind != MODELS or not name:
        raise SpecError(
            f"{place} is no model", advice=f"name OUTPUT/{MODELS}/NAME, where OUTPUT is the jobs' output.uri"
        )
    return open_store(root), name


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256
