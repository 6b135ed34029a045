"""What the action table saves: PPO on the table, its making counted, against PPO that calls the segmenter.

    python benchmarks/table_vs_live.py [--actions 12 48] [--total-timesteps 2000]

Both sides run the real finetune stage with equal rewards (half the reward network, half Dice) on the embedded
data and segmenter. The table's side also pays for segmenting, post-processing and scoring each training image
under every action from an empty cache; the live side gets its observations and prior for nothing. Exit code 1
when a ratio is below `LEAST`. The ratio of processor seconds stands beside it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from job import device, inputs, segmenters
from job.logs import Output
from job.places import Places
from job.progress import SILENT, SharedTask
from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Segmentation, Segmenter
from job.spec.actions import DEFAULT_POSTPROCESS, DEFAULT_PROMPTS
from job.spec.job import JobSpec
from job.stages import audit, finetune, pull, reward, table
from job.stages.pull import open_dataset
from job.stages.stage import StageContext, StageResult, compute
from job.storage.fetch import Fetcher
from job.storage.mirror import NoMirror

LEAST = {12: 10.0, 48: 5.0}
N_IMAGES, SIZE = 20, 128


class Counting:
    """A segmenter that counts its calls and the (image, prompt) pairs in them."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.key = segmenter.key
        self.calls = 0
        self.pairs = 0
        self._segmenter = segmenter

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Count, then segment."""
        self.calls += 1
        self.pairs += len(images) * len(prompts)
        return self._segmenter.segment(images, prompts)


def spec_of(n_actions: int, total_timesteps: int, rollout: str) -> JobSpec:
    """Return quick's spec with the first post-processings that make `n_actions`."""
    return JobSpec.model_validate(
        {
            "name": "benchmark",
            "data": {"synthetic": {"train": N_IMAGES, "validation": 2, "test": 2, "size": SIZE}},
            "actions": {"postprocess": DEFAULT_POSTPROCESS[: n_actions // len(DEFAULT_PROMPTS)]},
            "reward": {
                "terms": {"reward_net": 0.5, "dice": 0.5},
                "network": {
                    "init": "scratch",
                    "epochs": 1,
                },  # its quality does not matter here, its cost does
            },
            "finetune": {"total_timesteps": total_timesteps, "rollout": rollout},
        }
    )


def prepared(spec: JobSpec, root: Path, output: Output) -> StageContext:
    """Run the stages before finetune, which both sides need and neither pays for."""
    done: dict[str, StageResult] = {}
    machine = device.prepare(spec.runtime)
    found = inputs.find(spec, Places.of(spec)).fetch(Fetcher(root / "cache", 0, SILENT, output.log))
    context = StageContext.open(spec, found, root / "cache", NoMirror(), done, machine, SILENT, output.log)
    for stage in (pull.STAGE, table.STAGE, reward.STAGE, audit.STAGE):
        done[stage.name] = compute(stage, context, root / "stages" / stage.name, stage.fingerprint(context))
    if not audit.passed(context):
        sys.exit("a validity check fails, so that finetune would be skipped: nothing to compare")
    return context


@dataclass(frozen=True)
class Side:
    """What one side took."""

    seconds: float
    processor_seconds: float
    counting: Counting


def timed_side(context: StageContext, spec: JobSpec, folder: Path) -> Side:
    """Run one side from an empty cache."""
    counting = Counting(segmenters.load(spec.segmenter, context.inputs.segmenter, "cpu", context.log))
    cache = SegmentationCache(
        folder / "cache",
        key=counting.key,
        prompts=context.space.prompts,
        keep=True,
        open_segmenter=lambda: counting,
    )
    (folder / "out").mkdir(parents=True)
    context = replace(
        context, spec=spec, segmentations=cache, folder=folder / "out", scratch=folder / "scratch"
    )
    began, processor_began = time.perf_counter(), time.process_time()
    if spec.policy.rollout == "table":
        table.build(context, "train", scored=table.terms(context))
        dataset = open_dataset(context)
        samples = dataset.of("train")
        with SILENT.task("judging masks", len(samples), "images") as task:
            list(table.judge(context, dataset, samples, reward.load_judges(context), SharedTask(task)))
    finetune.run(context)
    return Side(time.perf_counter() - began, time.process_time() - processor_began, counting)


def main() -> int:
    """Compare both sides for each number of actions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actions", type=int, nargs="+", default=[12, 48])
    parser.add_argument("--total-timesteps", type=int, default=2_000)
    arguments = parser.parse_args()
    failed = False
    for n_actions in arguments.actions:
        with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("w") as nowhere:
            root = Path(name)
            output = Output(level="error", stream=nowhere)
            specs = {
                rollout: spec_of(n_actions, arguments.total_timesteps, rollout)
                for rollout in ("table", "live")
            }
            context = prepared(specs["table"], root, output)
            sides = {rollout: timed_side(context, spec, root / rollout) for rollout, spec in specs.items()}
        for rollout, side in sides.items():
            print(
                f"{n_actions} actions, {rollout:>5}: {side.seconds:6.1f} s ({side.processor_seconds:.1f} s of"
                f" processor), {side.counting.calls} segmenter calls,"
                f" {side.counting.pairs} (image, prompt) pairs"
            )
        ratio = sides["live"].seconds / sides["table"].seconds
        processor_ratio = sides["live"].processor_seconds / sides["table"].processor_seconds
        least = LEAST.get(n_actions, 1.0)
        failed |= ratio < least
        print(
            f"{n_actions} actions: live / table = {ratio:.1f} (least {least:g}),"
            f" of processor {processor_ratio:.1f}"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
