"""Segmenters of other packages, found by a Python entry point of the group `segmenter_rl_job.segmenters`.

An entry point names a module, or any object, that offers two functions: `content_key(folder, options)` and
`load(folder, options, device)`. Installing a package vouches for its code; a spec can name no other.
"""

import hashlib
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.data.image_names import ImageNames
from job.errors import JobError, SpecError
from job.segmenters.chatter import kept_out
from job.segmenters.protocol import Segmentation, Segmenter

GROUP = "segmenter_rl_job.segmenters"


@dataclass(frozen=True)
class PluginFamily:
    """The plug-in of a name with a spec's options."""

    name: str
    options: Mapping[str, Any]

    def content_key(self, folder: Path, memory: Path | None) -> str:
        """Return a key over the plug-in's own, its name, its package's version and the options.

        Raises `SpecError` for a plug-in that is not installed, or for options that it refuses.
        """
        point = entry_point(self.name)
        with self._blamed("content_key", of_options=True):
            own = _offered(point, "content_key")(folder, dict(self.options))
        if not isinstance(own, str) or not own:
            raise self._broken(f"content_key returned {type(own).__name__} {str(own)[:40]!r}, not a text")
        version = point.dist.version if point.dist is not None else ""
        document = ["plugin", self.name, version, own, dict(self.options)]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def load(self, folder: Path, device: str, memory: Path | None, names: ImageNames) -> Segmenter:
        """Load the plug-in's segmenter; its answers are held to the protocol."""
        key = self.content_key(folder, memory)
        with self._blamed("load", of_options=True):
            segmenter = _offered(entry_point(self.name), "load")(folder, dict(self.options), device)
        if not callable(getattr(segmenter, "segment", None)):
            raise self._broken("load returned an object without a method `segment`")
        return _Held(self, segmenter, key)

    @contextmanager
    def _blamed(self, function: str, *, of_options: bool = False) -> Iterator[None]:
        """Within: what the plug-in prints goes to the debug log, and what it raises is its own.

        Of its options, a ValueError or TypeError is its word on them. Errors of this program, of files and
        for want of memory are passed on: others know what to do about them.
        """
        try:
            with kept_out():
                yield
        except (JobError, OSError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            from job.segmenters.checked import is_out_of_memory

            if isinstance(error, Exception) and is_out_of_memory(error):
                raise
            if of_options and isinstance(error, ValueError | TypeError):
                raise SpecError(
                    f"segmenter.options: the plug-in {self.name} refuses them: {error}",
                    advice="write what its documentation asks for",
                ) from error
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise SpecError(
                f"segmenter.name: the plug-in {self.name} failed in {function}: {type(error).__name__}:"
                f" {str(error)[:200]} ({Path(where.filename).name}, line {where.lineno})",
                advice="mend the plug-in, use another version, or write the options that it needs",
            ) from error

    def _broken(self, what: str) -> SpecError:
        return SpecError(
            f"segmenter.name: the plug-in {self.name} does not keep to the protocol: {what}",
            advice="mend the plug-in (docs/segmenters.md says what it must offer), or use another version",
        )


class _Held:
    """A plug-in's segmenter whose answers are looked at: what they break would be blamed on others."""

    def __init__(self, family: PluginFamily, segmenter: Segmenter, key: str) -> None:
        self.key = key
        self._family = family
        self._segmenter = segmenter
        self._length: int | None = None
        """Of an embedding, as the first answer has it."""

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Return what the plug-in says; raises `SpecError` where it is no answer."""
        with self._family._blamed("segment"):
            answers = list(self._segmenter.segment(images, prompts))
        if len(answers) != len(images):
            raise self._family._broken(f"{len(answers)} answers to {len(images)} images")
        for answer in answers:
            if why := self._broken(answer, len(prompts)):
                raise self._family._broken(why)
        return answers

    def _broken(self, answer: Any, n_prompts: int) -> str | None:
        if not isinstance(answer, Segmentation):
            return f"an answer is a {type(answer).__name__}, not a job.segmenters.Segmentation"
        logits, embedding = answer.logits_PHW, answer.embedding_D
        if logits.dtype != np.float16 or logits.ndim != 3 or len(logits) != n_prompts or not logits.size:
            return f"logits are {logits.dtype} {tuple(logits.shape)}, not float16 [P, h, w]"
        if embedding.dtype != np.float32 or embedding.ndim != 1:
            return f"an embedding is {embedding.dtype} {tuple(embedding.shape)}, not float32 [D]"
        self._length = self._length or len(embedding)
        if len(embedding) != self._length:
            return f"embeddings have {self._length} numbers and {len(embedding)}, not one length"
        return None


def entry_point(name: str) -> metadata.EntryPoint:
    """Return the entry point of a name, importing nothing; raises `SpecError` naming those there are."""
    points = metadata.entry_points(group=GROUP)
    found = [point for point in points if point.name == name]
    if not found:
        there = ", ".join(sorted({point.name for point in points})) or "none"
        raise SpecError(
            f"segmenter.name: no installed package offers a segmenter called {name!r}; there are: {there}",
            advice="pip install the package that offers it, where the job runs",
        )
    if len({point.value for point in found}) > 1:
        offered = ", ".join(point.value for point in found)
        raise SpecError(
            f"segmenter.name: several packages offer a segmenter called {name!r}: {offered}",
            advice="uninstall all of them but one",
        )
    return found[0]


def _offered(point: metadata.EntryPoint, function: str) -> Callable[..., Any]:
    try:
        found = getattr(point.load(), function)
    except (ImportError, AttributeError) as error:
        raise SpecError(
            f"segmenter.name: the plug-in {point.name} ({point.value}) cannot be used: {error}",
            advice="install what it needs, or a version of it that offers content_key and load",
        ) from error
    called: Callable[..., Any] = found
    return called
