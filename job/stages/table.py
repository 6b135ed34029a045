"""table: every training and validation image under every action, scored against the truth.

Test images are not here: their truth is read by evaluate alone.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job import mask_judging, rows, table, table_bounds, table_making, workers
from job.actions import MaskBlocks
from job.data.dataset import Dataset, Sample
from job.progress import SharedTask
from job.reward.terms import TRUTH_TERMS, Judge
from job.segmenters import telling
from job.spec.segmenter import Sa2vaSpec
from job.stages.memory_need import require_memory
from job.stages.pull import open_dataset
from job.stages.stage import Stage, StageContext
from job.storage.local import write_atomic

ALWAYS = ("dice", "recall", "precision")
"""Scored whatever the reward, on test images too: checks and report rest on them, they cost next to nothing,
and in another fold a test image is one to learn from."""


AGREEMENT = "agreement.json"
LEAST_IOU = 0.9
"""Mean IoU of two ways to a mask that is worth a warning: rounding in bfloat16 costs a few hundredths."""


def reads(context: StageContext) -> Mapping[str, Any]:
    """The segmenter, the actions, the terms, and the images that learning may see."""
    pulled = context.done["pull"].outputs
    return {
        "segmenter": context.segmentations.key,
        "batch_size": context.spec.segmenter.batch_size,
        **({"verify_pairs": n} if (n := _pairs_to_verify(context)) else {}),
        "actions": context.spec.actions.model_dump(),
        "terms": terms(context),
        "width": context.spec.data.width,
        "images": [pulled["train"], pulled["validation"], pulled["unlabelled"]],
    }


def run(context: StageContext) -> Mapping[str, str]:
    """Build the action table; raises `InputError` for pictures that do not fit into memory."""
    require_memory(context)
    if _pairs_to_verify(context):
        if table_bounds.may_have_processes(context.machine.threads, context.machine.device != "cpu"):
            workers.get_ready()  # while the segmenter is loaded
        _verify(context)
    built = build(context, "train", "validation", "unlabelled", scored=terms(context))
    built.save(context.folder)
    context.log.info(
        "table.summary", images=len(built.names), actions=len(context.space),
        computed=context.segmentations.computed, cached=context.segmentations.cached,
        rows_reused=context.rows.reused,
    )  # fmt: skip
    return {"table": built.digest()}


STAGE = Stage("table", 2, reads, rows.LIBRARIES, run)


def build(context: StageContext, *sides: str, scored: list[str]) -> table.ActionTable:
    """Build a table of the images of the named splits."""
    dataset = open_dataset(context)
    return build_of(context, dataset, dataset.of(*sides), scored)


def build_of(
    context: StageContext, dataset: Dataset, samples: list[Sample], scored: list[str]
) -> table.ActionTable:
    """Build a table of some samples of any dataset."""
    return table_making.build(
        dataset,
        samples,
        context.space,
        context.segmentations,
        terms=scored,
        batch_size=context.spec.segmenter.batch_size,
        memory_bytes=_memory_bytes(context),
        threads=context.machine.threads,
        progress=context.progress,
        rows=context.rows,
        device=context.machine.device,
    )


def judge(
    context: StageContext,
    dataset: Dataset,
    samples: Sequence[Sample],
    judge_of: Callable[[Sample], Judge],
    task: SharedTask,
) -> Generator[NDArray[np.float64], None, None]:
    """Score every action on the samples without the truth: yields `[K]` for each, see `judge_rows`."""
    return mask_judging.judge_rows(
        dataset, samples, context.space, context.segmentations, judge_of,
        memory_bytes=_memory_bytes(context), threads=context.machine.threads, task=task,
        device=context.machine.device,
    )  # fmt: skip


def masks_of(context: StageContext, image: NDArray[np.uint8]) -> MaskBlocks:
    """Return the masks of all actions of an image, block by block: they take little memory."""
    logits_PHW = context.segmentations.get([image])[0].logits_PHW
    size = (image.shape[0], image.shape[1])
    at_once = max(1, _memory_bytes(context) // (size[0] * size[1] * mask_judging.BYTES_PER_JUDGED_PIXEL))
    return MaskBlocks(context.space, logits_PHW, size, at_once)


def terms(context: StageContext) -> list[str]:
    """Return the truth-based terms to score: those of the reward, and `ALWAYS`."""
    weights = reward_weights(context)
    return [term for term in TRUTH_TERMS if term in ALWAYS or weights.get(term)]


def reward_weights(context: StageContext) -> dict[str, float]:
    """Return the weight of each term of the reward."""
    return {str(term): weight for term, weight in context.spec.reward.terms.items()}


def load(context: StageContext) -> table.ActionTable:
    """Return the table that the stage made."""
    return table.ActionTable.load(context.done["table"].folder)


def load_agreement(context: StageContext) -> dict[str, float] | None:
    """Return how far the segmenter's two ways agreed when the table was made; None where nobody compared."""
    path = context.done["table"].folder / AGREEMENT
    found: dict[str, float] | None = json.loads(path.read_bytes()) if path.exists() else None
    return found


def _pairs_to_verify(context: StageContext) -> int:
    spec = context.spec.segmenter
    return spec.verify_pairs if isinstance(spec, Sa2vaSpec) and spec.path == "shared" else 0


def _verify(context: StageContext) -> None:
    """Compare the segmenter's two ways on random pairs, before the table is made by the faster one."""
    n, dataset = _pairs_to_verify(context), open_dataset(context)
    samples = dataset.of("train", "validation", "unlabelled")
    rng = np.random.default_rng(context.spec.seed)
    chosen = rng.choice(len(samples), size=min(n, len(samples)), replace=False)
    images = [dataset.load(samples[int(i)]).image for i in chosen]
    segmenter, prompts = context.segmentations.segmenter, context.space.prompts
    found = telling.compare(segmenter, images, prompts, n, context.spec.seed)
    if found is None:
        context.log.warning(
            "job.warning", message="segmenter.verify_pairs: predict_forward runs on a CUDA device alone, so"
            " that nothing was compared",
        )  # fmt: skip
        return
    write_atomic(context.folder / AGREEMENT, json.dumps(found))
    context.log.info("segmenter.verified", **found)
    if found["mean_iou"] < LEAST_IOU:
        context.log.warning(
            "job.warning", message=f"masks of the path shared and of predict_forward have a mean IoU of only"
            f" {found['mean_iou']:.3f}: set segmenter.path to \"generate\", or another segmenter.dtype",
        )  # fmt: skip


def _memory_bytes(context: StageContext) -> int:
    return context.spec.table.memory_mb * 2**20
