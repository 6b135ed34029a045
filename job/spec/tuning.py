"""`sft` and `grpo`: phases of `finetune` that change the segmenter's weights."""

from typing import Literal

from pydantic import Field

from job.spec.actions import Prompt
from job.spec.reward import TermName, Weight
from job.spec.section import Section


class TuningSpec(Section):
    """What both phases have."""

    prompt: Prompt | None = None
    """The prompt that is trained; null: that of the best fixed action on the training images."""
    steps: int = Field(600, ge=1, le=1_000_000)
    """Gradient steps at most."""
    batch_size: int = Field(4, ge=1, le=1024)
    """Crops a step."""
    crop: int | None = Field(256, ge=32, le=4096)
    """Side of the square crops in pixels; null: whole images."""
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0)
    """Adam's largest step size."""
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
    terms: dict[TermName, Weight] | None = None
    """Reward on labelled images; null: the job's `reward.terms` but for `reward_net`, or Dice."""
    samples: int = Field(8, ge=2, le=1024)
    """Masks a crop."""
    kl_weight: float = Field(0.0, ge=0.0, le=100.0)
    """Weight of the divergence from the phase's start."""
