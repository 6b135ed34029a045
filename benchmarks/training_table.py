"""What benchmarks of policies start from: a spec's stages up to audit, its training images and rewards."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job import device, inputs
from job.finetune.env import TableRewards
from job.finetune.exact import train_exact
from job.finetune.observation import Observations, Observer
from job.finetune.policy import Policy
from job.finetune.ppo import PPOResult, train_ppo
from job.logs import Output
from job.places import Places
from job.progress import SILENT, Progress
from job.spec.finetune import FinetuneSpec
from job.spec.job import JobSpec
from job.spec.loading import load
from job.stages import audit, pull, reward, table
from job.stages.finetune import fit_observer
from job.stages.rewards import formula, scored_table
from job.stages.stage import StageContext, StageResult, compute
from job.storage.fetch import Fetcher
from job.storage.mirror import NoMirror
from job.table import ActionTable


@dataclass(frozen=True)
class TrainingTable:
    """The training images of a spec: what is observed, and what each action brings."""

    spec: JobSpec
    context: StageContext
    rows: ActionTable
    observer: Observer
    observations_ND: Observations
    rewards_NK: NDArray[np.float64]

    @property
    def actions(self) -> list[str]:
        """Labels of the K actions."""
        return [action.label for action in self.context.space]

    def settings(self, **changes: object) -> FinetuneSpec:
        """Return the spec's training settings with some replaced."""
        return FinetuneSpec.model_validate(self.spec.policy.model_dump() | changes)

    def ppo(
        self, settings: FinetuneSpec, *, seed: int, folder: Path, progress: Progress = SILENT
    ) -> PPOResult:
        """Train on the table, as the finetune stage does."""
        scores = self.rows.scores
        return train_ppo(
            settings,
            seed=seed,
            observer=self.observer,
            actions=self.actions,
            observations_ND=self.observations_ND,
            outcome=TableRewards(self.rewards_NK, scores["dice"], scores["reward_net"]),
            prior_K=self.rewards_NK.mean(axis=0) if settings.init == "prior" else None,
            folder=folder,
            resume_folder=folder / "resume",
            start=None,
            progress=progress,
        )

    def exact(
        self, *, init: str, seed: int, patients: Sequence[str] | None = None, progress: Progress = SILENT
    ) -> Policy:
        """Solve exactly, as the ladder does; `patients` default to the table's."""
        return train_exact(
            self.spec.policy,
            seed=seed,
            observer=self.observer,
            actions=self.actions,
            observations_ND=self.observations_ND,
            rewards_NK=self.rewards_NK,
            prior_K=self.rewards_NK.mean(axis=0) if init == "prior" else None,
            patients=self.rows.patients if patients is None else patients,
            progress=progress,
        )


def training_table(spec_path: str, root: Path) -> TrainingTable:
    """Run the stages before finetune below `root`; what is finished there is taken over."""
    spec = load(spec_path, overrides=[]).spec
    done: dict[str, StageResult] = {}
    with Path(os.devnull).open("w") as nowhere:
        log = Output(level="error", stream=nowhere).log
        machine = device.prepare(spec.runtime)
        found = inputs.find(spec, Places.of(spec)).fetch(Fetcher(root / "cache", 0, SILENT, log))
        context = StageContext.open(spec, found, root / "cache", NoMirror(), done, machine, SILENT, log)
        for stage in (pull.STAGE, table.STAGE, reward.STAGE, audit.STAGE):
            done[stage.name] = compute(
                stage, context, root / "stages" / stage.name, stage.fingerprint(context)
            )
    if not audit.passed(context):
        sys.exit(f"{spec_path}: a validity check fails, so that finetune would be skipped")
    rows = scored_table(context).of("train", "unlabelled")
    observer = fit_observer(context)
    observations_ND = observer.observe(rows.embeddings_NE, rows.statistics_NS)
    rewards_NK = formula(context).of(rows)
    return TrainingTable(spec, context, rows, observer, observations_ND, rewards_NK)
