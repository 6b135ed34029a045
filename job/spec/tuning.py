"""`sft` and `grpo`: phases of `finetune` that change the segmenter's weights."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from job.spec.actions import Prompt
from job.spec.reward import TrueTermName, Weight
from job.spec.section import Section, broken_rule


class TuningSpec(Section):
    """What both phases have."""

    prompt: Prompt | None = None
    """The prompt that is trained; null: that of the best fixed action on the training images."""
    steps: int = Field(600, ge=1, le=1_000_000)
    """Gradient steps at most."""
    batch_size: int = Field(4, ge=1, le=1024)
    """Crops a step."""
    crop: int | None = Field(256, ge=32, le=4096)
    """Side of the square crops in pixels, at most the image's; null: whole images."""
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0)
    """Adam's largest step size."""
    weight_decay: float = Field(1e-4, ge=0.0, le=1.0)
    """AdamW's decay of weights."""
    max_grad_norm: float = Field(1.0, gt=0.0, le=1e6)
    """Gradient clipping."""
    validate_every: int = Field(50, ge=1, le=1_000_000)
    """Steps between looks at true Dice on the validation images."""
    patience: int = Field(6, ge=1, le=10_000)
    """Looks without a better Dice after which training ends."""


class SftSpec(TuningSpec):
    """Supervised fine-tuning on the labelled training images."""

    algorithm: Literal["sft"]
    """What learns."""
    cldice_weight: float = Field(0.0, ge=0.0, le=10.0)
    """Weight of soft clDice beside cross-entropy and soft Dice."""


class GrpoSpec(TuningSpec):
    """Group relative policy optimisation: masks are sampled around the logits, better ones reinforced."""

    algorithm: Literal["grpo"]
    """What learns."""
    terms: dict[TrueTermName, Weight] | None = Field(None, min_length=1)
    """Reward on labelled images, weights as in `reward.terms`, without `reward_net`; null: that of the job's
    `reward.terms`, or Dice."""
    samples: int = Field(8, ge=2, le=256)
    """Masks a crop."""
    temperature: float = Field(1.0, ge=0.05, le=10.0)
    """Of the sampling: below 1 masks are nearer to the model's own, which is the one that will be used. Far
    below the least they would all be the same, and nothing could be learned from their differences."""
    credit: Literal["mask", "window"] = "window"
    """Whose merit a reward is: a sampled mask's as a whole, or each window's, put into the model's mask."""
    window: int = Field(4, ge=1, le=4096)
    """Side of the windows in pixels, where `credit` is `window`; betti and networks have larger."""
    antithetic: bool = False
    """Sample masks in pairs of opposite noise, of an even number of samples."""
    updates: int = Field(1, ge=1, le=100)
    """Gradient steps on the same samples."""
    clip_range: float = Field(0.2, gt=0.0, le=1.0)
    """Clipping of each pixel's probability ratio; idle with one update."""
    kl_weight: float = Field(0.0, ge=0.0, le=100.0)
    """Weight of the divergence from the phase's start, a pixel."""
    kl_budget: float = Field(1.0, gt=0.0, le=1000.0)
    """Mean divergence from the phase's start, in nats a pixel, beyond which training ends."""
    dice_slack: float = Field(0.0, ge=0.0, le=1.0)
    """Mean Dice on validation that may be given up for `terms` there; 0 keeps the state of best Dice."""
    unlabelled_share: float = Field(0.5, ge=0.0, le=1.0)
    """Share of the steps on unlabelled images, where there are labelled ones too."""
    k_sd: float = Field(1.0, ge=0.0, le=100.0)
    """Standard deviations of the reward networks that are taken off their mean, on unlabelled images."""
    round_every: int = Field(100, ge=1, le=1_000_000)
    """Steps between trainings of the reward networks on what the model then makes of labelled images."""
    round_images: int = Field(8, ge=2, le=10_000)
    """Labelled images of such a training, at most."""
    hide_labels: bool = False
    """Take labelled training images for unlabelled ones: shows what the reward networks alone lead to."""

    @field_validator("terms", mode="before")
    @classmethod
    def _true_terms(cls, value: Any) -> Any:
        if isinstance(value, dict) and "reward_net" in value:
            raise broken_rule("judges unlabelled images alone: remove it", "reward_net")
        return value

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.terms and not any(self.terms.values()):
            raise broken_rule("every weight is 0: the reward would be constant", "terms")
        if self.antithetic and self.samples % 2:
            raise broken_rule(
                f"with antithetic masks come in pairs, got {self.samples}; write {self.samples + 1}",
                "samples",
            )
        if self.credit == "window" and self.crop is not None and self.window > self.crop:
            raise broken_rule(
                f"{self.window} exceeds crop = {self.crop}; write at most that, or credit"
                ' "mask", which judges a crop as a whole',
                "window",
            )
        return self
