"""The action table: every image x every action, scored once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.storage.digests import tensors_digest
from job.storage.tensor_file import read_tensors, write_tensors

TABLE = "table.safetensors"


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
