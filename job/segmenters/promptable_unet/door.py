"""The door of `promptable_unet`."""

from dataclasses import dataclass
from pathlib import Path

from job.data.image_names import ImageNames
from job.segmenters.promptable_unet import content
from job.segmenters.protocol import Segmenter


@dataclass(frozen=True)
class PromptableUNetFamily:
    """The embedded network, or a user's own checkpoint of its kind."""

    def content_key(self, folder: Path, memory: Path | None) -> str:
        """Return the checkpoint's key; it is small, and read anew each time."""
        return content.content_key(folder)

    def load(self, folder: Path, device: str, memory: Path | None, names: ImageNames) -> Segmenter:
        """Load the checkpoint."""
        from job.segmenters.promptable_unet import adapter

        return adapter.PromptableUNetSegmenter.load(folder, device)
