"""Segmenters: the protocol, one package a model family, and the door through which a spec gets at them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job.data.image_names import NAMELESS, ImageNames
from job.errors import InputError
from job.logs import Log
from job.segmenters.protocol import Segmentation, Segmenter
from job.segmenters.registry import enlarged_by_way_of, family_of, open_trainable
from job.spec.segmenter import AnySegmenterSpec, PrecomputedSpec
from job.stopping import raise_if_stopped

__all__ = [
    "Segmentation",
    "Segmenter",
    "content_key",
    "enlarged_by_way_of",
    "load",
    "open_trainable",
    "require_same",
]


def content_key(spec: AnySegmenterSpec, folder: Path, memory: Path | None = None) -> str:
    """Return the key of a checkpoint without loading it: it names cached logits.

    The folder `memory`, where given, remembers digests of large files. Raises what the family raises, and
    `InputError` for a folder that is no checkpoint of the spec's kind.
    """
    with _blamed_on(spec):
        return family_of(spec).content_key(folder, memory)


def require_same(spec: AnySegmenterSpec, folder: Path, key: str, memory: Path | None = None) -> str:
    """Return the content key of the folder that `key` was taken from; raises `InputError` for another one.

    A folder of precomputed probabilities grows with the data, so that its key says nothing about the model
    behind it: that it is still the same one is for whoever writes it to see to.
    """
    found = content_key(spec, folder, memory)
    if found != key and not isinstance(spec, PrecomputedSpec):
        raise InputError(
            f"{folder} is not the segmenter that it was made for",
            advice="use the checkpoint and the program version of that run, or run the job again",
        )
    return found


def load(
    spec: AnySegmenterSpec,
    folder: Path,
    device: str,
    log: Log,
    *,
    memory: Path | None = None,
    names: ImageNames = NAMELESS,
) -> Segmenter:
    """Load the checkpoint that a spec names; raises what the family raises, `InputError` when it is not one.

    `names` tells a segmenter that goes by names what an image is called.
    """
    from job.segmenters.checked import CheckedSegmenter
    from job.segmenters.stoppable import StoppableSegmenter

    started = time.monotonic()
    with _blamed_on(spec):
        segmenter = family_of(spec).load(folder, device, memory, names)
    log.info("segmenter.loaded", kind=spec.kind, device=device, seconds=round(time.monotonic() - started, 2))
    if device == "cpu":  # an accelerator's call takes a second, and compiled networks bear no hooks
        segmenter = StoppableSegmenter(segmenter, raise_if_stopped)
    return CheckedSegmenter(segmenter, warn=lambda message: log.warning("job.warning", message=message))


@contextmanager
def _blamed_on(spec: AnySegmenterSpec) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"segmenter.uri: {error}",
            advice=f"name a folder that holds a {spec.kind} checkpoint, or set segmenter.kind",
        ) from error
