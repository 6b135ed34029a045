"""Which family stands behind a spec's segmenter. No family is imported before it is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from job.segmenters.family import Family
from job.segmenters.sa2va.options import Sa2vaOptions
from job.spec.segmenter import (
    AnySegmenterSpec,
    ClipsegSpec,
    PluginSpec,
    PrecomputedSpec,
    PromptableUNetSpec,
    Sa2vaSpec,
    Sam3Spec,
)

if TYPE_CHECKING:
    from job.segmenters.trainable import Trainable

SAM2_INPUT_SIZE = (1024, 1024)
"""Of SAM 2's images: all of Sa2VA's variants have it in their code."""


def family_of(spec: AnySegmenterSpec) -> Family:
    """Return the family of a spec's kind, with the spec's options."""
    match spec:
        case PromptableUNetSpec():
            from job.segmenters.promptable_unet.door import PromptableUNetFamily

            return PromptableUNetFamily()
        case Sa2vaSpec():
            from job.segmenters.sa2va.door import Sa2vaFamily

            return Sa2vaFamily(sa2va_options(spec), spec.uri)
        case ClipsegSpec() | Sam3Spec():
            from job.segmenters.text_prompted.door import TextPromptedFamily

            return TextPromptedFamily(spec.kind, spec.dtype)
        case PrecomputedSpec():
            from job.segmenters.precomputed.door import PrecomputedFamily

            return PrecomputedFamily()
        case PluginSpec():
            from job.segmenters.plugin import PluginFamily

            return PluginFamily(spec.name, spec.options)
    assert_never(spec)


def open_trainable(spec: PromptableUNetSpec, folder: Path, device: str) -> "Trainable":
    """Open a checkpoint whose weights are to learn; raises what `load` raises."""
    from job.segmenters.promptable_unet.trainable import open_trainable as open_network

    return open_network(folder, device)


def enlarged_by_way_of(spec: AnySegmenterSpec) -> tuple[int, int] | None:
    """Return the size that the family's own code enlarges logits to before the image's; None: at once."""
    return SAM2_INPUT_SIZE if isinstance(spec, Sa2vaSpec) else None


def sa2va_options(spec: Sa2vaSpec) -> Sa2vaOptions:
    """Return how a spec wants a Sa2VA checkpoint run."""
    return Sa2vaOptions(**spec.model_dump(exclude={"kind", "uri", "batch_size", "verify_pairs"}))
