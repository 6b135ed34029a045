"""From a place as users write it to a folder on this machine that holds the run."""

import re
from collections.abc import Sequence
from pathlib import Path

from job.errors import InputError, IntegrityError
from job.places import default_cache
from job.publish import pointers
from job.publish.published import (
    PublishedRun,
    differences,
    ended_run,
    files_within,
    newest_run,
    open_run,
    require_unbroken,
    trusted_run,
)
from job.storage.local import local_path, private_folder
from job.storage.local_store import LocalStore
from job.storage.manifest import MANIFEST
from job.storage.store import ObjectStore
from job.storage.uris import S3, is_remote, open_store, split_s3

CANDIDATE, TRAINING_INFO = "candidate.json", "training_info.json"
"""Written here again: the modules that own them bring numpy and more."""
_ATTEMPT = re.compile(r"attempt-\d+")
_ADVICE = (
    "name a finished run's folder, .../runs/NAME for its newest run, or .../models/NAME for its champion"
)


def local_run(place: str, cache: Path | None = None, only: Sequence[str] | None = None) -> Path:
    """Return a folder on this machine with the run that a place names, fetching it where it is in a store.

    A place is a run folder, its candidate.json, `.../runs/NAME` (the newest finished run) or
    `.../models/NAME` (the champion), as a path, `file://` or `s3://`. Local runs are returned as they lie.
    Of a run in a store, files and folders in `only` are brought (all of them, where it is None).
    Raises `InputError` for what is not there.
    """
    if not is_remote(place):
        return _on_this_disk(local_path(place))
    root, kind, tail = _parts(place)
    store = open_store(root)
    fold = "/".join(tail[2:])
    run = _run(store, kind, tail)
    if fold:
        only = [fold] if only is None else [f"{fold}/{part}" for part in only]
    if cache is None:
        cache = default_cache()
        private_folder(cache)
    folder = run.bring(cache, only)
    return folder / fold if fold else folder


def champion_run(store: ObjectStore, name: str) -> PublishedRun:
    """Return the run that is in use; raises `InputError` without one, `IntegrityError` for another one."""
    pointer = pointers.champion_of(store, name)
    run = open_run(store, pointer.run)
    advice = f"put another run in its place: `promote {store.uri}/models/{name} --to RUN_ID`"
    if run is None:
        require_unbroken(store, pointer.run)
        raise InputError(f"{store.uri}/{pointer.run}: the champion of {name!r} is gone", advice=advice)
    if run.manifest_sha256 != pointer.manifest_sha256:
        raise IntegrityError(
            f"{run.uri} is not the run that became champion: its manifest is another one", advice=advice
        )
    return run


def require_as_sealed(folder: Path, parts: Sequence[str]) -> None:
    """Raise `IntegrityError` that names a file which is not what the manifest of its run says.

    `parts` are files and folders in `folder`: a run, its attempt, or a fold of either. Nothing is known, and
    nothing raised, of a run that is not finished, or lies in other folders.
    """
    run = next((one for one in (folder, *folder.parents[:3]) if (one / MANIFEST).is_file()), None)
    if run is None:
        return
    store = LocalStore(run.parent)
    found = ended_run(store, run.name)
    if found is None:
        require_unbroken(store, run.name)
        return
    within = [(folder.relative_to(run) / part).as_posix() for part in parts]
    files = files_within({facts.key: facts for facts in found.manifest.files.values()}, within)
    for problem in differences(store, run.name, files).values():
        raise IntegrityError(
            f"{run}: {problem}",
            advice="bring an undamaged copy, or run its spec again, which publishes it anew",
        )


def _run(store: ObjectStore, kind: str, tail: Sequence[str]) -> PublishedRun:
    if kind == pointers.MODELS:
        return champion_run(store, tail[0])
    path = f"runs/{'/'.join(tail[:2])}"
    if len(tail) == 1:
        return newest_run(store, path)
    return trusted_run(store, path, or_invalid=True)


def _parts(place: str) -> tuple[str, str, list[str]]:
    """Split a place into the output root, `runs` or `models`, and what follows."""
    bucket, key = split_s3(place)
    parts = key.split("/")
    if parts[-1] in (CANDIDATE, pointers.CHAMPION):
        parts.pop()
    if parts and _ATTEMPT.fullmatch(parts[-1]):
        parts.pop()
    for i in reversed(range(len(parts))):
        tail = parts[i + 1 :]
        of_run = len(tail) in (1, 2) or (len(tail) == 4 and tail[2] == "folds")
        if (parts[i] == "runs" and of_run) or (parts[i] == pointers.MODELS and len(tail) == 1):
            return f"{S3}{'/'.join([bucket, *parts[:i]])}", parts[i], tail
    raise InputError(f"{place}: names no run", advice=_ADVICE)


def _on_this_disk(path: Path) -> Path:
    if path.name in (CANDIDATE, pointers.CHAMPION) and path.is_file():
        path = path.parent
    if not path.is_dir():
        what = "is a file, not a run" if path.exists() else "no such run"
        raise InputError(f"{path}: {what}", advice=_ADVICE)
    if (path / pointers.CHAMPION).is_file():
        place = path.resolve()
        return champion_run(LocalStore(place.parent.parent), place.name).bring(place)
    if (path / CANDIDATE).is_file() or (path / TRAINING_INFO).is_file():
        place = path.resolve()
        require_unbroken(LocalStore(place.parent), place.name)
        return path
    place = path.resolve()
    return newest_run(LocalStore(place.parent), place.name).bring(place)
