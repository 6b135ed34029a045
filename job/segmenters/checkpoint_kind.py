"""Of which kind a checkpoint is, by its config.json: a wrong `segmenter.kind` is told before any weight."""

import json

from job.errors import InputError
from job.spec.segmenter import AnySegmenterSpec, PluginSpec, PrecomputedSpec
from job.spec.showing import printable

CONFIG = "config.json"
_KIND_OF = {
    "promptable_unet": "promptable_unet",
    "sa2va_chat": "sa2va",
    "clipseg": "clipseg",
    "sam3": "sam3",
    "sam3_video": "sam3",
}
"""By `model_type`. What else a checkpoint says is for its family to judge."""


def goes_by_config(spec: AnySegmenterSpec) -> bool:
    """Return whether segmenters of this kind are checkpoints with a config.json."""
    return not isinstance(spec, PrecomputedSpec | PluginSpec)


def require_kind(spec: AnySegmenterSpec, config: bytes, place: str) -> None:
    """Raise `InputError` where a config.json is of a checkpoint of another kind than the spec's."""
    try:
        document = json.loads(config)
    except ValueError:
        return  # damaged: the family says what is wrong with it
    model_type = document.get("model_type") if isinstance(document, dict) else None
    kind = _KIND_OF.get(model_type) if isinstance(model_type, str) else None
    if kind is not None and kind != spec.kind:
        raise InputError(
            f"segmenter.uri: {printable(place)} holds a checkpoint of kind {kind}, and segmenter.kind is"
            f" {spec.kind}",
            advice=f'set segmenter.kind to "{kind}", or name another folder',
        )
