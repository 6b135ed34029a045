"""The door of `precomputed`. No torch here or behind it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from job.data.image_names import ImageNames
from job.errors import InputError
from job.segmenters.file_digests import file_digests
from job.segmenters.precomputed.adapter import REVISION, PrecomputedSegmenter
from job.segmenters.precomputed.layout import ENDINGS, PROMPTS, Layout
from job.segmenters.protocol import Segmenter


@dataclass(frozen=True)
class PrecomputedFamily:
    """Folders of probabilities."""

    def content_key(self, folder: Path, memory: Path | None) -> str:
        """Return a key over name and content of every file of probabilities; raises `InputError` for none."""
        files = sorted(path for ending in ENDINGS for path in folder.glob(f"*/*{ending}") if path.is_file())
        if not files:
            raise InputError(
                f"{folder} holds no probabilities: <image>/<prompt>.npz or .png are looked for",
                advice="name the folder that holds a folder for each image (docs/segmenters.md)",
            )
        files += [path for path in (folder / PROMPTS,) if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files]
        document = ["precomputed", REVISION, list(zip(names, file_digests(files, memory), strict=True))]
        return hashlib.sha256(json.dumps(document).encode()).hexdigest()

    def load(self, folder: Path, device: str, memory: Path | None, names: ImageNames) -> Segmenter:
        """Return a segmenter that reads the files; raises `IntegrityError` for a prompts.json of no use."""
        return PrecomputedSegmenter(Layout.of(folder), names, self.content_key(folder, memory))
