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
from job.data.dataset import Dataset, Sample
from job.errors import InputError
from job.evaluation.conventions import Counts, Key
from job.evaluation.image_measures import Map, MeasuredImage, measure_image, plain_of
from job.evaluation.ladder import BEST_FIXED, NOOP
from job.in_order import Begun, in_order
from job.memory import available_memory
from job.progress import SharedTask
from job.reward.terms import METRICS
from job.stages.stage import StageContext
from job.storage import packs, tar_files
from job.table_bounds import bytes_scored, held_bytes, in_processes
from job.table_making import n_pixels, read_ahead
from job.workers import Workers

MASKS = "masks.tar"
BEFORE, AFTER = "before", "after"
WORK_OF_SHAPES = 4
"""A mask whose skeleton and Betti numbers are measured takes as long as so many that are only counted."""

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
    space, threads = context.space, context.machine.threads
    others = {rung: one.segmentations for rung, one in (tuned or {}).items()}

    def begun(measurers: Workers) -> Generator[Begun[MeasuredImage], None, None]:
        native = Dataset([]) if dataset.width else None  # loads any sample
        with closing(read_ahead(dataset.load, samples, threads, n_pixels)) as read:
            for i, (sample, loaded) in enumerate(zip(samples, read, strict=True)):
                logits_PHW = context.segmentations.get([loaded.image])[0].logits_PHW
                logits = {rung: one.get([loaded.image])[0].logits_PHW for rung, one in others.items()}
                of_rung = {
                    name: (name if name in logits else "", int(actions_N[i]))
                    for name, actions_N in chosen.items()
                }
                # Many rungs choose the same mask: it is made and measured once, of the one map that it needs.
                distinct = list(dict.fromkeys(of_rung.values()))
                maps = [Map.of(logits.get(rung, logits_PHW), action, space) for rung, action in distinct]
                row_of = {name: distinct.index(one) for name, one in of_rung.items()}
                image = measurers.submit(
                    measure_image, plain_of(space), sample, loaded, native, maps, row_of, shown_rungs
                )
                carried = sum(one.logits_HW.nbytes for one in maps)
                yield Begun(image, held_bytes(n_pixels(loaded), carried, measurers.copies))

    with context.progress.task("measuring", len(samples), "images") as task:
        shared = SharedTask(task)
        with (
            workers.many(
                threads, shared, is_large=_is_large(dataset, samples, len(chosen), threads)
            ) as measurers,
            closing(
                in_order(
                    begun(measurers),
                    most=bytes_scored(measurers.copies, available_memory()),
                    look=lambda: shared.advance(0),
                )
            ) as images,
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


def _is_large(dataset: Dataset, samples: Sequence[Sample], n_masks: int, threads: int) -> bool:
    if threads <= workers.MOST_THREADS:
        return False
    return in_processes(n_pixels(dataset.load(samples[0])), len(samples), n_masks * WORK_OF_SHAPES, threads)


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
