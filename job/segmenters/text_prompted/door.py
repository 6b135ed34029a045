"""The door of `clipseg` and `sam3`: the key needs no torch, the network is imported when it is loaded."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from job.data.image_names import ImageNames
from job.segmenters.file_digests import file_digests
from job.segmenters.protocol import Segmenter
from job.segmenters.text_prompted.checkpoint_folder import content_files

Kind = Literal["clipseg", "sam3"]
Dtype = Literal["bfloat16", "float16", "float32"]

REVISION = 1
"""Raised when the same checkpoint and dtype give other logits than before."""


@dataclass(frozen=True)
class TextPromptedFamily:
    """Checkpoints of one of the networks, run in a dtype."""

    kind: Kind
    dtype: Dtype

    def content_key(self, folder: Path, memory: Path | None) -> str:
        """Return a key over weights, configuration, preprocessing, tokenizer and dtype."""
        files = content_files(folder)
        digests = dict(zip((path.name for path in files), file_digests(files, memory), strict=True))
        document = [self.kind, REVISION, self.dtype, digests]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def load(self, folder: Path, device: str, memory: Path | None, names: ImageNames) -> Segmenter:
        """Load the checkpoint; raises what `networks.open_network` raises."""
        from job.segmenters.text_prompted.adapter import TextPromptedSegmenter
        from job.segmenters.text_prompted.networks import open_network

        return TextPromptedSegmenter(
            open_network(self.kind, folder, device, self.dtype), self.content_key(folder, memory)
        )
