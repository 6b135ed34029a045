"""Making the action table: while the segmenter works, images are read ahead, and scored behind it."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from job import table_bounds, workers
from job.actions import ActionSpace
from job.data.dataset import Dataset, Loaded, Sample
from job.in_order import Begun, in_order, nothing_to_do, then
from job.memory import available_memory
from job.progress import SILENT_TASK, Progress, SharedTask, Task
from job.rows import Row, RowCache, write_row
from job.scoring import Measured, needs_whole_masks, score_image
from job.segmenters.cache import AskedFor, SegmentationCache
from job.segmenters.protocol import Segmentation
from job.table import ActionTable
from job.workers import Workers

T = TypeVar("T")

PIXELS_OF_A_BATCH = 16_000_000
"""Of images that go through the segmenter together, a thousand of 128 px: of larger ones a batch has fewer.
With P prompts they and their logits take 5 + 2 P bytes a pixel, twice where a device is a batch ahead."""
PIXELS_SCORED = 16_000_000
"""Of images whose masks are made side by side: one of more than half is alone."""
PIXELS_AHEAD = 8_000_000
"""Of images that are read before the segmenter asks for them, 5 bytes a pixel."""
BYTES_PER_MASK_PIXEL = 2
"""What scoring needs per pixel of a mask: the mask, and what its skeleton leaves of it."""


def build(
    dataset: Dataset,
    samples: Sequence[Sample],
    space: ActionSpace,
    cache: SegmentationCache,
    *,
    terms: Sequence[str],
    batch_size: int,
    memory_bytes: int,
    threads: int,
    progress: Progress,
    rows: RowCache | None = None,
    device: str = "cpu",
) -> ActionTable:
    """Segment every sample with every prompt, apply every post-processing, and score against the truth.

    A row that `rows` remembers is taken from there, bit for bit. Masks take `memory_bytes`, what else is
    held has bounds too, whatever the number of images. Samples without a mask get NaN scores. The segmenter
    is asked in the caller's thread, images are scored by `threads` workers; their number changes no bit. On
    another `device` than the CPU masks are made there, in a thread of its own beside the segmenter, and
    workers score what is left: the bits are the same.
    """
    remembered = rows or RowCache(None)
    built: list[Row] = []
    row_of: dict[str, Row] = {}
    with progress.task("action table", len(samples), "images") as task, ExitStack() as pools:
        shared = SharedTask(task)
        scorers = pools.enter_context(_scorers(dataset, samples, len(space), threads, device, shared))
        asked = _Asked(
            dataset, samples, space, cache, remembered, terms, batch_size, memory_bytes, scorers,
            pools.enter_context(workers.threads(threads, shared)),
            pools.enter_context(workers.threads(1, shared)), device,
        )  # fmt: skip
        most = table_bounds.bytes_scored(scorers.copies, available_memory())
        with closing(in_order(asked.rows(), most=most, look=lambda: shared.advance(0))) as found:
            for one in found:
                if one is None:
                    continue
                remembered.computed += one.is_new
                remembered.reused += not one.is_new
                built.append(row_of.setdefault(one.key, one.row) if one.row else row_of[one.key])
                shared.advance()
    return ActionTable(
        names=tuple(sample.name for sample in samples),
        patients=tuple(sample.patient for sample in samples),
        splits=tuple(sample.split or "" for sample in samples),
        scores={term: np.stack([row.scores[term] for row in built]) for term in terms},
        diversity_N=np.array([row.diversity for row in built]),
        embeddings_NE=np.stack([row.embedding_E for row in built]),
        statistics_NS=np.stack([row.statistics_S for row in built]),
        statistic_names=built[0].statistic_names,
        judges={judge: np.stack([row.judges[judge] for row in built]) for judge in built[0].judges},
    )


def read_ahead(
    read: Callable[[Sample], T], samples: Sequence[Sample], threads: int, pixels: Callable[[T], int]
) -> Generator[T, None, None]:
    """Yield what `read` gives of each sample, in order; meanwhile others are read: `PIXELS_AHEAD` of them."""
    largest = PIXELS_AHEAD  # until one was read
    with workers.threads(threads, SharedTask(SILENT_TASK)) as readers:
        begun = (Begun(readers.submit(lambda one, task: read(one), sample), largest) for sample in samples)
        with closing(in_order(begun, most=PIXELS_AHEAD)) as found:
            for i, one in enumerate(found):
                largest = max(pixels(one), largest if i else 0)
                yield one


def batches(items: Iterable[T], most: int, pixels: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield what goes through the segmenter together: `most` items, fewer where images are large."""
    batch: list[T] = []
    for one in items:
        batch.append(one)
        if len(batch) == most or sum(map(pixels, batch)) >= PIXELS_OF_A_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def n_pixels(loaded: Loaded) -> int:
    """Return the pixels of an image at work."""
    height, width = loaded.image.shape[:2]
    return int(height * width)


def _scorers(
    dataset: Dataset, samples: Sequence[Sample], n_actions: int, threads: int, device: str, task: SharedTask
) -> AbstractContextManager[Workers]:
    beside = device != "cpu"
    if table_bounds.may_have_processes(threads, beside):
        first = n_pixels(dataset.load(samples[0]))
        if table_bounds.in_processes(first, len(samples), n_actions, threads, beside_a_device=beside):
            return workers.processes(threads)
    return workers.threads(threads, task)


@dataclass(frozen=True)
class _Found:
    """An image's row, or None where an image before it has the same."""

    key: str
    row: Row | None
    is_new: bool


@dataclass(frozen=True)
class _Measuring:
    """Where what is found of an image's masks will be: at a position among those of images like it."""

    all: "Future[list[Measured | None]]"
    position: int
    n_bytes: int


@dataclass(frozen=True)
class _Batch:
    """Images that were asked for `together`, as far as their rows are not `known`; positions among them."""

    images: Sequence[Loaded]
    keys: Sequence[str]
    known: Sequence[Row | None]
    pending: Sequence[int]
    together: Sequence[int]
    asked: AskedFor
    keeping: Sequence[Callable[[], None]]
    """What is left to write, once the answers are there."""


@dataclass(frozen=True)
class _Asked:
    """Asks for the rows of a table, in order; among them is other work, whose result is None."""

    dataset: Dataset
    samples: Sequence[Sample]
    space: ActionSpace
    cache: SegmentationCache
    remembered: RowCache
    terms: Sequence[str]
    batch_size: int
    memory_bytes: int
    scorers: Workers
    writers: Workers
    measurers: Workers
    device: str
    company_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By the keys of images that were asked for: see `Row.company`."""
    seen: set[str] = field(default_factory=set)

    def rows(self) -> Generator[Begun[_Found | None], None, None]:
        """Segment batch by batch; only images whose row lacks something are segmented and scored.

        Where a device works on a batch by itself, the one before is seen to meanwhile.
        """

        def pixels(one: tuple[Loaded, str]) -> int:
            return n_pixels(one[0])

        before: _Batch | None = None
        with closing(read_ahead(self._read, self.samples, self.writers.n, pixels)) as read:
            for images in batches(read, self.batch_size, pixels):
                batch = self._begun(before, *zip(*images, strict=True))
                if before is not None:
                    yield from self._rows_of(before)
                before = batch if batch.asked.is_ahead else None
                if before is None:
                    self._wait_for_masks()
                    yield from self._rows_of(batch)
                del batch  # with all its pixels
        if before is not None:
            yield from self._rows_of(before)

    def _read(self, sample: Sample) -> tuple[Loaded, str]:
        loaded = self.dataset.load(sample)
        key = self.remembered.key(
            loaded, self.space, segmenter_key=self.cache.key, batch_size=self.batch_size
        )
        return loaded, key

    def _begun(self, before: "_Batch | None", batch: Sequence[Loaded], keys: Sequence[str]) -> "_Batch":
        if before is not None and not set(keys).isdisjoint(before.keys):
            self._answers(before)  # with the company of an image that is here again
        # An image may be there twice: its row is made once.
        is_again = [key in self.seen or key in keys[:i] for i, key in enumerate(keys)]
        self.seen.update(keys)
        known = [
            None if again else self.remembered.read(key) for key, again in zip(keys, is_again, strict=True)
        ]
        self.company_of.update((key, row.company) for key, row in zip(keys, known, strict=True) if row)
        pending = [
            i for i, row in enumerate(known) if not is_again[i] and (row is None or row.lacks(self.terms))
        ]
        together = self._with_company(batch, keys, pending)
        keeping: list[Callable[[], None]] = []
        images, names = [batch[i].image for i in together], [batch[i].digest for i in together]
        asked = self.cache.begin(images, keeping.append, names)
        return _Batch(batch, keys, known, pending, together, asked, keeping)

    def _rows_of(self, batch: "_Batch") -> Generator[Begun[_Found | None], None, None]:
        answer_of = self._answers(batch)
        for keep in batch.keeping:
            yield Begun(self.writers.submit(lambda write, task: write(), keep), 0)
        # Of small images too: enough to keep all at work while the next batch is segmented, and no more.
        least = table_bounds.BYTES_SCORED // (2 * self.scorers.n + 2 * self.batch_size)
        found = self._measured([(batch.images[i], batch.known[i], answer_of[i]) for i in batch.pending])
        for i, key in enumerate(batch.keys):
            loaded, known = batch.images[i], batch.known[i]
            if i in batch.pending:
                measuring = next(found)
                scored = then(
                    measuring.all,
                    partial(self._scored, loaded, key, known, answer_of[i], measuring.position),
                )
                carried = answer_of[i].logits_PHW.nbytes + measuring.n_bytes
                held = table_bounds.held_bytes(n_pixels(loaded), carried, self.scorers.copies)
                yield Begun(scored, max(held, least * self.scorers.copies))
            else:
                yield nothing_to_do(_Found(key, known, is_new=False))

    def _answers(self, batch: "_Batch") -> dict[int, Segmentation]:
        answer_of = dict(zip(batch.together, batch.asked.answers(), strict=True))
        self.company_of.update((batch.keys[i], answer_of[i].company) for i in batch.pending)
        return answer_of

    def _wait_for_masks(self) -> None:
        """Let a segmenter that is asked now have the device to itself.

        What does not fit is asked in parts from then on: that must not depend on what else was there.
        """
        if self.device != "cpu":
            self.measurers.submit(lambda task: None).result()

    def _with_company(self, batch: Sequence[Loaded], keys: Sequence[str], pending: list[int]) -> list[int]:
        """Add the images of a batch that the pending ones were once segmented with: see `Row.company`."""
        companies = [self.company_of.get(key, ()) for key in keys]
        if not pending or not any(companies):
            return pending
        lost = {batch[i].digest for i in pending}
        company = [i for i, company in enumerate(companies) if not lost.isdisjoint(company)]
        return sorted({*pending, *company})

    def _measured(self, images: Sequence[tuple[Loaded, Row | None, Segmentation]]) -> "Iterator[_Measuring]":
        """Yield where an accelerator's findings of each image's masks will be; on the CPU there are none.

        They are begun as they are asked for, of as many images as are measured together.
        """
        if self.device == "cpu":
            nothing: list[Measured | None] = [None]
            yield from [_Measuring(nothing_to_do(nothing).future, 0, 0)] * len(images)
            return
        from job import masks_on_device

        asked = []
        for loaded, known, answer in images:
            whole = loaded.truth is not None and needs_whole_masks(
                known.lacks(self.terms) if known else self.terms
            )
            size = (loaded.image.shape[0], loaded.image.shape[1])
            asked.append(masks_on_device.Asked(answer.logits_PHW, size, loaded.truth, whole))
        for few in masks_on_device.groups(asked, self.space, self.device):
            found = self.measurers.submit(
                masks_on_device.measure_those_that_fit, few, self.space, self.device
            )
            yield from [_Measuring(found, i, one.measured_bytes(self.space)) for i, one in enumerate(few)]

    def _scored(
        self,
        loaded: Loaded,
        key: str,
        known: Row | None,
        segmentation: Segmentation,
        position: int,
        measured: list[Measured | None],
    ) -> "Future[_Found | None]":
        pixels = n_pixels(loaded)
        side_by_side = max(pixels, min(self.scorers.n * pixels, PIXELS_SCORED))
        at_once = max(1, self.memory_bytes // (side_by_side * BYTES_PER_MASK_PIXEL))
        path = self.remembered.path(key)
        return self.scorers.submit(
            _score, loaded, segmentation, self.space, self.terms, at_once, measured[position], known, key,
            path,
        )  # fmt: skip


def _score(
    loaded: Loaded,
    segmentation: Segmentation,
    space: ActionSpace,
    terms: Sequence[str],
    at_once: int,
    measured: Measured | None,
    known: Row | None,
    key: str,
    path: Path | None,
    task: Task,
) -> _Found | None:
    """Score an image by the terms that are not known of it, and keep its row: where it was made, at once."""
    wanted = known.lacks(terms) if known else terms
    row = score_image(loaded, segmentation, space, wanted, at_once, task, measured)
    if known is not None:
        row = known.with_scores(row.scores)
    if path is not None:
        write_row(path, row)
    return _Found(key, row, is_new=True)
