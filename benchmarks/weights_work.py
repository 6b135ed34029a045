"""What a process of a benchmark does: train a run, choose its action on validation, score test images."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import specialist
from benchmarks.specialist import SpecialistSpec
from benchmarks.weights_phases import train_student, train_unguarded
from benchmarks.weights_runs import (
    CHECKPOINT,
    RESULT,
    RESUME,
    Base,
    Result,
    Run,
    SelfTraining,
    Setting,
    Unguarded,
    labelled_samples,
)
from job import device, segmenters
from job.actions import ActionSpace, MaskBlocks, PostProcess, apply_all
from job.data.dataset import Dataset, Loaded
from job.data.on_demand import OnDemand
from job.errors import DeadlineReached
from job.finetune.choosers import best_fixed
from job.logs import Log, Output
from job.reward import network_file
from job.reward.examples import LabelledImages
from job.reward.network import RewardNetwork
from job.reward.terms import METRICS, measure, score
from job.reward.training import fit
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT
from job.spec.actions import ActionsSpec
from job.spec.reward import RewardNetworkSpec
from job.spec.runtime import RuntimeSpec
from job.spec.segmenter import PromptableUNetSpec
from job.spec.tuning import GrpoSpec, SftSpec
from job.storage import strict_json
from job.tuning.grpo import train_grpo
from job.tuning.phase import PhaseData, PhaseResult, PhaseRoom
from job.tuning.sft import train_sft

LogitsOf = Callable[[NDArray[np.uint8]], NDArray[np.float16]]
_SEGMENTER = PromptableUNetSpec(kind="promptable_unet")


def actions() -> ActionSpace:
    """Return the actions of a spec that names none."""
    spec = ActionsSpec()
    postprocess = tuple(PostProcess(**setting.model_dump()) for setting in spec.postprocess)
    return ActionSpace(tuple(spec.prompts), postprocess)


def prepare(setting: Setting, threads: int) -> None:
    """Set up a process before its first run."""
    device.prepare(RuntimeSpec(device="cuda" if setting.device == "cuda" else "cpu", threads=threads))


def work(run: Run, setting: Setting, root: Path, deadline: float) -> Result | None:
    """Train and judge a run; None where time was up before, with its progress saved."""
    began, folder = time.monotonic(), root / run.name
    if time.time() >= deadline:
        return None
    try:
        result = _Work(run, setting, root, _Until(deadline)).result()
    except DeadlineReached:
        return None
    return {**result, "seconds": time.monotonic() - began, "folder": str(folder)}


class _Work:
    def __init__(self, run: Run, setting: Setting, root: Path, until: "_Until") -> None:
        self._run, self._setting, self._root, self._until = run, setting, root, until
        self._folder = root / run.name
        self._device = "cuda" if setting.device == "cuda" else "cpu"
        self._images = _images(setting.data, setting.width)

    def result(self) -> Result:
        what = self._run.what
        match what:
            case Base():
                return self._base()
            case RewardNetworkSpec():
                return self._networks(what)
            case SpecialistSpec():
                return self._specialist(what)
            case _:
                return self._phase(what)

    def _base(self) -> Result:
        logits_of = self._logits_of(EMBEDDED_CHECKPOINT)
        dice_NK = self._dice(actions(), logits_of, self._run.sides.train)
        prompt = actions()[best_fixed(dice_NK)].prompt
        return {"prompt": prompt, **self._judged(actions(), logits_of, 0)}

    def _networks(self, what: RewardNetworkSpec) -> Result:
        space, logits_of = actions(), self._logits_of(EMBEDDED_CHECKPOINT)
        fitted = fit(
            self._labelled(self._run.sides.train, space, logits_of),
            self._labelled(self._run.sides.validation, space, logits_of),
            settings=what,
            start=network_file.load_embedded(),
            seed=self._run.seed,
            device=self._device,
            progress=self._until,
            scratch=self._folder / RESUME,
        )
        for n, network in enumerate((fitted.final, *fitted.folds)):
            network_file.save(network, self._folder / f"network_{n}.safetensors")
        return {"judge": asdict(fitted.validation), "best_epoch": fitted.best_epoch}

    def _specialist(self, what: SpecialistSpec) -> Result:
        with self._until.task("specialist", what.steps, "step") as task:
            trained = specialist.train(
                what,
                self._loaded(self._run.sides.train),
                self._loaded(self._run.sides.validation),
                self._patients(self._run.sides.validation),
                seed=self._run.seed,
                device=self._device,
                folder=self._folder / RESUME,
                task=task,
            )

        def logits_of(image: NDArray[np.uint8]) -> NDArray[np.float16]:
            return specialist.predict(trained.network, what, image, self._device)

        space = ActionSpace(("vessels",), actions().postprocess)
        gold = {row["step"]: row["gold"] for row in trained.curve}
        return {
            **self._judged(space, logits_of, 0),
            "steps": what.steps,
            "best_step": trained.best_step,
            "best_gold": gold[trained.best_step],
            "ended": "steps",
            "curve": trained.curve,
            "parameters": sum(p.numel() for p in trained.network.parameters()),
        }

    def _phase(self, what: SftSpec | GrpoSpec | SelfTraining | Unguarded) -> Result:
        run, sides = self._run, self._run.sides
        assert run.start is not None, f"{run.name} has no start"
        started: Result = strict_json.loads((self._root / run.start / RESULT).read_text())
        # A `Base` run took no steps and has no weights of its own; those of any other run must be there.
        start = self._root / run.start / CHECKPOINT if "steps" in started else EMBEDDED_CHECKPOINT
        model = segmenters.open_trainable(_SEGMENTER, start, self._device)
        data = PhaseData(
            prompt=started["prompt"],
            labelled=self._loaded(sides.train),
            unlabelled=[Loaded(one.image, None, one.fov) for one in self._loaded(sides.unlabelled)],
            validation=self._loaded(sides.validation),
            validation_patients=self._patients(sides.validation),
        )
        room = PhaseRoom(
            seed=run.seed,
            device=self._device,
            log=_log(),
            resume_folder=self._folder / RESUME,
            progress=self._until,
            networks=self._trained_networks(),
        )
        result: PhaseResult
        match what:
            case SftSpec():
                result = train_sft(what, model, data, room)
            case GrpoSpec():
                result = train_grpo(what, model, data, room)
            case SelfTraining():
                result = train_student(what.phase, what.confidence, model, data, room)
            case Unguarded():
                result = train_unguarded(what.phase, model, data, room)
        model.save(self._folder / CHECKPOINT)
        trained = actions().prompts.index(data.prompt) * len(actions().postprocess)
        logits_of = self._logits_of(self._folder / CHECKPOINT)
        return {
            "prompt": data.prompt,
            **self._judged(actions(), logits_of, trained),
            "steps": result.steps,
            "best_step": result.best_step,
            "start_gold": result.start_gold,
            "best_gold": result.best_gold,
            "ended": result.ended,
            "curve": result.curve,
            "facts": result.facts,
        }

    def _judged(self, space: ActionSpace, logits_of: LogitsOf, plain: int) -> Result:
        """Choose the best fixed action on validation; measure it, and the action `plain`, on test images."""
        dice_NK = self._dice(space, logits_of, self._run.sides.validation)
        chosen = best_fixed(dice_NK)
        test: dict[str, dict[str, dict[str, float]]] = {"plain": {}, "chosen": {}}
        for name in self._run.sides.test:
            loaded = self._images[name][1]
            assert loaded.truth is not None
            masks_KHW = apply_all(space, logits_of(loaded.image), loaded.truth.shape)[[plain, chosen]]
            measured = measure(masks_KHW, loaded.truth)
            for b, which in enumerate(test):
                test[which][name] = {metric: float(measured[metric][b]) for metric in METRICS}
        return {
            "plain": space[plain].label,
            "chosen": space[chosen].label,
            "validation": float(dice_NK[:, chosen].mean()),
            "validation_plain": float(dice_NK[:, plain].mean()),
            "test": test,
        }

    def _dice(self, space: ActionSpace, logits_of: LogitsOf, names: Sequence[str]) -> NDArray[np.float64]:
        rows = []
        for loaded in self._loaded(names):
            assert loaded.truth is not None
            masks_KHW = apply_all(space, logits_of(loaded.image), loaded.truth.shape)
            rows.append(score(masks_KHW, loaded.truth, ["dice"])["dice"])
        return np.stack(rows)

    def _logits_of(self, checkpoint: Path) -> LogitsOf:
        segmenter = segmenters.load(_SEGMENTER, checkpoint, self._device, _log())
        return lambda image: segmenter.segment([image], actions().prompts)[0].logits_PHW

    def _labelled(self, names: Sequence[str], space: ActionSpace, logits_of: LogitsOf) -> LabelledImages:
        loaded = self._loaded(names)
        truths = [one.truth for one in loaded if one.truth is not None]

        def masks_of(i: int, image: NDArray[np.uint8]) -> MaskBlocks:
            return MaskBlocks(space, logits_of(image), truths[i].shape, len(space))

        sizes = [(one.image.shape[0], one.image.shape[1]) for one in loaded]
        images = OnDemand(len(loaded), lambda i: loaded[i].image)
        return LabelledImages(images, truths, self._patients(names), sizes, len(space), masks_of)

    def _trained_networks(self) -> list[RewardNetwork]:
        if self._run.networks is None:
            return []
        files = sorted((self._root / self._run.networks).glob("network_*.safetensors"))
        return [network_file.load(path) for path in files]

    def _loaded(self, names: Sequence[str]) -> list[Loaded]:
        return [self._images[name][1] for name in names]

    def _patients(self, names: Sequence[str]) -> list[str]:
        return [self._images[name][0] for name in names]


class _Until:
    """A `Progress` that ends everything when the time is up; trainings save themselves on that."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    @contextmanager
    def task(self, what: str, total: int, unit: str) -> Iterator["_Until"]:
        """Open the task."""
        yield self

    def advance(self, steps: int = 1, **figures: float) -> None:
        """Raise DeadlineReached when the time is up."""
        if time.time() >= self._deadline:
            raise DeadlineReached("the time of this benchmark is up")


@lru_cache(maxsize=1)
def _images(data: str, width: int) -> dict[str, tuple[str, Loaded]]:
    """Return every labelled image by name, with its patient."""
    dataset = Dataset(labelled_samples(Path(data)), width)
    return {sample.name: (sample.patient, dataset.load(sample)) for sample in dataset.samples}


@lru_cache(maxsize=1)
def _log() -> Log:
    return Output(level="error", stream=io.StringIO()).log
