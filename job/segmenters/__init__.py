"""Segmenters: the protocol, one package a model family, and the one place that knows them all."""

import time
from pathlib import Path

from job.errors import InputError
from job.logs import Log
from job.segmenters.protocol import Segmentation, Segmenter
from job.spec.actions import SegmenterSpec
from job.stopping import raise_if_stopped

__all__ = ["Segmentation", "Segmenter", "content_key", "load"]


def content_key(spec: SegmenterSpec, folder: Path) -> str:
    """Return the key of a checkpoint without loading it: it names cached logits."""
    from job.segmenters.promptable_unet import adapter

    try:
        return adapter.content_key(folder)
    except FileNotFoundError as error:
        raise _not_a_checkpoint(spec, error) from error


def load(spec: SegmenterSpec, folder: Path, device: str, log: Log) -> Segmenter:
    """Load the checkpoint that a spec names; raises `InputError` when it is not one."""
    from job.segmenters.checked import CheckedSegmenter
    from job.segmenters.promptable_unet.adapter import PromptableUNetSegmenter
    from job.segmenters.stoppable import StoppableSegmenter

    started = time.monotonic()
    segmenter: Segmenter
    try:
        segmenter = PromptableUNetSegmenter.load(folder, device)
    except FileNotFoundError as error:
        raise _not_a_checkpoint(spec, error) from error
    log.info("segmenter.loaded", kind=spec.kind, device=device, seconds=round(time.monotonic() - started, 2))
    if device == "cpu":  # an accelerator's call takes a second, and compiled networks bear no hooks
        segmenter = StoppableSegmenter(segmenter, raise_if_stopped)
    return CheckedSegmenter(segmenter, warn=lambda message: log.warning("job.warning", message=message))


def _not_a_checkpoint(spec: SegmenterSpec, error: Exception) -> InputError:
    return InputError(f"segmenter.uri: {error}", advice=f"name a folder that holds a {spec.kind} checkpoint")
