"""Made-up run folders that hold what `compare` reads, and nothing else."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from job.evaluation.arms import MEASURED, Arm, Arms
from job.evaluation.results import VerdictName
from job.reward.terms import METRICS
from job.storage.local import sha256_file
from job.storage.manifest import MANIFEST, MARKER, FileFacts, Manifest
from tests.report.factory import make_info

Floats = NDArray[np.float64]


def write_run(
    folder: Path,
    dice: ArrayLike,
    *,
    noop: ArrayLike = 0.8,
    pixels: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    name: str | None = None,
    verdict: VerdictName = "improved",
    spec: Mapping[str, Any] | None = None,
    is_finished: bool = True,
    **facts: Any,
) -> Path:
    """Write a run that ships PPO with this Dice on each test image; `facts` replace those of the record.

    Images are told apart by `pixels` (by default `0`, `1`, ...); image `p` is called `name_p`.
    """
    dice_N = np.asarray(dice, dtype=np.float64)
    rows = [str(i) for i in range(len(dice_N))] if pixels is None else list(pixels)
    arms = Arms(
        arms=(
            _arm("noop", np.broadcast_to(np.asarray(noop, dtype=np.float64), dice_N.shape).copy()),
            _arm("ppo", dice_N),
        ),
        names=tuple(f"name_{row}" for row in rows),
        patients=tuple(f"patient_{row}" for row in rows) if patients is None else tuple(patients),
        pixels=tuple(rows),
        validation_patients=("v",),
    )
    arms.save(folder / "evaluation" / MEASURED)
    info = make_info("improved", n_images=6, name=name or folder.name)
    results = info.results.model_copy(
        update={"verdict": info.results.verdict.model_copy(update={"verdict": verdict, "ships": "ppo"})}
    )
    record = info.model_copy(update={"results": results, "spec": {**info.spec, **(spec or {})}, **facts})
    (folder / "training_info.json").write_text(record.model_dump_json())
    if is_finished:
        _seal(folder, record.name, verdict)
    return folder


def _seal(folder: Path, name: str, verdict: str) -> None:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    manifest = Manifest(
        name=name,
        run_id=folder.name,
        identity="spec and inputs",
        verdict=verdict,
        exit_code=5 if verdict == "invalid" else 0,
        finished_at="2026-01-01T00:00:00Z",
        files={
            key: FileFacts(key=key, size=path.stat().st_size, sha256=sha256_file(path))
            for key, path in files.items()
        },
    ).to_bytes()
    (folder / MANIFEST).write_bytes(manifest)
    (folder / MARKER).write_text(hashlib.sha256(manifest).hexdigest() + "\n")


def metrics_of(dice_N: Floats) -> dict[str, Floats]:
    """Make up every metric of an arm from its Dice."""
    made = {"dice": dice_N, "betti0_error": 20 * (1 - dice_N), "betti1_error": 9 * (1 - dice_N)}
    return {metric: made.get(metric, dice_N / 2) for metric in METRICS}


def _arm(name: str, dice_N: Floats) -> Arm:
    return Arm(
        name=name,
        description=name,
        experiment=None,
        can_ship=True,
        left_out_dice=None,
        validation_dice_M=np.array([0.8]),
        test=metrics_of(dice_N),
        actions_N=np.zeros(len(dice_N), dtype=np.int64),
        quality_N=dice_N,
    )
