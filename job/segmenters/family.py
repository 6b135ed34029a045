"""What stands behind a kind of segmenter: how its folder is known by content, and how it is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from job.segmenters.protocol import Segmenter

NameOf = Callable[[NDArray[np.uint8]], str]
"""Gives the name that an image goes by in its data set; raises `InputError` for one that nobody named."""


class Family(Protocol):
    """A kind of segmenter with the options of a spec.

    Both methods raise FileNotFoundError, or an error of `job.errors`, for a folder that does not suit.
    """

    def content_key(self, folder: Path, memory: Path | None) -> str:
        """Return 64 hex digits over all that shapes the logits, without loading the model.

        The folder `memory`, where given, remembers digests of large files.
        """

    def load(self, folder: Path, device: str, memory: Path | None, name_of: NameOf) -> Segmenter:
        """Load the model onto a device; its `key` is what `content_key` returns."""
