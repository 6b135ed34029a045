"""`status`: a line a run, from the files that runs leave behind."""

import fcntl
import time
from calendar import timegm
from pathlib import Path
from typing import Any

from job.errors import InputError, IntegrityError
from job.storage.run_folder import LOCK, STATUS, RunFolder


def runs(output: Path) -> list[dict[str, Any]]:
    """Return every run below an output folder, newest first; raises `InputError` without a folder."""
    if not output.is_dir():
        raise InputError(
            f"{output}: no such folder", advice="name the folder that output.uri of the spec names"
        )
    folders = [path.parent for path in output.glob(f"runs/*/*/{STATUS}")]
    found = [_describe(RunFolder(output, folder.parent.name, folder.name)) for folder in folders]
    return sorted(found, key=lambda run: run["updated_at"], reverse=True)


def table(found: list[dict[str, Any]]) -> str:
    """Return runs as an aligned table."""
    if not found:
        return "no runs yet"
    columns = ("name", "run_id", "state", "stage", "verdict", "exit_code", "age")
    rows = [columns, *(tuple(str(run.get(column) or "-") for column in columns) for run in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _describe(folder: RunFolder) -> dict[str, Any]:
    status = folder.status()
    try:
        finished = folder.finished()
    except IntegrityError:
        finished = None
    updated_at = status.get("updated_at")
    if not isinstance(updated_at, str):
        updated_at = ""
    state = "finished" if finished else "running" if _held(folder.path / LOCK) else "stopped"
    return {
        "name": folder.name,
        "run_id": folder.run_id,
        "state": state,
        "stage": status.get("stage"),
        "verdict": finished.verdict if finished else None,
        "exit_code": str(finished.exit_code) if finished else None,
        "updated_at": updated_at,
        "age": _age(updated_at),
        "path": str(folder.path),
    }


def _held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _age(updated_at: str) -> str:
    try:
        seconds = max(0, int(time.time()) - timegm(time.strptime(updated_at, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
