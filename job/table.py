"""The action table: every image x every action, scored once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from job.actions import LARGEST_LOGIT, ActionSpace, apply_all, iter_masks, resize_bilinear
from job.data.dataset import Dataset, Loaded, Sample
from job.data.features import statistics_vector
from job.data.images import pixel_digest
from job.progress import Progress, Task, track
from job.reward import free_judges
from job.reward.terms import Judge, score
from job.rows import Row, RowCache
from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Segmentation
from job.storage.digests import tensors_digest
from job.storage.tensor_file import read_tensors, write_tensors

TABLE = "table.safetensors"
BYTES_PER_MASK_PIXEL = 16
"""What scoring needs per pixel of a mask: the mask, its labels, and the products of the overlap counts."""
PIXELS_AT_ONCE, FEWEST_AT_ONCE = 64_000_000, 4
"""Masks that are scored between two looks for a stop request: half a second of skeletons, which are cheapest
for 64 masks at once. Each time the truth's own is drawn again, so that of large images too it is a few."""
PIXELS_OF_A_BATCH = 16_000_000
"""Of images that go through the segmenter together, a thousand of 128 px: of larger ones a batch has fewer.
With P prompts they and their logits take 5 + 2 P bytes a pixel."""
DIVERSITY_PIXELS = 65_536
"""Mask diversity and the free judges are measured on a regular grid of at most this many pixels."""


@dataclass(frozen=True)
class ActionTable:
    """Scores and raw features of N images under K actions.

    `scores[term]` is float64 `[N, K]`, NaN in the rows of unlabelled images; `diversity_N` is the mean
    pairwise 1 - Dice between the masks of an image's actions; `embeddings_NE` and `statistics_NS` are float32
    features that need no truth, the latter named by `statistic_names`. `judges` holds what `confidence` and
    `consensus` (`job.reward.free_judges`) say without the truth, float64 `[N, K]`, a number in every row:
    features that a chooser may look at, no terms, so they never enter a reward.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    scores: Mapping[str, NDArray[np.float64]]
    diversity_N: NDArray[np.float64]
    embeddings_NE: NDArray[np.float32]
    statistics_NS: NDArray[np.float32]
    statistic_names: tuple[str, ...]
    judges: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def of(self, *splits: str) -> "ActionTable":
        """Return the rows of the named splits, in order."""
        return self.rows([i for i, split in enumerate(self.splits) if split in splits])

    def rows(self, indices: Sequence[int]) -> "ActionTable":
        """Return the given rows."""
        picked = list(indices)
        return replace(
            self,
            names=tuple(self.names[i] for i in picked),
            patients=tuple(self.patients[i] for i in picked),
            splits=tuple(self.splits[i] for i in picked),
            scores={term: values[picked] for term, values in self.scores.items()},
            diversity_N=self.diversity_N[picked],
            embeddings_NE=self.embeddings_NE[picked],
            statistics_NS=self.statistics_NS[picked],
            judges={judge: values[picked] for judge, values in self.judges.items()},
        )

    def with_scores(self, **scores: NDArray[np.float64]) -> "ActionTable":
        """Return the table with further terms `[N, K]`."""
        return replace(self, scores={**self.scores, **scores})

    def digest(self) -> str:
        """Return a sha256 over names, scores, features and judges."""
        return tensors_digest(self._tensors(), {"rows": [self.names, self.patients, self.splits]})

    def save(self, folder: Path) -> None:
        """Write `table.safetensors` into `folder`."""
        rows = {"names": self.names, "patients": self.patients, "splits": self.splits}
        columns = {"terms": sorted(self.scores), "judges": sorted(self.judges)}
        write_tensors(
            folder / TABLE, self._tensors(), {**rows, **columns, "statistic_names": self.statistic_names}
        )

    @classmethod
    def load(cls, folder: Path) -> "ActionTable":
        """Read what `save` wrote; raises `IntegrityError` for a damaged file."""
        tensors, rows = read_tensors(folder / TABLE)
        return cls(
            names=tuple(rows["names"]),
            patients=tuple(rows["patients"]),
            splits=tuple(rows["splits"]),
            scores={term: tensors[f"scores.{term}"] for term in rows["terms"]},
            diversity_N=tensors["diversity"],
            embeddings_NE=tensors["embeddings"],
            statistics_NS=tensors["statistics"],
            statistic_names=tuple(rows["statistic_names"]),
            judges={judge: tensors[f"judges.{judge}"] for judge in rows["judges"]},
        )

    def _tensors(self) -> dict[str, NDArray[np.generic]]:
        features = {"embeddings": self.embeddings_NE, "statistics": self.statistics_NS}
        scores = {f"scores.{term}": values for term, values in self.scores.items()}
        judges = {f"judges.{judge}": values for judge, values in self.judges.items()}
        return {"diversity": self.diversity_N, **features, **scores, **judges}


def build(
    dataset: Dataset,
    samples: Sequence[Sample],
    space: ActionSpace,
    cache: SegmentationCache,
    *,
    terms: Sequence[str],
    batch_size: int,
    memory_bytes: int,
    progress: Progress,
    rows: RowCache | None = None,
) -> ActionTable:
    """Segment every sample with every prompt, apply every post-processing, and score against the truth.

    A row that `rows` remembers is taken from there, bit for bit. Memory is bounded by `memory_bytes` for
    masks, whatever the number of images. Samples without a mask get NaN scores.
    """
    remembered = rows or RowCache(None)
    built: list[Row] = []
    with progress.task("action table", len(samples), "images") as task:
        for batch in _batches(dataset, samples, batch_size):
            keys = [remembered.key(b, space, segmenter_key=cache.key, batch_size=batch_size) for b in batch]
            rows_of_batch = _rows(batch, keys, space, cache, remembered, terms, memory_bytes, task)
            for row in rows_of_batch:
                built.append(row)
                task.advance()
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


def _batches(dataset: Dataset, samples: Sequence[Sample], batch_size: int) -> Iterator[list[Loaded]]:
    """Yield loaded samples in order, up to `batch_size` at a time: fewer where they are large."""
    batch: list[Loaded] = []
    for sample in samples:
        batch.append(dataset.load(sample))
        n_pixels = sum(loaded.image.shape[0] * loaded.image.shape[1] for loaded in batch)
        if len(batch) == batch_size or n_pixels >= PIXELS_OF_A_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(
    batch: Sequence[Loaded],
    keys: Sequence[str],
    space: ActionSpace,
    cache: SegmentationCache,
    remembered: RowCache,
    terms: Sequence[str],
    memory_bytes: int,
    task: Task,
) -> Iterator[Row]:
    """Yield the rows of a batch in order; only images whose row lacks something are segmented and scored."""
    known = [remembered.read(key) for key in keys]
    pending = [i for i, row in enumerate(known) if row is None or row.lacks(terms)]
    together = _with_company(batch, known, pending)
    answers = dict(zip(together, cache.get([batch[i].image for i in together]), strict=True))
    for i, row in enumerate(known):
        if i in pending:
            asked = terms if row is None else row.lacks(terms)
            scored = _score(batch[i], answers[i], space, asked, memory_bytes, task)
            row = scored if row is None else row.with_scores(scored.scores)
            remembered.write(keys[i], row)
            remembered.computed += 1
        else:
            remembered.reused += 1
        assert row is not None
        yield row


def _with_company(batch: Sequence[Loaded], known: Sequence[Row | None], pending: list[int]) -> list[int]:
    """Add the images of a batch that the pending ones were once segmented with: see `Row.company`."""
    if not pending or not any(row is not None and row.company for row in known):
        return pending
    lost = {pixel_digest(batch[i].image) for i in pending}
    company = [i for i, row in enumerate(known) if row is not None and not lost.isdisjoint(row.company)]
    return sorted({*pending, *company})


def _score(
    loaded: Loaded,
    segmentation: Segmentation,
    space: ActionSpace,
    terms: Sequence[str],
    memory_bytes: int,
    task: Task,
) -> Row:
    size = (loaded.image.shape[0], loaded.image.shape[1])
    stride = math.ceil(math.sqrt(size[0] * size[1] / DIVERSITY_PIXELS))
    at_once = max(FEWEST_AT_ONCE, PIXELS_AT_ONCE // (size[0] * size[1]))
    scores = {term: np.full(len(space), np.nan) for term in terms}
    packed: dict[int, NDArray[np.uint8]] = {}
    for actions, masks_BHW in mask_blocks(space, segmentation.logits_PHW, size, memory_bytes):
        task.advance(0)
        sampled_BX = masks_BHW[:, ::stride, ::stride].reshape(len(masks_BHW), -1)
        packed |= zip(actions, np.packbits(sampled_BX, axis=1), strict=True)
        for few in range(0, len(actions) if loaded.truth is not None else 0, at_once):
            assert loaded.truth is not None
            part = slice(few, few + at_once)
            for term, values in score(masks_BHW[part], loaded.truth, terms).items():
                scores[term][actions[part]] = values
            task.advance(0)
    packed_KX = np.stack([packed[action] for action in range(len(space))])
    task.advance(0)
    names, statistics = statistics_vector(loaded.image, loaded.fov, segmentation.logits_PHW)
    return Row(
        scores=scores,
        judges=_judged_free(space, packed_KX, segmentation.logits_PHW, size, stride),
        diversity=_mean_pairwise_distance(packed_KX),
        embedding_E=segmentation.embedding_D,
        statistics_S=statistics,
        statistic_names=names,
        company=segmentation.company,
    )


def _judged_free(
    space: ActionSpace,
    packed_KX: NDArray[np.uint8],
    logits_PHW: NDArray[np.float16],
    size: tuple[int, int],
    stride: int,
) -> dict[str, NDArray[np.float64]]:
    """Ask the judges that need neither truth nor training about the sampled masks of all actions: `[K]`."""
    probability_PX = [_sampled_probability(logits_HW, size, stride) for logits_HW in logits_PHW]
    masks_KX = np.unpackbits(packed_KX, axis=1, count=len(probability_PX[0])).view(np.bool_)
    masks_PQX = masks_KX.reshape(len(space.prompts), len(space.postprocess), -1)
    by_prompt = zip(masks_PQX, probability_PX, strict=True)
    return {
        "confidence": np.concatenate([free_judges.confidence(*of_prompt) for of_prompt in by_prompt]),
        "consensus": free_judges.consensus(masks_KX),
    }


def _sampled_probability(
    logits_HW: NDArray[np.float16], size: tuple[int, int], stride: int
) -> NDArray[np.float32]:
    """Return a prompt's probabilities `[X]` on the grid that masks are sampled on, resized as masks are."""
    clipped_HW = np.clip(logits_HW.astype(np.float32), -LARGEST_LOGIT, LARGEST_LOGIT)
    probability_HW: NDArray[np.float32] = expit(resize_bilinear(clipped_HW, size)[::stride, ::stride])
    return probability_HW.ravel()


def mask_blocks(
    space: ActionSpace, logits_PHW: NDArray[np.float16], size: tuple[int, int], memory_bytes: int
) -> Iterator[tuple[list[int], NDArray[np.bool_]]]:
    """Yield (actions, their masks `[B, H, W]`) until every action was there; all at once where they fit."""
    fitting = max(1, memory_bytes // (size[0] * size[1] * BYTES_PER_MASK_PIXEL))
    if fitting >= len(space):
        yield list(range(len(space))), apply_all(space, logits_PHW, size)
        return
    for first in range(0, len(space.postprocess), fitting):
        part = replace(space, postprocess=space.postprocess[first : first + fitting])
        for p, masks_BHW in enumerate(iter_masks(part, logits_PHW, size)):
            start = space.index(p, first)
            yield list(range(start, start + len(masks_BHW))), masks_BHW


def _mean_pairwise_distance(packed_KX: NDArray[np.uint8]) -> float:
    """Mean of 1 - Dice over all pairs of masks, given as packed bits; two empty masks are equal."""
    if len(packed_KX) < 2:
        return 0.0
    area_K = np.bitwise_count(packed_KX).sum(axis=1, dtype=np.int64)
    distances = []
    for k in range(len(packed_KX) - 1):
        shared = np.bitwise_count(packed_KX[k + 1 :] & packed_KX[k]).sum(axis=1, dtype=np.int64)
        total = area_K[k + 1 :] + area_K[k]
        distances.append(np.where(total > 0, 1 - 2 * shared / np.maximum(total, 1), 0.0))
    return float(np.concatenate(distances).mean())


def judge_table(
    dataset: Dataset,
    samples: Sequence[Sample],
    space: ActionSpace,
    cache: SegmentationCache,
    judge_of: Callable[[Sample], Judge],
    *,
    memory_bytes: int,
    progress: Progress,
) -> NDArray[np.float64]:
    """Score every sample's masks without the truth, by the judge that `judge_of` names for it: `[N, K]`."""
    scores_NK = np.empty((len(samples), len(space)))
    for i, sample in enumerate(track(progress, "judging masks", samples, len(samples), "images")):
        image = dataset.load(sample).image
        logits_PHW = cache.get([image])[0].logits_PHW
        judge, size = judge_of(sample), (image.shape[0], image.shape[1])
        # A judge reads the image once a call: few large blocks cost less than many small ones.
        for actions, masks_BHW in mask_blocks(space, logits_PHW, size, memory_bytes):
            judged = score(masks_BHW, None, ["reward_net"], image_HWC=image, judge=judge)
            scores_NK[i, actions] = judged["reward_net"]
    return scores_NK
