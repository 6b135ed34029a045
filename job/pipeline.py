"""The stages in order, taken over where they are finished: once, for points of a sweep, or fold by fold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from job import sweep
from job.data import folds
from job.data.dataset import read_folder
from job.device import Machine
from job.inputs import Inputs
from job.logs import Log, raise_if_stopped
from job.progress import Progress
from job.publish.training_info import SweepPoint
from job.spec.data import FoldSplit
from job.spec.job import JobSpec
from job.spec.loading import LoadedSpec
from job.stages import LEARNING, audit, challenge, out_of_fold, publish, stages_of
from job.stages.image_names import image_names
from job.stages.stage import Stage, StageContext, StageResult, clear, compute, find
from job.storage.mirror import Mirror
from job.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Pipeline:
    """A run on its way: what it was asked for, where it goes, and what it works with."""

    loaded: LoadedSpec
    folder: RunFolder
    uri: str
    """Where readers will find the run."""
    identity: str
    inputs_of: Callable[[JobSpec], Inputs]
    """What a spec points at, on this machine: a point of a sweep may name other networks than the spec."""
    identity_of: Callable[[JobSpec], str]
    cache: Path
    mirror: Mirror
    started_at: str
    machine: Machine
    progress: Progress
    log: Log
    fold_of: tuple[RunFolder, str] | None = None
    """Of a fold: the folder of the whole run, and which of its folds this is."""

    def run(self) -> str:
        """Take the spec through its stages and fill the run folder; returns the verdict."""
        spec = self.loaded.spec
        if isinstance(spec.data.split, FoldSplit):
            return self._fold_by_fold(spec, spec.data.split)
        context, points = self._judged(spec)
        self._show_stage("publish")
        return publish.publish(context, self._record(points))

    def _fold_by_fold(self, spec: JobSpec, split: FoldSplit) -> str:
        """Run each fold as a run of its own below this one, then judge all their test images together."""
        inputs = self.inputs_of(spec)
        assert inputs.data is not None
        dealt = folds.deal(read_folder(inputs.data), split.k, spec.seed)
        if spec.reward.network.epochs:
            folds.require_training_patients(dealt)
        runs = []
        for number, patients in enumerate(dealt, start=1):
            of_fold = spec.model_copy(update={"data": spec.data.model_copy(update={"split": patients})})
            folder = replace(self.folder, run_id=f"{self.folder.run_id}/folds/{number}")
            self.log.info("fold.started", fold=number, folds=split.k, test_patients=len(patients.test))
            self.log.debug("names", of=f"fold.started {number}", names=list(patients.test))
            one = replace(
                self,
                loaded=replace(self.loaded, spec=of_fold),
                folder=folder,
                uri=f"{self.uri}/folds/{number}",
                identity=self.identity_of(of_fold),
                fold_of=(self.folder, f"fold {number} of {split.k}"),
                log=self.log.bind(fold=number),
            )
            runs.append(one._fold(number))
        self._show_stage("publish")
        return out_of_fold.publish(runs, self._record([]))

    def _fold(self, number: int) -> out_of_fold.Fold:
        context, points = self._judged(self.loaded.spec)
        if self.folder.finished() is None:
            publish.publish(context, self._record(points))
        return out_of_fold.Fold(number, context, self.folder)

    def _judged(self, spec: JobSpec) -> tuple[StageContext, list[SweepPoint]]:
        """Take a spec, or the point of its sweep that does best, through every stage."""
        points: list[SweepPoint] = []
        if spec.sweep:
            spec, points = sweep.choose(spec, self._learn, self._tell_point)
        return self._through(stages_of(spec), spec), points

    def _record(self, points: list[SweepPoint]) -> publish.Record:
        return publish.Record(self.loaded, self.folder, self.uri, self.identity, self.started_at, points)

    def _learn(self, spec: JobSpec) -> StageContext:
        return self._through(LEARNING, spec)

    def _through(self, stages: Sequence[Stage], spec: JobSpec) -> StageContext:
        done: dict[str, StageResult] = {}
        context = StageContext.open(
            spec, self.inputs_of(spec), self.cache, self.mirror, done, self.machine, self.progress, self.log,
            names_of=image_names,
        )  # fmt: skip
        challenge.check(context)  # a champion that cannot be met is found before hours of training
        for stage in stages:
            raise_if_stopped()
            fingerprint = stage.fingerprint(context)
            self._show_stage(stage.name)
            place = self.folder.root / "stages" / stage.name
            self.mirror.restore_stage(stage.name, fingerprint)
            result = find(stage.name, place, fingerprint)
            if result is not None:
                clear(place, fingerprint)
                self.log.info("stage.reused", stage=stage.name, fingerprint=fingerprint)
            else:
                self.log.info("stage.started", stage=stage.name, fingerprint=fingerprint)
                result = compute(stage, context, place, fingerprint)
                self.log.info(
                    "stage.finished", stage=stage.name, fingerprint=fingerprint, seconds=result.seconds
                )
                self.mirror.keep_stage(stage.name, fingerprint)
            done[stage.name] = result
            if stage is audit.STAGE and result.reused and not audit.passed(context):
                audit.tell(context, audit.load_checks(context))  # why nothing is learned, again
        return context

    def _show_stage(self, stage: str) -> None:
        # A fold keeps no state of its own: the state of a run that is whole must not change any more.
        if self.fold_of is None:
            self.folder.write_status(stage=stage)
        else:
            whole, which = self.fold_of
            whole.write_status(stage=f"{which}: {stage}")

    def _tell_point(self, point: SweepPoint) -> None:
        dice = None if point.validation_dice is None else round(point.validation_dice.mean, 4)
        self.log.info(
            "sweep.point", point=point.label, validation_dice=dice, chosen=point.chosen, seconds=point.seconds
        )
