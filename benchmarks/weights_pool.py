"""Trainings of a benchmark, side by side in processes, every finished one kept in a folder.

A benchmark that is cut short goes on: finished runs are read, others resume from where they were saved.
"""

import argparse
import multiprocessing
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.weights_runs import KEY, RESULT, RESUME, UNFINISHED, Result, Run, Setting, keys_of
from benchmarks.weights_work import prepare, work
from job.device import available_cpus
from job.storage import strict_json
from job.storage.local import write_atomic


def run_all(runs: Sequence[Run], setting: Setting, arguments: argparse.Namespace) -> dict[str, Result]:
    """Return the result of every run, by name; exits where some are unfinished or failed, and says which."""
    root, deadline = arguments.output, time.time() + 60 * arguments.minutes
    workers = arguments.workers or available_cpus()
    keys = keys_of(runs, setting)
    done = {run.name: known for run in runs if (known := _known(root, run, keys[run.name])) is not None}
    todo = [run for run in runs if run.name not in done]
    for run in todo:
        _claim(root / run.name, keys[run.name])
    print(f"{len(done)} of {len(runs)} runs are known; {workers} processes on {setting.device}", flush=True)
    failed: list[str] = []
    threads = max(1, available_cpus() // workers)
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), prepare, (setting, threads)
    ) as pool:
        running: dict[Future[Result | None], Run] = {}
        while True:
            ready = [run for run in todo if all(name in done for name in run.needs)]
            todo = [run for run in todo if run not in ready]
            running |= {pool.submit(work, run, setting, root, deadline): run for run in ready}
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    result = future.result()
                except Exception:
                    failed.append(run.name)
                    print(f"{run.name} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
                    continue
                if result is not None:
                    result["key"] = keys[run.name]
                    write_atomic(root / run.name / RESULT, strict_json.dumps(result))
                    shutil.rmtree(root / run.name / RESUME, ignore_errors=True)
                    done[run.name] = result
                    print(f"{run.name}: {_in_words(result)}", flush=True)
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")
    if len(done) < len(runs):
        print(f"{len(done)} of {len(runs)} runs are done; the same command goes on")
        sys.exit(UNFINISHED)
    if arguments.blind:
        for run in runs:
            print(f"{run.name}: {_in_words(done[run.name])}")
        sys.exit()
    return done


def _claim(folder: Path, key: str) -> None:
    """Empty a run's folder of what other settings left there."""
    if folder.is_dir() and (not (folder / KEY).is_file() or (folder / KEY).read_text() != key):
        shutil.rmtree(folder)
    (folder / RESUME).mkdir(parents=True, exist_ok=True)
    write_atomic(folder / KEY, key)


def _known(root: Path, run: Run, key: str) -> Result | None:
    path = root / run.name / RESULT
    if not path.is_file():
        return None
    result: Result = strict_json.loads(path.read_text())
    return result if result["key"] == key else None


def _in_words(result: Mapping[str, Any]) -> str:
    told = f"{result['seconds']:.0f} s"
    if "validation" in result:
        told += f", validation Dice {result['validation']:.4f}"
    if "ended" in result:
        told += f", {result['steps']} steps, kept {result['best_step']}, ended by {result['ended']}"
        worths = {row["step"]: row["worth"] for row in result["curve"] if "worth" in row}
        if worths:
            told += f", its terms {worths[0]:.4f} at the start, {worths[result['best_step']]:.4f} kept"
    return told
