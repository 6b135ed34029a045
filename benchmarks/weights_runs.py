"""Trainings of a benchmark: what each is, on which images, by which settings."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.specialist import SpecialistSpec
from job.data.dataset import Sample, read_folder
from job.data.folds import deal
from job.spec.data import PatientSplit
from job.spec.loading import load
from job.spec.reward import RewardNetworkSpec
from job.spec.tuning import GrpoSpec, SftSpec
from job.storage.local import sha256_json

RESULT = "result.json"
CHECKPOINT = "checkpoint"
RESUME = "resume"
"""Folder of what an unfinished run goes on from; gone once it is finished."""
KEY = "key"
UNFINISHED = 75
"""Exit code of a benchmark that the same command goes on with, as of the job itself."""
_SPEC = Path(__file__).parents[1] / "specs" / "chase_db1.json"

Result = dict[str, Any]


@dataclass(frozen=True)
class Base:
    """Nothing is trained: the embedded checkpoint is judged, and the prompt to train is chosen."""


@dataclass(frozen=True)
class SelfTraining:
    """Training on pixels of unlabelled images that the run's start is sure of, as if they were labelled."""

    phase: SftSpec
    confidence: float


@dataclass(frozen=True)
class Unguarded:
    """`grpo` without any guard: what guards are for."""

    phase: GrpoSpec


What = Base | SftSpec | GrpoSpec | SelfTraining | Unguarded | RewardNetworkSpec | SpecialistSpec


@dataclass(frozen=True)
class Sides:
    """Names of images; the truths of `unlabelled` ones are never looked at."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    unlabelled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A training, judged on test images; its name is that of its folder.

    `start` is the run whose weights it begins with (a `Base` run gives the embedded ones), `networks` the one
    that trained the reward networks.
    """

    name: str
    what: What
    sides: Sides
    seed: int = 0
    start: str | None = None
    networks: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs that must be finished before."""
        return tuple(name for name in (self.start, self.networks) if name is not None)


@dataclass(frozen=True)
class Setting:
    """What all runs of a benchmark share."""

    data: str
    width: int
    device: str


def settings(text: str) -> dict[str, Any]:
    """Read settings that are given as a JSON object."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text}")
    return found


def parser(description: str | None, *, seeds: int) -> argparse.ArgumentParser:
    """Return the arguments that the benchmarks have in common."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("data", type=Path, help="a dataset folder, such as CHASE_DB1's")
    made.add_argument("--seeds", type=int, default=seeds)
    made.add_argument("--width", type=int, default=512)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--steps", type=int, help="of each phase; default: that of the phases' settings")
    made.add_argument("--sft", type=settings, default={}, help="settings of the phase sft, JSON")
    made.add_argument("--grpo", type=settings, default={}, help="settings of every phase grpo, JSON")
    made.add_argument(
        "--after-sft", type=settings, default={"learning_rate": 2e-4},
        help='settings of phases that go on from sft, over --sft and --grpo, JSON;'
        ' default {"learning_rate": 2e-4}',
    )  # fmt: skip
    made.add_argument(
        "--temperature", type=float, default=0.5, help="of grpo's samples where topology is rewarded"
    )
    made.add_argument("--workers", type=int, help="processes; default: one for each CPU")
    made.add_argument("--minutes", type=float, default=1e6, help="stop by then; the same command goes on")
    made.add_argument("--output", type=Path, required=True, help="folder of runs, tables and the report")
    made.add_argument(
        "--blind", action="store_true", help="train, tell validation figures, and show no test image"
    )
    made.add_argument("--quick", action="store_true", help="minutes on two cores: shows that it works alone")
    return made


def setting_of(arguments: argparse.Namespace) -> Setting:
    """Return what the arguments say of all runs."""
    return Setting(str(arguments.data.resolve()), arguments.width, arguments.device)


def sft_of(arguments: argparse.Namespace, *, after_sft: bool = False, **others: Any) -> SftSpec:
    """Return the settings of `sft` that the arguments ask for."""
    asked = arguments.sft | (arguments.after_sft if after_sft else {})
    return SftSpec.model_validate({"algorithm": "sft", **_steps(arguments), **others, **asked})


def grpo_of(arguments: argparse.Namespace, *, after_sft: bool = False, **others: Any) -> GrpoSpec:
    """Return the settings of `grpo` that the arguments ask for; `others` are the benchmark's own."""
    asked = arguments.grpo | (arguments.after_sft if after_sft else {})
    return GrpoSpec.model_validate({"algorithm": "grpo", **_steps(arguments), **asked, **others})


def project_sides(samples: Sequence[Sample]) -> Sides:
    """Return the split that `specs/chase_db1.json` names."""
    spec = load(str(_SPEC), overrides=[]).spec
    assert isinstance(spec.data.split, PatientSplit)
    return sides_of(samples, spec.data.split)


def fold_sides(samples: Sequence[Sample], k: int, seed: int) -> list[Sides]:
    """Return the split of each of `k` folds, dealt as the job deals them."""
    return [sides_of(samples, split) for split in deal(samples, k, seed)]


def sides_of(samples: Sequence[Sample], split: PatientSplit) -> Sides:
    """Return the names of the labelled images of each side."""

    def of(patients: Sequence[str]) -> tuple[str, ...]:
        return tuple(s.name for s in samples if s.patient in patients and s.mask is not None)

    return Sides(of(split.train), of(split.validation), of(split.test))


def labelled_samples(folder: Path) -> list[Sample]:
    """Return the samples of a dataset folder that have a mask."""
    return [sample for sample in read_folder(folder) if sample.mask is not None]


def facts(value: Any) -> Any:
    """Return settings as plain JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, **{k: facts(v) for k, v in vars(value).items()}}
    return value


def keys_of(runs: Sequence[Run], setting: Setting) -> dict[str, str]:
    """Return what a result rests on: its own settings and those of the runs it goes on from."""
    keys: dict[str, str] = {}
    for run in runs:
        assert all(name in keys for name in run.needs), f"{run.name} comes before what it needs"
        about = [asdict(setting), run.seed, asdict(run.sides), facts(run.what), [keys[n] for n in run.needs]]
        keys[run.name] = sha256_json(about)
    return keys


def _steps(arguments: argparse.Namespace) -> dict[str, int]:
    return {} if arguments.steps is None else {"steps": arguments.steps}
