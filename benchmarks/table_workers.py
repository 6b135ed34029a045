"""How the action table keeps an accelerator busy: images a second by scoring threads and by who makes masks.

    python -m benchmarks.table_workers [--threads 1 2 4] [--sizes 565x584 999x960] [--terms plain topology]
        [--masks cpu cuda]

The segmenter is a stand-in: for `--segmenter-ms` a megapixel of an image and prompt it works, on a CUDA
device where there is one and else asleep, and hands out logits made before. So what is measured is the
pipeline, and `busy` the share of the table's time in which the segmenter was at work; the first images have
nothing to overlap with, so a short table is less busy than a long one. A thread gets `--images` images.

With `--masks` masks are made by numpy in the workers (`cpu`) or by torch (`cuda`; `cpu:0`: so, but on a CPU).
On a CUDA device `gpu` is the share of a second table's time in which kernels or copies ran (CUPTI), those of
the segmenter and of the masks together. Equal images must have equal rows whatever the threads and whoever
makes masks. With `--many 20 200 1000` it then makes tables of so many small images: images a second and
memory should stay flat. Exit code 1 when a row differs.
"""

import argparse
import itertools
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.gpu_busy import busy
from job import table_making
from job.actions import ActionSpace, PostProcess
from job.data.dataset import Dataset, Sample
from job.data.fundus import sample as photograph
from job.data.images import write_image, write_mask
from job.device import available_cpus
from job.progress import SILENT
from job.rows import RowCache
from job.segmenters.cache import SegmentationCache
from job.segmenters.protocol import Segmentation, Segmenter
from job.spec.actions import DEFAULT_POSTPROCESS
from job.table import ActionTable

N_PROMPTS = 12
PLAIN = ["dice", "recall", "precision"]
TERMS = {"plain": PLAIN, "topology": [*PLAIN, "cldice"]}
POSTPROCESS = tuple(PostProcess(**one.model_dump()) for one in DEFAULT_POSTPROCESS)
SPACE = ActionSpace(tuple(f"prompt {p}" for p in range(N_PROMPTS)), POSTPROCESS)


class StandIn:
    """Answers each image with noisy logits of its vessels, after the time that a model would take."""

    key = "5" * 64

    def __init__(self, truths: Sequence[NDArray[np.bool_]], ms_a_megapixel: float) -> None:
        self.busy_s = 0.0
        self._s_a_pixel = ms_a_megapixel / 1e9
        self._logits = [_logits(truth, seed) for seed, truth in enumerate(truths)]
        self._asked = 0
        self._work = torch.rand(4096, 4096, device="cuda") if torch.cuda.is_available() else None

    def segment(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[Segmentation]:
        """Take as long as a model would."""
        began = time.perf_counter()
        pixels = sum(image.shape[0] * image.shape[1] for image in images)
        self._compute(pixels * len(prompts) * self._s_a_pixel)
        answers = []
        for _ in images:
            logits_PHW = self._logits[self._asked % len(self._logits)]
            answers.append(Segmentation(logits_PHW, np.zeros(64, np.float32)))
            self._asked += 1
        self.busy_s += time.perf_counter() - began
        return answers

    def _compute(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        if self._work is None:
            time.sleep(seconds)
        while self._work is not None and time.perf_counter() < until:
            for _ in range(4):  # many small launches, as a model's: each wants Python's lock
                self._work = (self._work @ self._work).clamp_(0, 1)
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Result:
    """One table."""

    table: ActionTable
    seconds: float
    processor_s: float
    busy: float
    """Of the time, what the segmenter took."""
    gpu: float | None
    """Of the time, that in which a CUDA device had something to do; None without one."""

    @property
    def speed(self) -> float:
        """Images a second."""
        return len(self.table.names) / self.seconds


def make_images(folder: Path, n: int, height: int, width: int) -> Dataset:
    """Write n photographs of a size, four of them different in more than a few pixels."""
    samples = []
    side = -(-max(height, width) // 16) * 16
    made_before = lru_cache(photograph)
    for i in range(n):
        made = made_before(i % 4, seed=0, size=side)
        image, mask = made.image_HWC[:height, :width].copy(), made.mask_HW[:height, :width]
        image[0, : len(SPACE), 0] = i % 256
        image[1, 0] = i // 256
        paths = [folder / kind / f"{i}.png" for kind in ("images", "masks")]
        write_image(paths[0], image)
        write_mask(paths[1], mask)
        samples.append(Sample(f"i{i}", f"p{i}", "train", paths[0], paths[1], None))
    return Dataset(samples)


def table_of(
    dataset: Dataset,
    space: ActionSpace,
    segmenter: Segmenter,
    terms: Sequence[str],
    threads: int,
    device: str,
    *,
    batch_size: int = 4,
    keep: bool = True,
) -> tuple[ActionTable, float]:
    """Make the table from an empty cache on a disk; returns it with the seconds that it took."""
    with tempfile.TemporaryDirectory() as root:
        cache = SegmentationCache(
            Path(root), key=segmenter.key, prompts=space.prompts, keep=keep, open_segmenter=lambda: segmenter
        )
        began = time.perf_counter()
        built = table_making.build(
            dataset, dataset.samples, space, cache, terms=terms, batch_size=batch_size,
            memory_bytes=512 * 2**20, threads=threads, progress=SILENT, rows=RowCache(Path(root)),
            device=device,
        )  # fmt: skip
        return built, time.perf_counter() - began


def make_table(
    dataset: Dataset, terms: Sequence[str], threads: int, ms: float, device: str = "cpu", *, keep: bool = True
) -> Result:
    """Make the table by the stand-in, on a CUDA device a second time with a look at the device."""
    truths = [truth for one in dataset.samples[:4] if (truth := dataset.load(one).truth) is not None]
    segmenter = StandIn(truths, ms)
    processor_began = time.process_time()
    built, seconds = table_of(dataset, SPACE, segmenter, terms, threads, device, keep=keep)
    processor_s, busy_s = time.process_time() - processor_began, segmenter.busy_s
    gpu = None
    if torch.cuda.is_available():
        again = StandIn(truths, ms)
        gpu, _ = busy(lambda: table_of(dataset, SPACE, again, terms, threads, device, keep=keep))
    return Result(built, seconds, processor_s, busy_s / seconds, gpu)


def main() -> int:
    """Compare numbers of threads, then numbers of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, available_cpus()])
    parser.add_argument("--sizes", nargs="+", default=["565x584", "999x960"])
    parser.add_argument("--terms", nargs="+", choices=TERMS, default=list(TERMS))
    masks = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--masks", nargs="+", choices=("cpu", "cpu:0", "cuda"), default=masks)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--segmenter-ms", type=float, default=6.0, help="of a megapixel and prompt")
    parser.add_argument("--many", type=int, nargs="*", default=[])
    asked = parser.parse_args()
    is_equal = True
    print(
        f"{'size':>9} {'terms':>9} {'masks':>6} {'threads':>7} {'images/s':>9} {'speed-up':>8} {'cores':>6}"
        f" {'busy':>5} {'gpu':>5}"
    )
    for size in asked.sizes:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            dataset = make_images(Path(folder), asked.images * max(asked.threads), height, width)
            for terms in asked.terms:
                first: Result | None = None
                for device, threads in itertools.product(asked.masks, asked.threads):
                    some = Dataset(dataset.samples[: asked.images * threads])
                    one = make_table(some, TERMS[terms], threads, asked.segmenter_ms, device)
                    first = first or one
                    shared = range(min(len(first.table.names), len(one.table.names)))
                    is_equal &= one.table.rows(shared).digest() == first.table.rows(shared).digest()
                    gpu = "" if one.gpu is None else f"{one.gpu:.0%}"
                    print(
                        f"{size:>9} {terms:>9} {device:>6} {threads:7} {one.speed:9.2f}"
                        f" {one.speed / first.speed:8.2f} {one.processor_s / one.seconds:6.1f}"
                        f" {one.busy:5.0%} {gpu:>5}",
                        flush=True,
                    )
    for n in asked.many:
        with tempfile.TemporaryDirectory() as folder:
            dataset = make_images(Path(folder), n, 256, 256)
            one = make_table(
                dataset, PLAIN, max(asked.threads), asked.segmenter_ms, asked.masks[-1], keep=False
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"{n:6} images of 256x256: {one.speed:7.2f} images/s, peak of the process {peak:.0f} MiB")
    if not is_equal:
        print("tables differ between numbers of threads, or makers of masks", file=sys.stderr)
    return 0 if is_equal else 1


def _logits(truth: NDArray[np.bool_], seed: int) -> NDArray[np.float16]:
    rng = np.random.default_rng(seed)
    vessels = truth.astype(np.float32) * 8 - 4
    noise = gaussian_filter(rng.standard_normal(truth.shape), 2)
    grain = rng.standard_normal(truth.shape) / 2
    logits = [gaussian_filter(vessels, 0.6 + 0.1 * p) + noise * (6 + p) + grain for p in range(N_PROMPTS)]
    return np.stack(logits).astype(np.float16)


if __name__ == "__main__":
    raise SystemExit(main())
