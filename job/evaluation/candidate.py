"""What ships: a segmenter, a chooser of actions and a judge, loadable from one folder on any machine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from job.actions import ActionSpace, PostProcess, apply, apply_all
from job.data.features import statistics_vector
from job.errors import InputError, IntegrityError
from job.evaluation.ladder import Ladder, Rung
from job.finetune.choosers import RidgeChooser
from job.finetune.observation import Observer
from job.finetune.policy import Policy
from job.publish.local_run import local_run, require_as_sealed
from job.reward import network_file
from job.reward.calibration import quality_interval
from job.reward.network import NetworkJudge
from job.reward.terms import Judge, score
from job.segmenters.protocol import Segmentation
from job.segmenters.registry import enlarged_by_way_of
from job.spec.actions import PostProcessSpec, Prompt
from job.spec.segmenter import SegmenterSpec
from job.storage.documents import parse_as, read_bytes
from job.storage.local import write_atomic
from job.storage.tensor_file import read_tensors, write_tensors

CANDIDATE = "candidate.json"
POLICY = "policy.safetensors"
RIDGE = "ridge.safetensors"
NETWORK = "reward/best_reward_net.safetensors"
EXACT_POLICY = "exact_policy.safetensors"
PARTS = (CANDIDATE, POLICY, RIDGE, NETWORK, EXACT_POLICY, "segmenter")
"""Files and folders of a run that a candidate needs; a run has some of them."""
ChooserKind = Literal["fixed", "ridge", "ppo", "exact", "reward_net"]


class CandidateFile(BaseModel):
    """`candidate.json`: everything that prediction needs besides the tensors beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: Literal[1] = 1
    name: str
    """The rung of the ladder that was chosen."""
    verdict: str
    """Of the run that made it: improved, no-improvement or inconclusive."""
    segmenter: SegmenterSpec
    segmenter_key: str
    segmenter_folder: str | None = Field(None, pattern=r"^segmenter/[a-z0-9_]+$")
    """Folder beside this file with the checkpoint, where the job changed the segmenter's weights; null: it is
    where `segmenter` says."""
    today_key: str | None = None
    """Content key of `segmenter` where `segmenter_folder` takes its place: it makes the no-op's masks."""
    width: int | None = Field(ge=1, le=8192)
    """Width in pixels that images are worked on at; null: their own."""
    prompts: list[Prompt] = Field(min_length=1, max_length=256)
    postprocess: list[dict[str, Any]] = Field(min_length=1, max_length=256)
    chooser: ChooserKind
    action: int
    """The fixed action; for other choosers the best fixed one, to compare with."""
    interval_halfwidth: float
    """Half-width of the interval of a predicted quality."""
    confidence: float
    review_below: float
    """Predicted quality below which a mask is flagged for review."""
    trained_on: list[str]
    """sha256 of the pixels of every image that shaped this candidate."""

    @model_validator(mode="after")
    def _action_exists(self) -> "CandidateFile":
        for settings in self.postprocess:
            PostProcessSpec.model_validate(settings)  # the ranges that a spec allows
        if not 0 <= self.action < len(self.space):
            raise ValueError(f"no action {self.action} among {len(self.space)}")
        return self

    @property
    def space(self) -> ActionSpace:
        """The actions that it chooses from."""
        postprocess = tuple(PostProcess(**p) for p in self.postprocess)
        return ActionSpace(tuple(self.prompts), postprocess, enlarged_by_way_of(self.segmenter))


@dataclass(frozen=True)
class Prediction:
    """What a candidate makes of an image; `quality` is the predicted Dice, `low..high` its interval."""

    mask_HW: NDArray[np.bool_]
    noop_HW: NDArray[np.bool_]
    action: int
    quality: float
    low: float
    high: float
    review: bool


@dataclass(frozen=True)
class Candidate:
    """A loaded candidate: `predict` needs the image and its segmentation, never a truth."""

    file: CandidateFile
    judge: Judge
    policy: Policy | None = None
    observer: Observer | None = None
    ridge: RidgeChooser | None = None
    folder: Path = Path()
    """Where candidate.json lies."""

    def predict(
        self,
        image_HWC: NDArray[np.uint8],
        segmentation: Segmentation,
        fov_HW: NDArray[np.bool_] | None = None,
        today: Segmentation | None = None,
    ) -> Prediction:
        """Choose an action for an image (at the working width), make its mask and predict the mask's Dice.

        `fov_HW` is the field of view where the data set has one, as it had when the chooser was fitted; None
        has it estimated. `today` is what the segmenter said before its weights were changed, of the first
        prompt at least: the no-op's mask is made of it, else of `segmentation`.
        """
        space, size = self.file.space, (image_HWC.shape[0], image_HWC.shape[1])
        action = self._choose(image_HWC, segmentation, fov_HW)
        mask_HW = apply(space, action, segmentation.logits_PHW, size)
        plain = replace(space, prompts=space.prompts[:1])
        noop_HW = apply(plain, 0, (today or segmentation).logits_PHW[:1], size)
        quality = float(self._judged(image_HWC, mask_HW[None])[0])
        low, high = quality_interval(quality, self.file.interval_halfwidth)
        return Prediction(mask_HW, noop_HW, action, quality, low, high, quality < self.file.review_below)

    def _choose(
        self, image_HWC: NDArray[np.uint8], segmentation: Segmentation, fov_HW: NDArray[np.bool_] | None
    ) -> int:
        if self.file.chooser == "fixed":
            return self.file.action
        if self.file.chooser == "reward_net":
            size = (image_HWC.shape[0], image_HWC.shape[1])
            masks_KHW = apply_all(self.file.space, segmentation.logits_PHW, size)
            return int(self._judged(image_HWC, masks_KHW).argmax())
        _, statistics = statistics_vector(image_HWC, fov_HW, segmentation.logits_PHW)
        embedding_1E, statistics_1S = segmentation.embedding_D[None], statistics[None]
        if self.policy is not None:
            return int(self.policy.choose(embedding_1E, statistics_1S)[0])
        assert self.ridge is not None
        assert self.observer is not None
        return int(self.ridge.choose(self.observer.observe(embedding_1E, statistics_1S))[0])

    def _judged(self, image_HWC: NDArray[np.uint8], masks_BHW: NDArray[np.bool_]) -> NDArray[np.float64]:
        # By the same way as the table's scores, which the interval and the choice of this candidate rest on.
        return score(masks_BHW, None, ["reward_net"], image_HWC=image_HWC, judge=self.judge)["reward_net"]


def chooser_kind(rung: Rung) -> ChooserKind:
    """Return how the candidate of a rung chooses."""
    if rung.fixed is not None:
        return "fixed"
    kinds: dict[str, ChooserKind] = {
        "ridge": "ridge",
        "ppo": "ppo",
        "exact": "exact",
        "reward_net": "reward_net",
    }
    return kinds[rung.name]


def decisive_file(file: CandidateFile) -> str | None:
    """Return the file beside candidate.json that its choices rest on; None for a fixed action."""
    files = {"ridge": RIDGE, "ppo": POLICY, "exact": EXACT_POLICY, "reward_net": NETWORK}
    return files.get(file.chooser)


def save(folder: Path, file: CandidateFile, ladder: Ladder) -> None:
    """Write `candidate.json` and the chooser's tensors; network and PPO policy are other stages'."""
    if file.chooser == "ridge":
        tensors = {f"ridge.{name}": values for name, values in ladder.ridge.to_tensors().items()}
        tensors |= {f"observer.{name}": values for name, values in ladder.observer.to_tensors().items()}
        write_tensors(folder / RIDGE, tensors, {"statistic_names": ladder.observer.statistic_names})
    if file.chooser == "exact":
        ladder.policies["exact"].save(folder / EXACT_POLICY)
    write_atomic(folder / CANDIDATE, file.model_dump_json(indent=1) + "\n")


def find(place: Path) -> Path:
    """Return the candidate.json that a path names: the file, a run folder, a folder of runs, or models/NAME.

    Raises InputError when there is none.
    """
    path = place
    if place.is_dir():
        path = (place if (place / CANDIDATE).exists() else local_run(str(place.resolve()))) / CANDIDATE
    if not path.is_file():
        advice = "name a finished run's folder or its candidate.json"
        if (path.parent / "folds").is_dir():
            advice = f"a run of folds measures a procedure and ships nothing: name {path.parent}/folds/1"
        raise InputError(f"{path}: no candidate there", advice=advice)
    return path


def load(place: Path, device: str) -> Candidate:
    """Load the candidate that a path names.

    Raises InputError for what is missing, IntegrityError for parts that are damaged, not those that the run
    published, or made for other actions or statistics than candidate.json lists.
    """
    path = find(place)
    file = parse_as(
        CandidateFile,
        read_bytes(path),
        str(path),
        what="a candidate of this program",
        advice="fetch an undamaged copy of the run folder",
    )
    folder = path.parent
    require_as_sealed(folder.resolve(), [CANDIDATE, NETWORK, *filter(None, [decisive_file(file)])])
    judge = NetworkJudge([network_file.load(_there(folder / NETWORK))], device)
    if file.chooser in ("ppo", "exact"):
        place = folder / (POLICY if file.chooser == "ppo" else EXACT_POLICY)
        policy = Policy.load(_there(place))
        labels = tuple(action.label for action in file.space)
        _check_fits(place, policy.observer, file, policy.actions == labels)
        return Candidate(file, judge, policy=policy, folder=folder)
    if file.chooser == "ridge":
        observer, ridge = _ridge_file(_there(folder / RIDGE))
        fits = ridge.weights_DK.shape == (observer.size, len(file.space))
        _check_fits(folder / RIDGE, observer, file, fits)
        return Candidate(file, judge, observer=observer, ridge=ridge, folder=folder)
    return Candidate(file, judge, folder=folder)


def _there(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"{path}: missing, the run folder is incomplete", advice="fetch the whole run folder"
        )
    return path


def _check_fits(path: Path, observer: Observer, file: CandidateFile, fits_actions: bool) -> None:
    # The names follow from the number of prompts alone: any picture gives them.
    blank_HWC, blank_PHW = np.zeros((8, 8, 3), np.uint8), np.zeros((len(file.prompts), 8, 8), np.float16)
    names, _ = statistics_vector(blank_HWC, None, blank_PHW)
    if not fits_actions or observer.statistic_names != names:
        what = "statistics" if fits_actions else "actions"
        raise IntegrityError(
            f"{path}: made for other {what} than those of the {CANDIDATE} beside it",
            advice="fetch both from one run, undamaged",
        )


def _ridge_file(path: Path) -> tuple[Observer, RidgeChooser]:
    tensors, document = read_tensors(path)
    try:
        observer = Observer.from_tensors(_part(tensors, "observer"), document["statistic_names"])
        return observer, RidgeChooser.from_tensors(_part(tensors, "ridge"))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{path}: not a ridge chooser of this program: {error}",
            advice="fetch an undamaged copy of the run folder",
        ) from error


def _part(tensors: dict[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    prefix = name + "."
    return {key.removeprefix(prefix): values for key, values in tensors.items() if key.startswith(prefix)}


def describe(file: CandidateFile) -> str:
    """Say in one line what a candidate does."""
    if file.chooser == "fixed":
        return f"{file.name}: {file.space[file.action].label}"
    return f"{file.name}: chooses among {len(file.space)} actions per image"
