"""Segmentations kept on disk, so that no (image, prompt) pair is computed twice, not even the next night.

One safetensors file an image: a float16 tensor per prompt at the segmenter's own output size, and the image's
embedding. Files are keyed by the segmenter's content key and the sha256 of the decoded pixels.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.data.images import pixel_digest
from job.errors import IntegrityError
from job.segmenters.protocol import Segmentation, Segmenter
from job.storage.mirror import Mirror, NoMirror
from job.storage.tensor_file import read_tensors, write_tensors

EMBEDDING = "embedding"


class SegmentationCache:
    """Answers from the disk where it can, from the segmenter where it must.

    The segmenter is opened at the first miss: a run that finds everything loads no model.
    """

    def __init__(
        self,
        root: Path,
        *,
        key: str,
        prompts: Sequence[str],
        keep: bool,
        open_segmenter: Callable[[], Segmenter],
        mirror: Mirror | None = None,
    ) -> None:
        self.key = key
        self.prompts = tuple(prompts)
        self.computed = 0
        """(image, prompt) pairs that the segmenter computed."""
        self.cached = 0
        """(image, prompt) pairs that were found on disk."""
        self._root = root
        self._group = f"logits/{key[:32]}"
        self._folder = root / self._group
        self._keep = keep
        self._mirror = mirror or NoMirror()
        self._open_segmenter = open_segmenter
        self._segmenter: Segmenter | None = None

    def of(
        self, *, key: str, prompts: Sequence[str], open_segmenter: Callable[[], Segmenter]
    ) -> "SegmentationCache":
        """Return the cache of another segmenter, or of other prompts, on this disk; it counts by itself."""
        return SegmentationCache(
            self._root,
            key=key,
            prompts=prompts,
            keep=self._keep,
            open_segmenter=open_segmenter,
            mirror=self._mirror,
        )

    def get(self, images: Sequence[NDArray[np.uint8]]) -> list[Segmentation]:
        """Return one segmentation an image, with logits for every prompt in order."""
        if self._keep and images:
            self._mirror.restore_cache(self._group)  # does something the first time alone
        paths = [self._path(image) for image in images]
        # Equal pixels are one image, whatever their names: each is read, asked for and kept once.
        first_of = {path: i for i, path in reversed(list(enumerate(paths)))}
        found = {path: self._read(path) for path in first_of}
        known = [found[path] for path in paths]
        missing = [i for i in sorted(first_of.values()) if self._missing(known[i])]
        computed = 0
        if missing:
            # All images of the call lack the same prompts in the usual cases (new image, new prompt), and a
            # batch of equal shape gives equal bits: so ask for the union.
            prompts = [p for p in self.prompts if any(_name(p) not in known[i] for i in missing)]
            answers = self.segmenter.segment([images[i] for i in missing], prompts)
            for i, answer in zip(missing, answers, strict=True):
                known[i] |= {_name(p): row for p, row in zip(prompts, answer.logits_PHW, strict=True)}
                known[i][EMBEDDING] = answer.embedding_D
                if self._keep:
                    write_tensors(paths[i], known[i], {"prompts": self.prompts})
            computed = len(missing) * len(prompts)
        self.computed += computed
        self.cached += len(images) * len(self.prompts) - computed
        return [
            Segmentation(
                np.stack([tensors[_name(p)] for p in self.prompts], dtype=np.float16),
                np.asarray(tensors[EMBEDDING], dtype=np.float32),
            )
            for tensors in known
        ]

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter, opened at the first use."""
        if self._segmenter is None:
            self._segmenter = self._open_segmenter()
        return self._segmenter

    def _missing(self, tensors: dict[str, NDArray[np.generic]]) -> bool:
        return EMBEDDING not in tensors or any(_name(p) not in tensors for p in self.prompts)

    def _path(self, image: NDArray[np.uint8]) -> Path:
        return self._folder / f"{pixel_digest(image)}.safetensors"

    def _read(self, path: Path) -> dict[str, NDArray[np.generic]]:
        try:
            return dict(read_tensors(path)[0])
        except FileNotFoundError:
            return {}
        except IntegrityError:
            # Damaged by a crash or a failing disk: worth nothing, and can be computed again.
            path.unlink(missing_ok=True)
            return {}


def _name(prompt: str) -> str:
    return "logits." + hashlib.sha256(prompt.encode()).hexdigest()[:32]
