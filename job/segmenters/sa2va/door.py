"""The door of `sa2va`: its key needs no torch, its model is imported when it is loaded."""

from dataclasses import dataclass
from pathlib import Path

from job.data.image_names import ImageNames
from job.segmenters.protocol import Segmenter
from job.segmenters.sa2va.content import content_key
from job.segmenters.sa2va.options import Sa2vaOptions


@dataclass(frozen=True)
class Sa2vaFamily:
    """Sa2VA checkpoints; `uri` is what the user calls the folder."""

    options: Sa2vaOptions
    uri: str

    def content_key(self, folder: Path, memory: Path | None) -> str:
        """Return the key of weights, code and options."""
        return content_key(folder, self.options, memory)

    def load(self, folder: Path, device: str, memory: Path | None, names: ImageNames) -> Segmenter:
        """Load the checkpoint; raises `IntegrityError` for code that nobody vouches for."""
        from job.segmenters.sa2va.adapter import Sa2vaSegmenter

        return Sa2vaSegmenter.load(folder, device, self.options, uri=self.uri, memory=memory)
