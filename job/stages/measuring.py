"""Measuring the masks of every rung on images with a truth, by every convention in use."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job.actions import apply
from job.data.dataset import Dataset, Loaded, Sample
from job.data.features import estimate_field
from job.data.images import pixel_digest
from job.errors import InputError
from job.evaluation.conventions import NATIVE, SCORING, Counts, Key, count_image
from job.evaluation.ladder import BEST_FIXED, NOOP
from job.progress import track
from job.reward.terms import METRICS, measure
from job.stages.stage import StageContext
from job.storage import packs, tar_files
from job.storage.local import sha256_json

MASKS = "masks.tar"
BEFORE, AFTER = "before", "after"

Mask = NDArray[np.bool_]
Keep = Callable[[str, Mask, Mask], None]
"""Takes a sample's name, and its masks before and after."""


@dataclass(frozen=True)
class Measured:
    """What masks scored: `metrics[rung][metric]` `[N]`, `counts[key]` `[N, 4]`."""

    metrics: dict[str, dict[str, NDArray[np.float64]]]
    counts: dict[Key, Counts]
    pixels: list[str]


def measure_masks(
    context: StageContext,
    dataset: Dataset,
    samples: Sequence[Sample],
    chosen: Mapping[str, NDArray[np.int64]],
    ships: str,
    keep: Keep | None = None,
) -> Measured:
    """Measure every rung's masks; the no-op's, the best fixed action's and what ships by all conventions.

    `keep` gets the no-op's mask and that of what ships, image by image: together they may fit in no memory.
    """
    metrics = {name: {metric: np.empty(len(samples)) for metric in METRICS} for name in chosen}
    counts: dict[Key, list[Counts]] = {}
    measured = Measured(metrics, {}, [])
    native = Dataset(samples) if dataset.width else None
    for i, sample in enumerate(track(context.progress, "measuring", samples, len(samples), "images")):
        loaded = dataset.load(sample)
        assert loaded.truth is not None
        size = (loaded.image.shape[0], loaded.image.shape[1])
        logits_PHW = context.segmentations.get([loaded.image])[0].logits_PHW
        wanted = sorted({int(actions_N[i]) for actions_N in chosen.values()})
        masks_BHW = np.stack([apply(context.space, action, logits_PHW, size) for action in wanted])
        values = measure(masks_BHW, loaded.truth)
        row_of = {name: wanted.index(int(actions_N[i])) for name, actions_N in chosen.items()}
        for name, row in row_of.items():
            for metric in METRICS:
                metrics[name][metric][i] = values[metric][row]
        shown = {name: masks_BHW[row_of[name]] for name in dict.fromkeys((NOOP, BEST_FIXED, ships))}
        found = _counted(loaded, shown, SCORING)
        if native is not None:
            found |= _counted(native.load(sample), shown, NATIVE)
        for key, count in found.items():
            counts.setdefault(key, []).append(count)
        measured.pixels.append(sha256_json([pixel_digest(loaded.image), pixel_digest(loaded.truth)]))
        if keep is not None:
            keep(sample.name, shown[NOOP], shown[ships])
    truths_K4 = next(iter(counts.values()))
    if not any(tp + fn for tp, _, fn, _ in truths_K4):
        raise InputError(
            f"the masks of all {len(samples)} test images are empty: there is nothing to judge by",
            advice="check the masks' grey levels and the annotations: `dataset check` says more",
        )
    measured.counts.update({key: np.stack(rows) for key, rows in counts.items()})
    return measured


def _counted(loaded: Loaded, masks: Mapping[str, NDArray[np.bool_]], resolution: str) -> dict[Key, Counts]:
    assert loaded.truth is not None
    inside_HW = loaded.fov if loaded.fov is not None else estimate_field(loaded.image)
    return count_image(masks, loaded.truth, inside_HW, resolution)


@contextmanager
def keeping_masks(folder: Path) -> Iterator[Keep]:
    """Write masks as pictures, `before/<name>.png` and `after/<name>.png`, of one archive in `folder`.

    To a store that is one object, in place of two an image.
    """
    with packs.writing(folder / MASKS) as add:

        def keep(name: str, before_HW: Mask, after_HW: Mask) -> None:
            add(f"{BEFORE}/{name}.png", png_of(before_HW))
            add(f"{AFTER}/{name}.png", png_of(after_HW))

        yield keep


def kept_masks(folder: Path) -> dict[tuple[str, str], bytes]:
    """Return the pictures of `keeping_masks`, for `mask_of`, by `BEFORE` or `AFTER` and the sample's name."""
    archive, kept = folder / MASKS, {}
    for member in tar_files.members(archive, str(archive)):
        which, _, name = member.path.removesuffix(".png").partition("/")
        kept[which, name] = member.file.read()
    return kept


def mask_of(png: bytes) -> Mask:
    """Return the mask that `png_of` made a picture of."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image, dtype=np.bool_)


def png_of(mask_HW: Mask) -> bytes:
    """Return a mask as a PNG of one bit a pixel."""
    buffer = io.BytesIO()
    Image.fromarray(mask_HW).save(buffer, "PNG")
    return buffer.getvalue()
