"""`training_info.json`: one document that says what was run, on what, and what came out."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from job.checks.result import CheckResult
from job.evaluation.results import EvaluationResults


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


class StageSummary(Record):
    """One stage of this run."""

    name: str
    fingerprint: str
    reused: bool
    """True where a finished result of the same fingerprint was taken."""
    seconds: float
    """Time that the stage took when it was computed."""


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


class FinetuneSummary(Record):
    """The policy's training."""

    total_timesteps: int
    """Steps taken, whole rollouts."""
    iterations: list[dict[str, float]]
    """Per rollout: timesteps, ep_rew_mean, gt_dice, reward_net_score, best_reward, entropy,
    explained_variance, value_loss, policy_gradient_loss, approx_kl, clip_fraction, fps."""
    checkpoints: list[str]


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
    """computed and cached (image, prompt) pairs of this attempt."""
    actions: list[ActionSummary]
    stages: list[StageSummary]
    checks: list[CheckResult]
    reward: RewardSummary
    finetune: FinetuneSummary
    results: EvaluationResults
    results_digest: str
