"""Making the action table: while the segmenter works, images are read ahead, and scored behind it."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from job import device
from job.actions import ActionSpace, iter_masks
from job.data.dataset import Dataset, Loaded, Sample
from job.data.images import pixel_digest
from job.in_order import Job, in_order
from job.progress import Progress, SharedTask
from job.reward.terms import Judge, score
from job.rows import Row, RowCache
from job.scoring import score_image
from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Segmentation
from job.table import ActionTable

T = TypeVar("T")

PIXELS_OF_A_BATCH = 16_000_000
"""Of images that go through the segmenter together, a thousand of 128 px: of larger ones a batch has fewer.
With P prompts they and their logits take 5 + 2 P bytes a pixel."""
PIXELS_SCORED = 16_000_000
"""Of images that are being scored, or wait for it: a larger one is alone. They take as much as a batch, and
40 bytes a pixel more, beside their masks, while they are scored."""
PIXELS_AHEAD = 8_000_000
"""Of images that are read before the segmenter asks for them, 5 bytes a pixel."""
READERS = 4
"""Threads that read ahead: decoding takes a tenth of what scoring takes."""
PIXELS_JUDGED = 4_000_000
"""Of images that are judged side by side: a judge makes floats of all their masks."""
BYTES_PER_MASK_PIXEL = 2
"""What scoring needs per pixel of a mask: the mask, and what its skeleton leaves of it."""
BYTES_PER_JUDGED_PIXEL = 16
"""What decides how many masks a judge sees together; with it, a few bits of its scores."""


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
) -> ActionTable:
    """Segment every sample with every prompt, apply every post-processing, and score against the truth.

    A row that `rows` remembers is taken from there, bit for bit. Masks take `memory_bytes`, what else is
    held has bounds too, whatever the number of images. Samples without a mask get NaN scores. The segmenter
    is asked in the caller's thread, images are scored on `threads` others; their number changes no bit.
    """
    remembered = rows or RowCache(None)
    built: list[Row] = []
    row_of: dict[str, Row] = {}
    with progress.task("action table", len(samples), "images") as task:
        shared = SharedTask(task)
        asked = _Asked(
            dataset, samples, space, cache, remembered, terms, batch_size, memory_bytes, threads, shared
        )
        scored = in_order(asked.jobs(), threads=threads, most=PIXELS_SCORED, stop=shared.fail)
        with closing(scored):
            for made in scored:
                if made is None:
                    continue
                remembered.computed += made.is_new
                remembered.reused += not made.is_new
                row = row_of.setdefault(made.key, made.row) if made.row is not None else row_of[made.key]
                built.append(row)
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


def judge_rows(
    dataset: Dataset,
    samples: Sequence[Sample],
    space: ActionSpace,
    cache: SegmentationCache,
    judge_of: Callable[[Sample], Judge],
    *,
    memory_bytes: int,
    threads: int,
    task: SharedTask,
) -> Generator[NDArray[np.float64], None, None]:
    """Score each sample's masks without the truth, by the judge that `judge_of` names for it: yields `[K]`.

    The segmenter is asked in the caller's thread; judges work in `threads` others, each on one core. `task`
    is looked at for a stop request; its steps are the caller's.
    """

    def jobs() -> Generator[Job[NDArray[np.float64]], None, None]:
        with closing(read_ahead(dataset.load, samples, threads, n_pixels)) as read:
            for sample, loaded in zip(samples, read, strict=True):
                logits_PHW = cache.get([loaded.image])[0].logits_PHW
                judged = partial(
                    _judged, space, loaded.image, logits_PHW, judge_of(sample), memory_bytes, task
                )
                yield Job(judged, n_pixels(loaded))

    with (
        device.threads_of_one_core() as start,
        closing(in_order(jobs(), threads=threads, most=PIXELS_JUDGED, stop=task.fail, start=start)) as judged,
    ):
        yield from judged


def _judged(
    space: ActionSpace,
    image: NDArray[np.uint8],
    logits_PHW: NDArray[np.float16],
    judge: Judge,
    memory_bytes: int,
    task: SharedTask,
) -> NDArray[np.float64]:
    size = (image.shape[0], image.shape[1])
    fitting = max(1, memory_bytes // (size[0] * size[1] * BYTES_PER_JUDGED_PIXEL))
    # A judge reads the image once a call: few large blocks cost less than many small ones.
    at_once = fitting if fitting >= len(space) else min(fitting, len(space.postprocess))
    scores = []
    for _, masks_BHW in iter_masks(space, logits_PHW, size, at_once):
        task.advance(0)
        scores.append(score(masks_BHW, None, ["reward_net"], image_HWC=image, judge=judge)["reward_net"])
    return np.concatenate(scores)


def read_ahead(
    read: Callable[[Sample], T], samples: Sequence[Sample], threads: int, pixels: Callable[[T], int]
) -> Generator[T, None, None]:
    """Yield what `read` gives of each sample, in order; meanwhile others are read: `PIXELS_AHEAD` of them."""
    largest = PIXELS_AHEAD  # until one was read
    jobs = (Job(partial(read, sample), largest) for sample in samples)
    with closing(in_order(jobs, threads=min(threads, READERS), most=PIXELS_AHEAD)) as done:
        for i, one in enumerate(done):
            largest = max(pixels(one), largest if i else 0)
            yield one


def n_pixels(loaded: Loaded) -> int:
    """Return the pixels of an image at work."""
    height, width = loaded.image.shape[:2]
    return int(height * width)


@dataclass(frozen=True)
class _Made:
    """What came of an image: its row, or None where an image before it has the same."""

    key: str
    row: Row | None
    is_new: bool


@dataclass(frozen=True)
class _Asked:
    """Asks for the rows of a table: jobs that score images, in order, and others, whose result is None."""

    dataset: Dataset
    samples: Sequence[Sample]
    space: ActionSpace
    cache: SegmentationCache
    remembered: RowCache
    terms: Sequence[str]
    batch_size: int
    memory_bytes: int
    threads: int
    task: SharedTask
    company_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By the keys of images that were asked for: see `Row.company`."""

    def jobs(self) -> Generator[Job[_Made | None], None, None]:
        """Segment batch by batch; only images whose row lacks something are segmented and scored."""
        read = read_ahead(self._read, self.samples, self.threads, lambda one: n_pixels(one[0]))
        with closing(read):
            batch: list[tuple[Loaded, str]] = []
            for one in read:
                batch.append(one)
                pixels = sum(n_pixels(loaded) for loaded, _ in batch)
                if len(batch) == self.batch_size or pixels >= PIXELS_OF_A_BATCH:
                    yield from self._jobs_of(*zip(*batch, strict=True))
                    batch = []
            if batch:
                yield from self._jobs_of(*zip(*batch, strict=True))

    def _read(self, sample: Sample) -> tuple[Loaded, str]:
        loaded = self.dataset.load(sample)
        key = self.remembered.key(
            loaded, self.space, segmenter_key=self.cache.key, batch_size=self.batch_size
        )
        return loaded, key

    def _jobs_of(
        self, batch: Sequence[Loaded], keys: Sequence[str]
    ) -> Generator[Job[_Made | None], None, None]:
        # An image may be there twice: its row is made once.
        is_again = [key in self.company_of or key in keys[:i] for i, key in enumerate(keys)]
        known = [
            None if again else self.remembered.read(key) for key, again in zip(keys, is_again, strict=True)
        ]
        self.company_of.update((key, row.company) for key, row in zip(keys, known, strict=True) if row)
        pending = [
            i for i, row in enumerate(known) if not is_again[i] and (row is None or row.lacks(self.terms))
        ]
        together = self._with_company(batch, keys, pending)
        keeping: list[Callable[[], None]] = []
        answers = self.cache.get([batch[i].image for i in together], keep=keeping.append)
        for keep in keeping:
            yield Job(keep, 0)
        answer_of = dict(zip(together, answers, strict=True))
        for i, key in enumerate(keys):
            if i in pending:
                self.company_of[key] = answer_of[i].company
                score_it = partial(self._scored, batch[i], key, known[i], answer_of[i])
                yield Job(score_it, n_pixels(batch[i]))
            else:
                yield Job(partial(_Made, key, known[i], is_new=False), 0)

    def _with_company(self, batch: Sequence[Loaded], keys: Sequence[str], pending: list[int]) -> list[int]:
        """Add the images of a batch that the pending ones were once segmented with: see `Row.company`."""
        companies = [self.company_of.get(key, ()) for key in keys]
        if not pending or not any(companies):
            return pending
        lost = {pixel_digest(batch[i].image) for i in pending}
        company = [i for i, company in enumerate(companies) if not lost.isdisjoint(company)]
        return sorted({*pending, *company})

    def _scored(self, loaded: Loaded, key: str, known: Row | None, segmentation: Segmentation) -> _Made:
        asked = self.terms if known is None else known.lacks(self.terms)
        pixels = n_pixels(loaded)
        side_by_side = max(pixels, min(self.threads * pixels, PIXELS_SCORED))
        at_once = max(1, self.memory_bytes // (side_by_side * BYTES_PER_MASK_PIXEL))
        row = score_image(loaded, segmentation, self.space, asked, at_once, self.task)
        if known is not None:
            row = known.with_scores(row.scores)
        self.remembered.write(key, row)
        return _Made(key, row, is_new=True)
