"""What a phase is given, and what it leaves: the trained weights in the model, figures, and why it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.data.dataset import Loaded
from job.logs import Log
from job.progress import SILENT, Progress
from job.reward.network import RewardNetwork

DEFAULT_TERMS: Mapping[str, float] = {"dice": 1.0}
"""True terms, with their weights, where a phase names none."""


@dataclass(frozen=True)
class PhaseData:
    """Images of a phase, decoded when they are asked for (`Sequence[i]` may decode each time).

    `labelled` and `validation` have truths; patients are given for the validation images, whose mean is over
    patients. `prompt` is the one that is trained.
    """

    prompt: str
    labelled: Sequence[Loaded]
    unlabelled: Sequence[Loaded]
    validation: Sequence[Loaded]
    validation_patients: Sequence[str]


@dataclass(frozen=True)
class PhaseRoom:
    """Where and with what a phase works."""

    seed: int
    device: str
    log: Log
    resume_folder: Path
    """Survives an interruption: a call that goes on from it ends with the same weights."""
    field: str = "finetune"
    """Where the spec has the phase, such as `finetune[1]`."""
    progress: Progress = SILENT
    networks: Sequence[RewardNetwork] = ()
    """The reward networks of the job, none of which saw the validation images; grpo copies them."""


@dataclass(frozen=True)
class PhaseResult:
    """How a phase went. The model holds the best weights that validation saw, the start among them.

    `curve` has a row each time validation was asked: `step`, `gold` (mean validation Dice over patients),
    `proxy` (what the phase maximises, on the same scale from row to row: what teaching the reward networks
    alone would move is taken out), and `loss`, `kl`, ... where they are known. `best_step` is 0 where
    nothing was better than the start.
    """

    steps: int
    best_step: int
    start_gold: float
    best_gold: float
    ended: str
    """Why: `steps`, `patience`, `reward_hacking`, `overfitting`, `kl` or `diverged`."""
    curve: list[dict[str, float]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Further figures for the record, plain JSON."""
