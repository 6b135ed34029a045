"""Segmentations kept on disk, so that no (image, prompt) pair is computed twice, not even the next night.

One safetensors file an image: a float16 tensor per prompt at the segmenter's own output size, and the image's
embedding. Files are keyed by the segmenter's content key and the sha256 of the decoded pixels.

Networks round otherwise in another batch, so a file also names the company that its image was asked in. Of a
batch that a kill, or an upload at that moment, tore apart, whatever is left tells who was in it: asked for in
the same company, the others get the bits that they had, or would have had.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.data.images import pixel_digest
from job.errors import IntegrityError
from job.segmenters import telling
from job.segmenters.protocol import Finish, Pipelined, Segmentation, Segmenter
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
        self._unwritten: dict[str, _Kept] = {}
        self._ahead: list[AskedFor] = []

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

    def get(
        self,
        images: Sequence[NDArray[np.uint8]],
        keep: Callable[[Callable[[], None]], object] = lambda write: write(),
        names: Sequence[str] | None = None,
    ) -> list[Segmentation]:
        """Return one segmentation an image, with logits for every prompt in order.

        `keep` is given what is left to do for each image that was computed: writing it to the disk, at any
        time, in any thread. `names` are the images' pixel digests, where they are known.
        """
        return self.begin(images, keep, names).answers()

    def begin(
        self,
        images: Sequence[NDArray[np.uint8]],
        keep: Callable[[Callable[[], None]], object],
        names: Sequence[str] | None = None,
    ) -> "AskedFor":
        """Begin what `get` does: a device may work on it while the call before is seen to."""
        if self._keep and images:
            self._mirror.restore_cache(self._group)  # does something the first time alone
        names = names or [pixel_digest(image) for image in images]
        for one in [one for one in self._ahead if not one.names.isdisjoint(names)]:
            one.answers()  # what they have in common is found then
        # Equal pixels are one image, whatever their names: each is read, asked for and kept once.
        first_of = {name: i for i, name in reversed(list(enumerate(names)))}
        found = {name: self._unwritten.get(name) or self._read(self._path(name)) for name in first_of}
        missing = {name for name, kept in found.items() if self._missing(kept)}
        # All images of the call lack the same prompts in the usual cases (new image, new prompt), and a batch
        # of equal shape gives equal bits: so ask for the union.
        prompts = [p for p in self.prompts if any(_name(p) not in found[n].tensors for n in missing)]
        asked = [
            name
            for name in sorted(first_of, key=first_of.__getitem__)
            if name in missing or (missing and not missing.isdisjoint(found[name].company))
        ]
        pixels = [images[first_of[name]] for name in asked]
        finish = self._begun(pixels, prompts) if missing else None

        def answers() -> list[Segmentation]:
            self._ahead = [one for one in self._ahead if one is not begun]
            whole: dict[str, Segmentation] = {}
            if missing:
                answered = finish() if finish is not None else self.segmenter.segment(pixels, prompts)
                for name, answer in zip(asked, answered, strict=True):
                    if name in missing:
                        found[name] = _added(found[name], prompts, answer, tuple(asked))
                        if tuple(prompts) == self.prompts:
                            whole[name] = _as_promised(answer.logits_PHW, answer.embedding_D, tuple(asked))
                        if self._keep:
                            self._unwritten[name] = found[name]
                            keep(partial(self._write, name, found[name]))
            computed = len(asked) * len(prompts)
            self.computed += computed
            self.cached += max(0, len(images) * len(self.prompts) - computed)
            # What was answered as a whole is handed on as it is: copies cost an accelerator's time.
            return [whole.get(name) or self._segmentation(found[name]) for name in names]

        begun = AskedFor(answers, frozenset(asked), is_ahead=finish is not None)
        if begun.is_ahead:
            self._ahead.append(begun)
        return begun

    def _begun(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> Finish | None:
        segmenter = self.segmenter
        return segmenter.begin(images, prompts) if isinstance(segmenter, Pipelined) else None

    def counts(self) -> dict[str, int]:
        """Return the pairs computed and found, and what else the segmenter counted, if it was opened."""
        told = {} if self._segmenter is None else telling.counts(self._segmenter)
        return {"computed": self.computed, "cached": self.cached, **told}

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter, opened at the first use."""
        if self._segmenter is None:
            self._segmenter = self._open_segmenter()
        return self._segmenter

    def _write(self, name: str, kept: "_Kept") -> None:
        write_tensors(self._path(name), kept.tensors, {"prompts": self.prompts, "company": kept.company})
        if self._unwritten.get(name) is kept:
            del self._unwritten[name]

    def _segmentation(self, kept: "_Kept") -> Segmentation:
        logits_PHW = np.stack([kept.tensors[_name(p)] for p in self.prompts])
        return _as_promised(logits_PHW, kept.tensors[EMBEDDING], kept.company)

    def _missing(self, kept: "_Kept") -> bool:
        return EMBEDDING not in kept.tensors or any(_name(p) not in kept.tensors for p in self.prompts)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _read(self, path: Path) -> "_Kept":
        try:
            tensors, document = read_tensors(path)
        except FileNotFoundError:
            return _Kept()
        except IntegrityError:
            # Damaged by a crash or a failing disk: worth nothing, and can be computed again.
            path.unlink(missing_ok=True)
            return _Kept()
        return _Kept(dict(tensors), tuple(document.get("company", ())))


class AskedFor:
    """A call of the cache that was begun."""

    def __init__(
        self, answer: Callable[[], list[Segmentation]], names: frozenset[str], *, is_ahead: bool
    ) -> None:
        self.names = names
        """Of the images that the segmenter was asked for."""
        self.is_ahead = is_ahead
        """Whether a device works on it already."""
        self._answer: Callable[[], list[Segmentation]] | None = answer
        self._answers: list[Segmentation] = []

    def answers(self) -> list[Segmentation]:
        """Return one segmentation an image, as `SegmentationCache.get` does."""
        if self._answer is not None:
            self._answers, self._answer = self._answer(), None
        return self._answers


@dataclass(frozen=True)
class _Kept:
    """What is known of one image."""

    tensors: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    company: tuple[str, ...] = ()
    """Of the last call that it was in."""


def _added(before: _Kept, prompts: Sequence[str], answer: Segmentation, company: tuple[str, ...]) -> _Kept:
    """Add an answer to what was known of an image."""
    tensors = before.tensors | {_name(p): row for p, row in zip(prompts, answer.logits_PHW, strict=True)}
    return _Kept({**tensors, EMBEDDING: answer.embedding_D}, company)


def _as_promised(
    logits_PHW: NDArray[Any], embedding_D: NDArray[Any], company: tuple[str, ...]
) -> Segmentation:
    # In one memory layout, whichever the segmenter has: sums depend on it.
    return Segmentation(
        np.ascontiguousarray(logits_PHW, np.float16), np.asarray(embedding_D, np.float32), company
    )


def _name(prompt: str) -> str:
    return "logits." + hashlib.sha256(prompt.encode()).hexdigest()[:32]
