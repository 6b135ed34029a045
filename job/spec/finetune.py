"""`finetune`: what learns.

PPO over the action table is here, with stable-baselines3's names and the reference's values.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from job.spec.section import Section, Uri, broken_rule
from job.spec.tuning import GrpoSpec, SftSpec

Width = Annotated[int, Field(ge=1, le=8192)]


class NetArch(Section):
    """Hidden layers of the policy and of the value network."""

    pi: list[Width] = Field([128, 64], max_length=8)
    """Policy."""
    vf: list[Width] = Field([128, 64], max_length=8)
    """Value function."""


class FinetuneSpec(Section):
    """Proximal policy optimisation of a policy that chooses an action per image."""

    algorithm: Literal["ppo"] = "ppo"
    """What learns."""
    policy_uri: Uri | None = None
    """A policy to start from, or with total_timesteps 0 only to judge: `policy.safetensors`, a run folder,
    or a run's name folder (its newest run)."""
    init: Literal["prior", "random"] = "prior"
    """`prior` starts from the table's mean training reward per action; `random` as the reference did."""
    rollout: Literal["table", "live"] = "table"
    """`table` looks rewards up; `live` calls the segmenter at every step, as the reference did."""
    total_timesteps: int = Field(10_000, ge=0, le=1_000_000_000)
    """Environment steps, rounded up to whole rollouts; 0 trains nothing."""
    seeds: int = Field(3, ge=1, le=100)
    """Trainings, with `seed` and the next ones; the one of median validation Dice is the candidate."""
    n_envs: int = Field(2, ge=1, le=1024)
    """Parallel environments."""
    learning_rate: float = Field(3e-4, gt=0.0, le=1.0)
    """Adam's step size."""
    n_steps: int = Field(128, ge=1, le=1_000_000)
    """Steps an environment takes per rollout."""
    batch_size: int = Field(64, ge=2, le=1_000_000)
    """Steps a minibatch."""
    n_epochs: int = Field(10, ge=1, le=1000)
    """Passes over each rollout."""
    gamma: float = Field(0.99, ge=0.0, le=1.0)
    """Discount; idle while episodes have one step."""
    gae_lambda: float = Field(0.95, ge=0.0, le=1.0)
    """Generalised advantage estimation; idle while episodes have one step."""
    clip_range: float = Field(0.2, gt=0.0, le=1.0)
    """Clipping of the probability ratio."""
    ent_coef: float = Field(0.01, ge=0.0, le=10.0)
    """Weight of the entropy bonus."""
    vf_coef: float = Field(0.5, ge=0.0, le=100.0)
    """Weight of the value loss."""
    max_grad_norm: float = Field(0.5, gt=0.0, le=1000.0)
    """Gradient clipping."""
    net_arch: NetArch = NetArch()
    """Hidden layers."""
    pca_components: int = Field(4, ge=0, le=48)
    """Principal components of the segmenter's embedding in the observation."""
    checkpoint_every: int = Field(1000, ge=1, le=1_000_000_000)
    """Environment steps between checkpoints."""

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        rollout = self.n_steps * self.n_envs
        if self.batch_size > rollout:
            raise broken_rule(
                f"{self.batch_size} exceeds n_steps x n_envs = {rollout}; write at most {rollout}",
                "batch_size",
            )
        if rollout % self.batch_size == 1:
            raise broken_rule(
                f"{self.batch_size} leaves a minibatch of one step of {rollout} (n_steps x n_envs), whose"
                " advantage cannot be normalised; choose a divisor",
                "batch_size",
            )
        return self


WeightPhase = SftSpec | GrpoSpec
Phase = Annotated[FinetuneSpec | WeightPhase, Field(discriminator="algorithm")]
Phases = Annotated[list[Phase], Field(min_length=1, max_length=8)]
ONE, SEVERAL = "one", "several"


def _one_or_several(value: Any) -> str:
    return SEVERAL if isinstance(value, list | tuple) else ONE


OneOrSeveral = Annotated[
    Annotated[Phase, Tag(ONE)] | Annotated[Phases, Tag(SEVERAL)], Discriminator(_one_or_several)
]
"""A phase, or a list of phases."""
