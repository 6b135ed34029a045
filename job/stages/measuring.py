"""Measuring the masks of every rung on images with a truth, by every convention in use."""

import io
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from job import workers
from job.actions import ActionSpace, apply
from job.data.dataset import Dataset, Loaded, Sample
from job.data.features import estimate_field
from job.data.images import pixel_digest
from job.errors import InputError
from job.evaluation.conventions import NATIVE, SCORING, Counts, Key, count_image
from job.evaluation.ladder import BEST_FIXED, NOOP
from job.in_order import Begun, in_order
from job.progress import SharedTask, Task
from job.reward.terms import METRICS, measure
from job.stages.stage import StageContext
from job.storage import packs, tar_files
from job.storage.local import sha256_json
from job.table_making import PIXELS_SCORED, n_pixels, read_ahead
from job.workers import Workers

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
    tuned: Mapping[str, StageContext] | None = None,
) -> Measured:
    """Measure every rung's masks; the no-op's, the best fixed action's and what ships by all conventions.

    `tuned` has the context of the rungs whose masks another segmenter makes, by rung. `keep` gets the no-op's
    mask and that of what ships, image by image: together they may fit in no memory.
    """
    metrics = {name: {metric: np.empty(len(samples)) for metric in METRICS} for name in chosen}
    counts: dict[Key, list[Counts]] = {}
    measured = Measured(metrics, {}, [])
    shown_rungs = list(dict.fromkeys((NOOP, BEST_FIXED, ships)))
    threads = context.machine.threads
    others = {rung: one.segmentations for rung, one in (tuned or {}).items()}

    def begun(measurers: Workers) -> Generator[Begun[_Image], None, None]:
        native = Dataset(samples) if dataset.width else None
        with closing(read_ahead(dataset.load, samples, threads, n_pixels)) as read:
            for i, (sample, loaded) in enumerate(zip(samples, read, strict=True)):
                logits_PHW = context.segmentations.get([loaded.image])[0].logits_PHW
                logits = {rung: one.get([loaded.image])[0].logits_PHW for rung, one in others.items()}
                masks = {
                    name: (logits.get(name, logits_PHW), int(actions_N[i]))
                    for name, actions_N in chosen.items()
                }
                image = measurers.submit(_image, context.space, sample, loaded, native, masks, shown_rungs)
                yield Begun(image, n_pixels(loaded))

    with context.progress.task("measuring", len(samples), "images") as task:
        shared = SharedTask(task)
        with (
            workers.threads(threads, shared) as measurers,
            closing(in_order(begun(measurers), most=PIXELS_SCORED, look=lambda: shared.advance(0))) as images,
        ):
            for i, image in enumerate(images):
                for name, values in image.metrics.items():
                    for metric in METRICS:
                        metrics[name][metric][i] = values[metric]
                for key, count in image.counts.items():
                    counts.setdefault(key, []).append(count)
                measured.pixels.append(image.pixels)
                if keep is not None:
                    keep(samples[i].name, image.shown[NOOP], image.shown[ships])
                shared.advance()
    truths_K4 = next(iter(counts.values()))
    if not any(tp + fn for tp, _, fn, _ in truths_K4):
        raise InputError(
            f"the masks of all {len(samples)} test images are empty: there is nothing to judge by",
            advice="check the masks' grey levels and the annotations: `dataset check` says more",
        )
    measured.counts.update({key: np.stack(rows) for key, rows in counts.items()})
    return measured


@dataclass(frozen=True)
class _Image:
    """What one image adds to `Measured`; `shown` holds the masks of the rungs that are shown."""

    metrics: dict[str, dict[str, float]]
    counts: dict[Key, Counts]
    pixels: str
    shown: dict[str, NDArray[np.bool_]]


def _image(
    space: ActionSpace,
    sample: Sample,
    loaded: Loaded,
    native: Dataset | None,
    chosen: Mapping[str, tuple[NDArray[np.float16], int]],
    shown_rungs: Sequence[str],
    task: Task,
) -> _Image:
    """`chosen[rung]` are the logits `[P, H, W]` that its mask is made of, and its action."""
    assert loaded.truth is not None
    size = (loaded.image.shape[0], loaded.image.shape[1])
    # Many rungs choose the same mask: it is made and measured once.
    of_rung = {name: (id(logits_PHW), action) for name, (logits_PHW, action) in chosen.items()}
    wanted = dict(zip(of_rung.values(), chosen.values(), strict=True))
    row_of = {name: list(wanted).index(key) for name, key in of_rung.items()}
    masks_BHW = np.stack([apply(space, action, logits_PHW, size) for logits_PHW, action in wanted.values()])
    task.advance(0)
    values = measure(masks_BHW, loaded.truth)
    task.advance(0)
    shown = {name: masks_BHW[row_of[name]].copy() for name in shown_rungs}
    counts = _counted(loaded, shown, SCORING)
    if native is not None:
        counts |= _counted(native.load(sample), shown, NATIVE)
    return _Image(
        metrics={
            name: {metric: float(values[metric][row]) for metric in METRICS} for name, row in row_of.items()
        },
        counts=counts,
        pixels=sha256_json([pixel_digest(loaded.image), pixel_digest(loaded.truth)]),
        shown=shown,
    )


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
