"""Of which kind a checkpoint is, by its config.json: a wrong `segmenter.kind` is told before any weight."""

import json
import re
from collections.abc import Collection

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
_TRAINED = re.compile(r"(?:^|/)segmenter/[^/]+(?=/config\.json$)")
_MOST_NAMED = 4


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


def require_no_run(files: Collection[str], place: str, setting: str) -> None:
    """Raise `InputError` where a folder is a run, holds runs, or is a run's folder of checkpoints.

    `files` are of the folder `place`, relative to it: its own, and what runs trained below. `setting` is the
    field, or the option, that names it.
    """
    if CONFIG in files:
        return
    place = printable(place.rstrip("/"))
    paths = (f"{place}/{file}" for file in sorted(files))
    trained = [path[: found.end()] for path in paths if (found := _TRAINED.search(path))]
    if trained:
        more = f" or {len(trained) - _MOST_NAMED} more" if len(trained) > _MOST_NAMED else ""
        raise InputError(
            f"{setting}: {place} is no checkpoint, but holds those that runs trained",
            advice=f"name one of them: {', '.join(trained[:_MOST_NAMED])}{more}",
        )
    if "manifest.json" in files and "_SUCCESS" in files:
        raise InputError(
            f"{setting}: {place} is a run that trained no weights, and no checkpoint",
            advice="name the checkpoint folder that the run worked with (segmenter.uri in its spec.json)",
        )
