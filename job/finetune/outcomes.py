"""Outcomes of the running rollout, kept: with a slow segmenter a rollout is more than may be lost."""

import time
from dataclasses import astuple
from pathlib import Path

import numpy as np

from job.errors import IntegrityError
from job.finetune.env import Outcome, RewardSource
from job.storage.tensor_file import read_tensors, write_tensors

SAVE_EVERY_S = 5.0

Made = tuple[int, int, Outcome]
"""An image's row, an action, and what it brought."""


class KeptOutcomes:
    """A RewardSource that asks another one, and after an interruption repeats what that had answered.

    Training goes on from a rollout boundary and takes the same steps again. `first` is the step that it goes
    on from, `rollout` the steps between boundaries, `key` names the training.
    """

    def __init__(self, source: RewardSource, path: Path, *, key: str, first: int, rollout: int) -> None:
        self._source = source
        self._path = path
        self._key = key
        self._first = first
        self._rollout = rollout
        self._kept = self._read()
        self._made: list[Made] = []
        self._saved_at = time.monotonic()

    def __call__(self, image: int, action: int) -> Outcome:
        """Return what the action brings on the image."""
        if len(self._made) == self._rollout:
            self._first += self._rollout
            self._kept, self._made = [], []
        n = len(self._made)
        if n < len(self._kept) and self._kept[n][:2] == (image, action):
            outcome = self._kept[n][2]
        else:
            self._kept = []  # another way than before: what was answered on the old one is of no use
            outcome = self._source(image, action)
        self._made.append((image, action, outcome))
        if len(self._made) > len(self._kept) and time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._write()
        return outcome

    def _write(self) -> None:
        steps_S2 = np.array([made[:2] for made in self._made], np.int64)
        outcomes_S3 = np.array([astuple(made[2]) for made in self._made], np.float64)
        write_tensors(self._path, {"steps": steps_S2, "outcomes": outcomes_S3}, self._document())
        self._saved_at = time.monotonic()

    def _read(self) -> list[Made]:
        try:
            tensors, document = read_tensors(self._path)
        except (FileNotFoundError, IntegrityError):
            return []
        if document != self._document():
            return []
        pairs = zip(tensors["steps"].tolist(), tensors["outcomes"].tolist(), strict=True)
        return [(image, action, Outcome(*outcome)) for (image, action), outcome in pairs]

    def _document(self) -> dict[str, object]:
        return {"key": self._key, "first": self._first}
