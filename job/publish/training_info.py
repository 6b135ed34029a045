"""`training_info.json`: one document that says what was run, on what, and what came out."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from job.checks.result import CheckResult
from job.evaluation.results import EvaluationResults
from job.metrics.statistics import Interval, Uplift
from job.reward.probes import Probe


class Record(BaseModel):
    """A frozen part of the document; unknown keys are refused, and numbers that are not finite are words."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Provenance(Record):
    """Where the result comes from."""

    versions: dict[str, str]
    """Program, Python and library versions."""
    git_commit: str | None
    device: str
    """`cpu` or `cuda`, and the device's name."""
    threads: int
    platform: str


class BadImage(Record):
    """An image that was left out because it cannot be used."""

    dataset: str
    """The field of the spec that names its folder."""
    file: str
    """What is wrong: an image, a mask or a field of view, below that folder."""
    what: str


class DataSummary(Record):
    """What was learned from and judged on."""

    uri: str
    width: int | None
    images: dict[str, int]
    """Split -> images."""
    patients: dict[str, int]
    """Split -> patients."""
    digests: dict[str, str]
    """Split -> sha256 over its images and masks."""
    bad_images: list[BadImage] = []
    """Left out with `data.on_bad_image` skip; the counts are without them."""


class StageSummary(Record):
    """One stage of this run."""

    name: str
    fingerprint: str
    reused: bool
    """True where a finished result of the same fingerprint was taken."""
    seconds: float
    """Time that the stage took when it was computed: the last attempt's, where it was interrupted."""
    machines: list[str] = []
    """What computed it: device and threads; several where it was begun on one and finished on another."""


class ActionSummary(Record):
    """One action."""

    index: int
    prompt: str
    postprocess: dict[str, Any]
    label: str


class RewardSummary(Record):
    """The reward network."""

    terms: dict[str, float]
    source: str
    """`embedded`, `scratch` or the uri it came from."""
    epochs: list[dict[str, float]]
    """Per epoch: epoch, train_mse, validation_mse (of the final network)."""
    best_epoch: int
    validation: dict[str, float]
    """mse, mae, r2, spearman (within image), regret (of the arg-max), interval_halfwidth."""
    normalised: bool
    scales: dict[str, float]
    """Per term, what it was divided by: 1 where not normalised."""
    probes: list[Probe]
    """What it says of masks made to fool it, on validation images."""


class SeedSummary(Record):
    """One of the trainings that differ by their seed alone."""

    seed: int
    validation_dice: float
    """Mean over validation patients of the policy's choices."""
    entropy: float
    """Of the trained policy on validation images, as a share of a uniform one's."""
    ships: bool
    """True for the one of median validation Dice: the candidate."""


class FinetuneSummary(Record):
    """The policy's training: of the seed that is the candidate, unless it says otherwise."""

    total_timesteps: int
    """Steps taken, whole rollouts."""
    iterations: list[dict[str, float]]
    """Per rollout: timesteps, ep_rew_mean, gt_dice, reward_net_score, best_reward, entropy,
    explained_variance, value_loss, policy_gradient_loss, approx_kl, clip_fraction, fps."""
    checkpoints: list[str]
    seeds: list[SeedSummary]
    """Every training, in the order of seeds; empty where nothing was trained."""


class PhaseSummary(Record):
    """A phase that changed the segmenter's weights. It keeps the step that validation liked best."""

    name: str
    """`sft`, `grpo`, `grpo_2`: the name of its rung, and of its checkpoint below `segmenter/`."""
    algorithm: Literal["sft", "grpo"]
    prompt: str
    """The prompt that was trained."""
    key: str
    """Content key of the segmenter that it made."""
    steps: int
    """Gradient steps taken."""
    best_step: int
    """0 where nothing was better than its start."""
    ended: str
    """`steps`: all were taken; `patience`: validation did not get better; `reward_hacking`: the reward rose
    while true Dice fell; `overfitting`: the same, where the reward is true terms of training images alone;
    `kl`: it went too far from its start; `diverged`: something was not finite, which `facts` name."""
    start_dice: float
    """Mean validation Dice of the trained prompt at the threshold 0.5 before the phase."""
    best_dice: float
    curve: list[dict[str, float]]
    """At each look: step, gold (that Dice), proxy (what the phase maximises; grpo tells its
    parts too: proxy_labelled by true terms, proxy_unlabelled by networks) and others."""
    facts: dict[str, Any]
    """What else the phase tells."""


class SweepPoint(Record):
    """One setting of a sweep, on validation images: test images judge the chosen one alone."""

    label: str
    """The values that it sets, such as `learning_rate 0.0005, n_epochs 20`."""
    values: dict[str, Any]
    """Dotted path -> value."""
    validation_dice: Interval | None
    """Of the policy (the validation-median seed); null where nothing was trained."""
    vs_first: Uplift | None
    """Paired validation Dice difference of the policy to the first point's."""
    seeds_dice: list[float]
    """Validation Dice of every seed's policy."""
    valid: bool
    """False where a validity check failed: nothing was trained."""
    chosen: bool
    seconds: float
    """Time that its stages took when they were computed."""
    reused: list[str]
    """Stages that it shares with an earlier point or run."""


class FoldSummary(Record):
    """One fold: a run of its own, tested on patients that it never saw."""

    fold: int
    """From 1."""
    run: str
    """Its folder below this run's."""
    patients: list[str]
    """Its test patients."""
    setting: str
    """The point of the sweep that it chose; empty without a sweep."""
    ships: str
    verdict: str
    validation_dice: float
    """Of what it shipped: the figure that it was chosen by."""
    dice_before: float
    """No-op on its test patients."""
    dice_after: float
    """What it shipped, on its test patients."""
    weights: list[PhaseSummary] = []
    """Its phases that changed the segmenter's weights."""


class DriftStatistic(Record):
    """One image statistic: what the champion knew, and what is new since."""

    name: str
    mean_known: float
    mean_new: float
    shift: float
    """Difference of the means in standard deviations of the known images."""


class Drift(Record):
    """What is new since the champion was made: images that its run did not have."""

    known_images: int
    new_images: int
    statistics: list[DriftStatistic]
    """Largest shift first; empty without new images."""
    actions_known: list[float]
    """Share of known images on which the champion chooses each of its actions."""
    actions_new: list[float]
    actions_labels: list[str]
    champion_dice_known: Interval | None
    """The champion's Dice on annotated images that its run had but did not learn from, mean over patients."""
    champion_dice_new: Interval | None
    """The champion's Dice on annotated images that are new; null without any."""
    sentence: str
    """What to make of it."""


class Promotion(Record):
    """What ships against the champion, on the test images that neither has learned from."""

    decision: Literal["promote", "keep", "invalid"]
    sentence: str
    """Why, in words that stand alone."""
    champion: str | None
    """The champion's run, `runs/<name>/<run_id>`; null where there is none and the no-op takes its place."""
    champion_candidate: str
    """What it does, in one line."""
    generation: int
    """Of the champion that was compared with; 0 for none."""
    n_images: int
    n_patients: int
    left_out: int
    """Test images that the champion learned from: on those it cannot be judged."""
    champion_dice: Interval | None
    challenger_dice: Interval | None
    vs_champion: Uplift | None
    """Paired Dice difference, challenger minus champion; null where nothing could be compared."""
    drift: Drift | None
    """Null without a champion."""


class TrainingInfo(Record):
    """The whole document."""

    schema_version: Literal[1] = 1
    name: str
    run_id: str
    run_uri: str
    started_at: str
    finished_at: str
    exit_code: int
    spec: dict[str, Any]
    """The resolved spec."""
    origins: dict[str, str]
    """Dotted path -> where its value came from, for every value that is not a default."""
    provenance: Provenance
    data: DataSummary
    segmenter: dict[str, str]
    """kind, uri, key."""
    segmentations: dict[str, int]
    """computed and cached (image, prompt) pairs of this attempt, and what else its segmenter counted."""
    agreement: dict[str, float] | None = None
    """Of a segmenter's fast way with the model's own, on random pairs: `mean_iou` and others; null: not
    compared."""
    actions: list[ActionSummary]
    stages: list[StageSummary]
    checks: list[CheckResult]
    reward: RewardSummary
    finetune: FinetuneSummary
    weights: list[PhaseSummary] = []
    """The phases that changed the segmenter's weights; with folds each fold has its own."""
    skipped: list[str] = []
    """The phases that a failed validity check kept from running, such as `ppo` and `sft`; with folds those
    of any fold."""
    results: EvaluationResults
    sweep: list[SweepPoint]
    """Every setting that was tried; empty without a `sweep` section."""
    folds: list[FoldSummary]
    """With `data.split` folds: each fold's run. Results are then out-of-fold on all images, and `ships` is
    `selected`: what each fold chose."""
    promotion: Promotion | None = None
    """Null where the spec does not promote."""
    results_digest: str
