"""Rows of the action table kept on disk: an image is scored once, whichever fold, sweep or night asks.

One small safetensors file a row, keyed by all that shapes it but the terms: a file holds the terms that were
asked for so far, so that a row scored for learning serves, in another fold, as a test row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job.actions import ActionSpace
from job.data.dataset import Loaded
from job.data.images import pixel_digest
from job.errors import IntegrityError
from job.storage.local import sha256_json
from job.storage.mirror import Mirror, NoMirror
from job.storage.tensor_file import read_tensors, write_tensors

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pillow")
"""Distributions whose version shapes a row."""
REVISION = 1
"""Raised whenever the same image would give another row."""


@dataclass(frozen=True)
class Row:
    """What the table holds of one image under K actions.

    `scores` (NaN without a truth) and `judges` are float64 `[K]` by name; `embedding_E` and `statistics_S`
    are float32. `company` is who was in the segmenter's call behind it (see `Segmentation`): as long as a row
    of a batch is left, rows that are made again are made in the same batch.
    """

    scores: Mapping[str, NDArray[np.float64]]
    judges: Mapping[str, NDArray[np.float64]]
    diversity: float
    embedding_E: NDArray[np.float32]
    statistics_S: NDArray[np.float32]
    statistic_names: tuple[str, ...]
    company: tuple[str, ...] = ()

    def lacks(self, terms: Sequence[str]) -> list[str]:
        """Return those of the terms that the row was not scored by."""
        return [term for term in terms if term not in self.scores]

    def with_scores(self, scores: Mapping[str, NDArray[np.float64]]) -> "Row":
        """Return the row with further terms; those that it has stay as they are."""
        return replace(self, scores={**scores, **self.scores})


class RowCache:
    """Remembers rows under `root/rows/<segmenter>/`, or nothing without a root.

    Rows are small: they are kept even where logits are not.
    """

    def __init__(self, root: Path | None, mirror: Mirror | None = None) -> None:
        self.computed = 0
        """Rows that had to be scored, by every term or by some."""
        self.reused = 0
        """Rows that were found whole."""
        self._folder = None if root is None else root / "rows"
        self._mirror = mirror or NoMirror()

    def key(self, loaded: Loaded, space: ActionSpace, *, segmenter_key: str, batch_size: int) -> str:
        """Return the name of an image's row, `<segmenter>/<sha256>`: over all that shapes it, but the terms.

        The batch size counts because networks round otherwise in another batch.
        """
        digest = sha256_json(
            {
                "revision": REVISION,
                "libraries": self._versions,
                "segmenter": segmenter_key,
                "batch_size": batch_size,
                "prompts": space.prompts,
                "postprocess": [asdict(postprocess) for postprocess in space.postprocess],
                "pixels": [
                    loaded.digest,
                    *(None if array is None else pixel_digest(array) for array in (loaded.truth, loaded.fov)),
                ],
            }
        )
        return f"{segmenter_key[:32]}/{digest}"

    def read(self, key: str) -> Row | None:
        """Return the remembered row, with whatever terms it has, or None; a damaged file counts as none."""
        if self._folder is None:
            return None
        self._mirror.restore_cache(f"rows/{key.rpartition('/')[0]}")  # does something the first time alone
        try:
            tensors, names = read_tensors(self._folder / f"{key}.safetensors")
        except (FileNotFoundError, IntegrityError):
            return None
        return Row(
            scores={term: tensors[f"scores.{term}"] for term in names["terms"]},
            judges={judge: tensors[f"judges.{judge}"] for judge in names["judges"]},
            diversity=float(tensors["diversity"]),
            embedding_E=tensors["embedding"],
            statistics_S=tensors["statistics"],
            statistic_names=tuple(names["statistics"]),
            company=tuple(names.get("company", ())),
        )

    def path(self, key: str) -> Path | None:
        """Return where `write_row` puts a row to have it remembered; None where none is."""
        return None if self._folder is None else self._folder / f"{key}.safetensors"

    def write(self, key: str, row: Row) -> None:
        """Remember a row, see `write_row`."""
        path = self.path(key)
        if path is not None:
            write_row(path, row)

    @cached_property
    def _versions(self) -> dict[str, str]:
        return {name: metadata.version(name) for name in LIBRARIES}


def write_row(path: Path, row: Row) -> None:
    """Keep a row in one step; it replaces a damaged one, or one of fewer terms."""
    tensors = {
        "diversity": np.array(row.diversity),
        "embedding": row.embedding_E,
        "statistics": row.statistics_S,
        **{f"scores.{term}": values for term, values in row.scores.items()},
        **{f"judges.{judge}": values for judge, values in row.judges.items()},
    }
    names = {
        "terms": list(row.scores),
        "judges": list(row.judges),
        "statistics": row.statistic_names,
        "company": row.company,
    }
    write_tensors(path, tensors, names)
