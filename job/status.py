"""`status`: a line a run, from the files that runs leave behind on this disk or in a store."""

import math
import time
from calendar import timegm
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from job.errors import EXIT_OK, InputError, IntegrityError, Missing
from job.publish import pointers
from job.publish.published import MarkerState, open_run, read_seal
from job.storage import lease
from job.storage.beside import nothing_at
from job.storage.local import local_path
from job.storage.local_store import LocalStore
from job.storage.manifest import LEASE, MANIFEST, MARKER
from job.storage.run_folder import STATUS, RunFolder
from job.storage.store import ObjectStore, Stat
from job.storage.uris import is_remote, open_store, split_s3

READS_AT_ONCE = 16
ENDED = ("failed", "interrupted", "deadline")
"""States that a run writes down before it ends without a result."""
DAMAGED = "damaged"
COLUMNS = ("name", "run_id", "state", "stage", "progress", "eta", "verdict", "exit_code", "age", "note")

Run = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """What lies below an output."""

    runs: list[Run]
    problems: list[str]
    """A sentence for each name whose champion cannot be told."""
    is_verified: bool

    @property
    def exit_code(self) -> int:
        """What `status` ends with: 4 where it was asked to verify and something is damaged."""
        is_damaged = bool(self.problems) or any(run.get("damaged") for run in self.runs)
        return IntegrityError.exit_code if self.is_verified and is_damaged else EXIT_OK


def look(output_uri: str, verify: bool = False) -> Found:
    """Find every run below an output, a folder or `s3://`, newest first.

    Keys: name, run_id, state (running, finished, failed, interrupted, deadline, stopped where it ended
    without a word, lost where its machine fell silent, damaged where its marker names another manifest),
    stage, progress, eta_s, verdict, exit_code (an integer or None), age, age_s, path, attempt, champion. With
    `verify` also `damaged`: a sentence for each file of a finished run that is not what its manifest says.
    Raises `InputError` for a place where there is nothing.
    """
    if is_remote(output_uri):
        store: ObjectStore = open_store(output_uri)
        found = _in_a_store(store)
        if not found and split_s3(output_uri)[1] and not store.children():
            raise nothing_at(output_uri)
    else:
        folder = local_path(output_uri)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder", advice="name the folder that output.uri of the spec names"
            )
        store = LocalStore(folder.resolve())
        found = _in_a_folder(folder)
    champions = pointers.champions(store)
    current = {pointer.run for pointer in champions.values() if isinstance(pointer, pointers.Pointer)}
    for run in found:
        run["champion"] = _path_of(run) in current
    if verify:
        for run in found:  # the files of one run are read many at a time
            run["damaged"] = _damaged(store, run)
    problems = [str(error) for error in champions.values() if isinstance(error, IntegrityError)]
    return Found(sorted(found, key=_newest_first), problems, verify)


def runs(output_uri: str, verify: bool = False) -> list[Run]:
    """Return the runs that `look` finds."""
    return look(output_uri, verify).runs


def table(found: list[Run]) -> str:
    """Return runs as an aligned table, and below it what is damaged."""
    if not found:
        return "no runs yet"
    rows = [COLUMNS, *(tuple(_cell(run, column) for column in COLUMNS) for run in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += [
        f"{run['name']}/{run['run_id']}: {problem}" for run in found for problem in run.get("damaged") or ()
    ]
    return "\n".join(line.rstrip() for line in lines)


def _newest_first(run: Run) -> tuple[float, str]:
    return math.inf if run["age_s"] is None else run["age_s"], run["run_id"]


def _cell(run: Run, column: str) -> str:
    if column == "note":
        damaged = run.get("damaged")
        notes = ["champion"] if run.get("champion") else []
        notes += [f"DAMAGED: {len(damaged)}"] if damaged else ["verified"] if damaged is not None else []
        return ", ".join(notes)
    if column == "eta":
        eta_s = run.get("eta_s")
        return _duration(eta_s) if isinstance(eta_s, int | float) else "-"
    value = run.get(column)
    return "-" if value is None else str(value)


def _in_a_folder(output: Path) -> list[Run]:
    # A run that was copied from a store has a manifest and no status.
    folders = {path.parent for file in (STATUS, MANIFEST, MARKER) for path in output.glob(f"runs/*/*/{file}")}
    return [_local(RunFolder(output, folder.parent.name, folder.name)) for folder in sorted(folders)]


def _local(folder: RunFolder) -> Run:
    facts = folder.status()
    finished = _unless_damaged(folder.finished)
    if finished is not None:
        facts |= {"state": "finished", "verdict": finished.verdict, "exit_code": finished.exit_code}
    elif folder.is_held():
        facts["state"] = "running"
    elif folder.damage():
        facts["state"] = DAMAGED
    elif facts.get("state") not in ENDED:
        facts["state"] = "stopped"
    updated_at = facts.get("updated_at") or (finished.finished_at if finished else "")
    return _line(folder.name, folder.run_id, facts, _seconds_since(updated_at), str(folder.path))


def _in_a_store(store: ObjectStore) -> list[Run]:
    roots: dict[str, dict[str, Stat]] = {}
    for stat in store.entries("runs/"):
        parts = stat.key.split("/")
        if len(parts) > 3:
            files = roots.setdefault("/".join(parts[:3]), {})
            if len(parts) == 4:
                files[parts[3]] = stat
            elif "newest" not in files or files["newest"].modified < stat.modified:
                files["newest"] = stat
    if not roots:
        return []
    now = store.now()
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return list(pool.map(lambda path: _remote(store, path, roots[path], now), roots))


def _remote(store: ObjectStore, path: str, files: dict[str, Stat], now: float) -> Run:
    _, name, run_id = path.split("/")
    run = _unless_damaged(lambda: open_run(store, path, or_invalid=True)) if MANIFEST in files else None
    if run is not None:
        of_run = run.manifest
        ended = {"state": "finished", "verdict": of_run.verdict, "exit_code": of_run.exit_code}
        age_s = now - files[MANIFEST].modified
        return _line(name, run_id, ended | {"attempt": of_run.attempt}, age_s, f"{store.uri}/{path}")
    held = _unless_damaged(lambda: lease.read(store, f"{path}/{LEASE}")) if LEASE in files else None
    is_broken = MARKER in files and _is_broken(store, path)
    if held is None:
        age_s = now - max(stat.modified for stat in files.values())
        state = DAMAGED if is_broken else "lost"
        return _line(name, run_id, {"state": state}, age_s, f"{store.uri}/{path}")
    facts = {**held.facts, "attempt": held.attempt}
    if held.is_live:
        facts["state"] = "running"
    elif is_broken:
        facts["state"] = DAMAGED
    elif facts.get("state") not in ENDED:
        facts["state"] = "stopped" if held.released else "lost"
    return _line(name, run_id, facts, held.age_s, f"{store.uri}/{path}")


def _is_broken(store: ObjectStore, path: str) -> bool:
    return read_seal(store, path).state is MarkerState.BROKEN


def _unless_damaged(read: Callable[[], T | None]) -> T | None:
    """Return what is read, None where it is not what the program writes: it must not hide the other runs."""
    try:
        return read()
    except IntegrityError:
        return None


def _line(name: str, run_id: str, facts: Run, age_s: float | None, path: str) -> Run:
    is_running, is_damaged = facts["state"] == "running", facts["state"] == DAMAGED
    exit_code = None if is_damaged else facts.get("exit_code")
    return {
        "name": name,
        "run_id": run_id,
        "state": facts["state"],
        "stage": facts.get("stage"),
        "progress": facts.get("progress") if is_running else None,
        "eta_s": facts.get("eta_s") if is_running else None,
        "verdict": None if is_damaged else facts.get("verdict"),
        "exit_code": exit_code if type(exit_code) is int else None,
        "attempt": facts.get("attempt"),
        "age": "-" if age_s is None else _duration(age_s),
        "age_s": age_s,
        "path": path,
    }


def _path_of(run: Run) -> str:
    return f"runs/{run['name']}/{run['run_id']}"


def _damaged(store: ObjectStore, run: Run) -> list[str] | None:
    """Return what is wrong with a finished run, None for one that is not finished."""
    path = _path_of(run)
    try:
        found = open_run(store, path, or_invalid=True)
        if found is not None:
            return found.verify()
        # A run that is being repaired has a marker and a manifest that disagree for a while.
        problem = "" if run["state"] == "running" else read_seal(store, path).problem
        if problem:
            return [problem]
    except (IntegrityError, Missing) as error:
        return [str(error)]
    return None


def _seconds_since(updated_at: object) -> float | None:
    try:
        return max(0.0, time.time() - timegm(time.strptime(str(updated_at), "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
