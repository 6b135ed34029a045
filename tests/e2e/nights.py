"""A dataset that grows in a store, and the real job that looks at it every night, on a new machine each."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from job.data.annotations import ANNOTATIONS
from job.data.images import read_image, write_image
from job.data.synthetic import make_dataset
from job.progress import SILENT
from job.publish import champion as champions
from job.publish.champion import ChampionFile
from job.publish.published import PublishedRun, open_run
from job.storage.store import ObjectStore, Upload
from job.storage.uris import open_store
from tests.e2e.child import PATIENCE_S, ROOT, Finished

NIGHTLY = ROOT / "specs" / "nightly.json"
PROMPTS = ("Please segment the retinal blood vessels.", "Segment the major vessels.")
DATA, RESULTS = "data", "results"
TOLD = ("training_info.json", "report.md", "report.html")
VEIL = 0.6
"""What is left of the light in a photograph of the new camera."""


class Album:
    """Synthetic photographs, one a patient, of which a store is shown more every night."""

    def __init__(self, folder: Path, n_images: int, size: int, seed: int = 0) -> None:
        make_dataset(
            folder, train=n_images, validation=0, test=0, unlabelled=0, size=size, seed=seed,
            annotation="all", progress=SILENT,
        )  # fmt: skip
        self._folder = folder
        entries: list[dict[str, Any]] = json.loads((folder / ANNOTATIONS).read_text())
        self._entries = [
            {**entry, "patient": f"patient_{i:04d}", "split": None} for i, entry in enumerate(entries)
        ]
        self.shown = 0
        """How many the store has."""

    def veil(self, numbers: Collection[int]) -> None:
        """Darken photographs that nobody has seen yet, as another camera would."""
        assert min(numbers) >= self.shown
        for number in numbers:
            path = self.file(number, "image")
            write_image(path, (read_image(path) * VEIL).astype(np.uint8))

    def show(self, store: ObjectStore, n_images: int) -> None:
        """Bring the first photographs to the store, and then the list that names them."""
        files = [
            Upload(self._folder / entry[kind], f"{DATA}/{entry[kind]}")
            for entry in self._entries[self.shown : n_images]
            for kind in ("image", "mask", "fov")
        ]
        store.upload(files)
        store.write(f"{DATA}/{ANNOTATIONS}", json.dumps(self._entries[:n_images]).encode())
        self.shown = n_images

    def file(self, number: int, kind: str) -> Path:
        """Return a photograph's `image`, `mask` or `fov`."""
        return self._folder / str(self._entries[number][kind])

    def pictures(self, numbers: Collection[int], folder: Path) -> Path:
        """Copy photographs into a folder of their own, for `predict`."""
        folder.mkdir()
        for number in numbers:
            shutil.copy(self.file(number, "image"), folder)
        return folder


@dataclass(frozen=True)
class Night:
    """A job that has ended, and what readers of the store saw the morning after."""

    ended: Finished
    seconds: float
    """From the start of the process to its end."""
    processor_s: float
    """Processor time of the process: what it took whoever else wanted the machine."""
    run: PublishedRun | None
    told: Mapping[str, bytes]
    """The files of the run that people read: another night may remove them."""
    champion: ChampionFile | None

    @property
    def info(self) -> dict[str, Any]:
        """Return training_info.json."""
        return dict(json.loads(self.told["training_info.json"]))

    @property
    def model_calls(self) -> int:
        """(image, prompt) pairs that the segmenter computed."""
        return 0 if self.run is None else int(self.info["segmentations"]["computed"])


@dataclass(frozen=True)
class Clinic:
    """A place in a store with `data` and `results`, and jobs that have nothing but it."""

    uri: str
    environment: Mapping[str, str]
    """How a job finds the store."""
    timeout_s: float = PATIENCE_S

    @property
    def store(self) -> ObjectStore:
        """The place, for this process, whose own environment must lead there too."""
        return open_store(self.uri)

    @property
    def results(self) -> str:
        """The output of its jobs."""
        return f"{self.uri}/{RESULTS}"

    @property
    def model(self) -> str:
        """What `promote` and `predict --model` are told."""
        return f"{self.results}/models/nightly"

    def spec(self, thresholds: Collection[float], **finetune: Any) -> dict[str, Any]:
        """Return specs/nightly.json for this place: 2 prompts at some thresholds, little training."""
        spec: dict[str, Any] = json.loads(NIGHTLY.read_text())
        del spec["$schema"]
        return {
            **spec,
            "data": {**spec["data"], "uri": f"{self.uri}/{DATA}"},
            "actions": {"prompts": PROMPTS, "postprocess": [{"threshold": one} for one in thresholds]},
            "reward": {**spec["reward"], "network": {"epochs": 1}},
            "finetune": {**spec["finetune"], **finetune},
            "output": {**spec["output"], "uri": self.results},
            "runtime": {"threads": 1},
        }

    def night(self, spec: Mapping[str, Any], run_id: str, python: tuple[str, ...] = ()) -> Night:
        """Run a job on a machine that has never run one before."""
        before, started = _processor_s(), time.monotonic()
        with tempfile.TemporaryDirectory() as machine:
            (Path(machine) / "spec.json").write_text(json.dumps(spec))
            ended = self.command("run", "spec.json", "--run-id", run_id, machine=Path(machine), python=python)
            seconds, processor_s = time.monotonic() - started, _processor_s() - before
        results = open_store(self.results)
        run, champion = open_run(results, f"runs/nightly/{run_id}", or_invalid=True), self.champion
        told = {} if run is None else {name: _read(run, name) for name in TOLD}
        return Night(ended, seconds, processor_s, run, told, champion)

    @property
    def champion(self) -> ChampionFile | None:
        """Return what is in use now."""
        found = champions.read(open_store(self.results), "nightly")
        return None if found is None else found[0]

    def command(self, *arguments: str, machine: Path, python: tuple[str, ...] = ()) -> Finished:
        """Run the program in a folder, with caches below that folder alone."""
        environment = {
            **os.environ, **self.environment,
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JOB_CACHE_DIR": str(machine / "cache"),
        }  # fmt: skip
        command = [sys.executable, *python, "-m", "job", *arguments]
        done = subprocess.run(
            command, cwd=machine, env=environment, capture_output=True, text=True, timeout=self.timeout_s
        )
        return Finished(done.returncode, done.stdout, done.stderr)


def _processor_s() -> float:
    """Return the processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read(run: PublishedRun, name: str) -> bytes:
    return run.store.read(f"{run.path}/{run.manifest.files[name].key}")[0]
