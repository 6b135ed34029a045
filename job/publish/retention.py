"""Retention: the newest runs of a name stay, and every run that a pointer names; what nobody needs goes.

A run goes marker first, then manifest, then its files: a reader never sees half of it, and what a kill in
between leaves is no run any more, which the next sweep removes.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from job.errors import IntegrityError, JobError, Missing
from job.logs import Log
from job.publish import pointers
from job.publish.published import ended_run
from job.stopping import raise_if_stopped
from job.storage import lease, strict_json
from job.storage.local_store import LocalStore
from job.storage.manifest import LEASE, MANIFEST, MARKER
from job.storage.run_folder import RunFolder
from job.storage.store import ObjectStore, Stat

RUBBISH_AFTER_S = 7 * 86_400
"""Age by the store's clock of what nobody finished or uses: an interrupted run may be taken up until then."""
STALE_UPLOAD_S = 86_400
READS_AT_ONCE = 16
_STAGE = re.compile(r"stages/([^/]+)/([0-9a-f]{32})(?:\.tar|\.lock|\.partial/.*|/.*)")
_WORK = re.compile(r"work/(.+)-([0-9a-f]{32})\.tar")
_DONE = "done.json"
"""Of a stage on this disk: without it there is no result, and the stage is computed again."""


def sweep_out(store: ObjectStore, name: str, keep: int, log: Log) -> list[str]:
    """Remove what retention lets go of `runs/<name>/` and, of all names, unused stages; returns the runs.

    The newest `keep` finished runs stay, and every run that a champion of any name, the one before it or a
    `last.json` is, or that somebody works on. Unfinished runs, stage results and unfinished work that no run
    lists are removed after seven days. Where a pointer cannot be read nothing is removed.
    """
    assert name
    assert "/" not in name
    assert keep >= 1
    now = store.now()
    removed: list[str] = []
    try:
        victims = _victims(store, name, keep, now)
        removed.extend(run.path for run in victims if _remove(store, run, log))
        _sweep_stages(store, now)
    except IntegrityError as error:
        log.warning("job.warning", message=f"retention removes nothing more: {error}")
    return removed


def clean_uploads(store: ObjectStore) -> int:
    """Remove what uploads of more than a day ago left unfinished; returns how many."""
    return store.abort_stale_uploads(STALE_UPLOAD_S)


@dataclass
class _Run:
    """What lies below a run's root."""

    path: str
    stats: list[Stat] = field(default_factory=list)

    def at(self, file: str) -> Stat | None:
        return next((stat for stat in self.stats if stat.key == f"{self.path}/{file}"), None)

    @property
    def newest(self) -> float:
        return max(stat.modified for stat in self.stats)


def _victims(store: ObjectStore, name: str, keep: int, now: float) -> list[_Run]:
    runs = _runs(store, f"runs/{name}/")
    trusted, invalid, unfinished = [], [], []
    for run in runs.values():
        manifest, marker = run.at(MANIFEST), run.at(MARKER)
        found = None if manifest is None else ended_run(store, run.path)
        if found is None:
            unfinished.append(run)
        elif found.is_invalid:
            assert manifest is not None
            invalid.append((manifest.modified, run.path, run))
        else:
            assert marker is not None
            trusted.append((marker.modified, run.path, run))
    # Invalid nights count for themselves alone: they must not drive out the last runs that can be used.
    staying = {row[1] for row in sorted(trusted)[-keep:]} | {
        row[1] for row in sorted(trusted + invalid)[-keep:]
    }
    old = [run for _, path, run in sorted(trusted + invalid) if path not in staying]
    return old + [run for run in unfinished if run.newest < now - RUBBISH_AFTER_S]


def _remove(store: ObjectStore, run: _Run, log: Log) -> bool:
    raise_if_stopped()
    # Asked again for each run: somebody may have promoted it, or gone on with it, a moment ago.
    if run.path in pointers.named_runs(store) or _is_worked_on(store, run.path):
        return False
    first = [f"{run.path}/{MARKER}", f"{run.path}/{MANIFEST}"]
    for key in first:
        _delete(store, [key], below=f"{run.path}/")
    _delete(store, [stat.key for stat in run.stats if stat.key not in first], below=f"{run.path}/")
    log.info("run.removed", run_uri=f"{store.uri}/{run.path}")
    return True


def _is_worked_on(store: ObjectStore, path: str) -> bool:
    if isinstance(store, LocalStore):
        _, name, run_id = path.split("/")
        return RunFolder(store.folder, name, run_id).is_held()
    held = lease.read(store, f"{path}/{LEASE}")
    return held is not None and held.is_live


def _sweep_stages(store: ObjectStore, now: float) -> None:
    groups: dict[tuple[str, str, str], list[Stat]] = {}
    for prefix, pattern in (("stages/", _STAGE), ("work/", _WORK)):
        for stat in store.entries(prefix):
            match = pattern.fullmatch(stat.key)
            if match:
                groups.setdefault((prefix, match[1], match[2]), []).append(stat)
    old = {
        group: stats
        for group, stats in groups.items()
        if max(stat.modified for stat in stats) < now - RUBBISH_AFTER_S
    }
    if not old:
        return
    runs = _runs(store, "runs/")
    if isinstance(store, LocalStore) and _some_run_goes_on(store, runs):
        return  # it may be reading a stage that no record lists yet, and has no copy of its own
    used = _used_stages(store, runs)
    for (prefix, stage, fingerprint), stats in old.items():
        raise_if_stopped()
        if (stage, fingerprint) not in used:
            keys = sorted((stat.key for stat in stats), key=lambda key: not key.endswith(f"/{_DONE}"))
            _delete(store, keys, below=prefix)


def _used_stages(store: ObjectStore, runs: dict[str, _Run]) -> set[tuple[str, str]]:
    """Return stage and fingerprint of every stage that the record of a run, or of one of its folds, lists."""
    paths = [path for path, run in runs.items() if run.at(MANIFEST) is not None]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        records = [key for keys in pool.map(lambda path: _records_of(store, path), paths) for key in keys]
        return {stage for stages in pool.map(lambda key: _stages_of(store, key), records) for stage in stages}


def _records_of(store: ObjectStore, path: str) -> list[str]:
    run = ended_run(store, path)
    files = run.manifest.files if run is not None else {}
    return [
        f"{path}/{facts.key}" for name, facts in files.items() if name.split("/")[-1] == "training_info.json"
    ]


def _stages_of(store: ObjectStore, key: str) -> list[tuple[str, str]]:
    try:
        record = strict_json.parse(store.read(key)[0])
        return [(stage["name"], stage["fingerprint"]) for stage in record["stages"]]
    except Missing:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{store.uri}/{key} is no record of a run: {error}") from error


def _some_run_goes_on(store: LocalStore, runs: Iterable[str]) -> bool:
    folders = [RunFolder(store.folder, *path.split("/")[1:]) for path in runs]
    return any(folder.is_held() and not _is_finished(folder) for folder in folders)


def _is_finished(folder: RunFolder) -> bool:
    try:
        return folder.finished() is not None
    except JobError:
        return False


def _runs(store: ObjectStore, prefix: str) -> dict[str, _Run]:
    runs: dict[str, _Run] = {}
    for stat in store.entries(prefix):
        parts = stat.key.split("/")
        if len(parts) > 3:
            path = "/".join(parts[:3])
            runs.setdefault(path, _Run(path)).stats.append(stat)
    return runs


def _delete(store: ObjectStore, keys: list[str], *, below: str) -> None:
    assert all(key.startswith(below) and ".." not in key.split("/") for key in keys), keys
    store.delete(keys)
