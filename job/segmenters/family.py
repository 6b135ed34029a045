"""What stands behind a kind of segmenter: how its folder is known by content, and how it is loaded."""

from pathlib import Path
from typing import Protocol

from job.data.image_names import ImageNames
from job.segmenters.protocol import Segmenter


class Family(Protocol):
    """A kind of segmenter with the options of a spec.

    Both methods raise FileNotFoundError, or an error of `job.errors`, for a folder that does not suit.
    """

    def content_key(self, folder: Path, memory: Path | None) -> str:
        """Return 64 hex digits over all that shapes the logits, without loading the model.

        The folder `memory`, where given, remembers digests of large files.
        """

    def load(self, folder: Path, device: str, memory: Path | None, names: ImageNames) -> Segmenter:
        """Load the model onto a device; its `key` is what `content_key` returns.

        `names` tells a segmenter that goes by names what an image is called.
        """
