"""Training curves: one row of scalars a rollout, shown by TensorBoard and kept for resume and the record."""

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
from tensorboard.summary.writer.record_writer import RecordWriter

ITERATION_TAGS = {
    "timesteps": "time/total_timesteps",
    "ep_rew_mean": "rollout/ep_rew_mean",
    "gt_dice": "custom/gt_dice",
    "reward_net_score": "custom/reward_net_score",
    "best_reward": "custom/best_reward",
    "entropy": "train/entropy_loss",
    "explained_variance": "train/explained_variance",
    "value_loss": "train/value_loss",
    "policy_gradient_loss": "train/policy_gradient_loss",
    "approx_kl": "train/approx_kl",
    "clip_fraction": "train/clip_fraction",
    "fps": "time/fps",
}

Row = dict[str, Any]


class Curves(KVWriter):
    """An output of stable-baselines3's logger that can start again from kept rows.

    It owns `folder`: event files of an earlier attempt are removed, and `replay` writes the kept rows anew,
    with their own times: steps after the resume point are gone for every reader, and no curve has two lines.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("events.out.tfevents.*"):
            stale.unlink()
        self.rows: list[Row] = []
        # Not SummaryWriter: it writes in a thread, whose errors (a full disk) come late and as a traceback.
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.0"
        self._file = (folder / name).open("wb")
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def replay(self, rows: Sequence[Row]) -> None:
        """Show kept rows, before any new one."""
        for row in rows:
            self._show(row)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Take one row of scalars; those that are not finite are left out."""
        scalars = {tag: float(value) for tag, value in key_values.items() if math.isfinite(value)}
        hidden = [tag for tag in scalars if "tensorboard" in (key_excluded.get(tag) or ())]
        self._show({"step": step, "wall_time": time.time(), "scalars": scalars, "hidden": hidden})

    def close(self) -> None:
        """Close the event file."""
        self._file.close()

    def _show(self, row: Row) -> None:
        shown = {tag: value for tag, value in row["scalars"].items() if tag not in row["hidden"]}
        if shown:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in shown.items()]
            self._add(Event(wall_time=row["wall_time"], step=row["step"], summary=Summary(value=values)))
        self.rows.append(row)

    def _add(self, event: Event) -> None:
        RecordWriter(self._file).write(event.SerializeToString())  # type: ignore[no-untyped-call]
        self._file.flush()


def iterations(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Return the figures of each rollout by the names of `ITERATION_TAGS`; NaN where there is no figure."""
    return [_iteration(row["scalars"]) for row in rows]


def append_row(path: Path, row: Row) -> None:
    """Add a row to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path, n_rows: int) -> list[Row]:
    """Read the first `n_rows` rows and forget those after them; ValueError when there are fewer."""
    lines = path.read_text(encoding="utf-8").splitlines()[:n_rows] if n_rows else []
    if len(lines) < n_rows:
        raise ValueError(f"{path} has {len(lines)} rows of {n_rows}")
    rows = [json.loads(line) for line in lines]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return rows


def _iteration(scalars: Mapping[str, float]) -> dict[str, float]:
    figures = {name: scalars.get(tag, math.nan) for name, tag in ITERATION_TAGS.items()}
    # stable-baselines3 logs the loss term, which is minus the entropy in nats.
    return figures | {"entropy": -figures["entropy"]}
