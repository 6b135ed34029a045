"""What judges say of every action's mask, kept block by block: an interruption costs one block."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.data.dataset import Dataset, Sample
from job.errors import IntegrityError
from job.progress import SharedTask
from job.reward.terms import Judge
from job.stages import table
from job.stages.stage import StageContext
from job.storage.tensor_file import read_tensors, write_tensors

BLOCK = 16
"""Images between two writes: 1 s of work at 128 pixels and 48 actions, 10 s at 960."""

Scores = NDArray[np.float64]


def judge(
    context: StageContext,
    dataset: Dataset,
    samples: Sequence[Sample],
    judge_of: Callable[[Sample], Judge],
    *,
    name: str,
    key: str,
) -> Scores:
    """Score every action on the samples without the truth, `[N, K]`, by the judge that `judge_of` names.

    Rows are kept in the stage's scratch under `name`; those that an interrupted attempt kept are taken over
    if it gave the same `key`, which stands for all that the stage's fingerprint does not: the judges.
    """
    kept = _Rows(context.scratch / f"{name}.safetensors", key, (len(samples), len(context.space)))
    rows = list(kept.read())
    with context.progress.task("judging masks", len(samples), "images") as task:
        task.advance(len(rows))
        shared = SharedTask(task)
        with closing(table.judge(context, dataset, samples[len(rows) :], judge_of, shared)) as judged:
            for row_K in judged:
                rows.append(row_K)
                shared.advance()
                if len(rows) % BLOCK == 0 or len(rows) == len(samples):
                    kept.write(np.stack(rows))
    return np.array(rows).reshape(len(samples), len(context.space))


@dataclass(frozen=True)
class _Rows:
    """The first rows of an array of a given shape, in a file."""

    path: Path
    key: str
    shape: tuple[int, int]

    def read(self) -> Scores:
        """Return the rows that were kept: none from a damaged file, or from another key or shape."""
        try:
            tensors, document = read_tensors(self.path)
        except (FileNotFoundError, IntegrityError):
            return np.empty((0, self.shape[1]))
        return tensors["rows"] if document == self._document() else np.empty((0, self.shape[1]))

    def write(self, rows_MK: Scores) -> None:
        """Keep the first rows in place of fewer."""
        write_tensors(self.path, {"rows": rows_MK}, self._document())

    def _document(self) -> dict[str, object]:
        return {"key": self.key, "shape": list(self.shape)}
