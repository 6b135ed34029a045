"""What a segmenter must offer for its weights to learn: logits with a gradient, and a checkpoint folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Trainable(Protocol):
    """A network whose weights may learn; it computes in float32 on one device."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return what may train, by name."""

    def state(self) -> dict[str, Tensor]:
        """Return a copy of all that training changes: parameters, and buffers such as running statistics."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""

    def train(self, mode: bool) -> None:
        """Switch layers that act otherwise while training, such as batch normalisation."""

    def logits(self, pixels_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return float32 logits `[B, P, H, W]` of uint8 RGB images under every prompt, with a gradient."""

    def save(self, folder: Path) -> None:
        """Write a checkpoint folder that the family's `load`, and transformers, read."""
