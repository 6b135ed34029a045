"""What `sa2va_speed` measures of one geometry; workers of a table import that module, so this is apart."""

import argparse
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_busy import busy
from benchmarks.sa2va_checkpoints import make
from benchmarks.table_workers import PLAIN, POSTPROCESS, make_images, table_of
from job.actions import ActionSpace, PostProcess, apply
from job.data.dataset import Dataset
from job.device import available_cpus
from job.segmenters.registry import SAM2_INPUT_SIZE, sa2va_options
from job.segmenters.remote_code import trust_digest
from job.segmenters.sa2va.adapter import Sa2vaSegmenter
from job.segmenters.sa2va.agreement import enlarged
from job.segmenters.sa2va.attention import use_attention
from job.segmenters.sa2va.loading import Checkpoint, load_checkpoint
from job.segmenters.sa2va.norms import fuse_norms
from job.segmenters.sa2va.options import Sa2vaOptions
from job.segmenters.sa2va.reference import Reference
from job.spec.segmenter import Sa2vaSpec

Picture = NDArray[np.uint8]
PICTURES = ((565, 584), (999, 960))
"""Width and height: DRIVE's and CHASE_DB1's."""
PROMPTS = tuple(
    f"{please} {what}."
    for please in ("Please segment", "Find", "Segment all of")
    for what in (
        "the blood vessels in this image",
        "the fine capillaries",
        "arteries and veins",
        "the optic disc",
    )
)
N_IMAGES, N_CALLS, REPEATS = 20, 2048, 3
IMAGES_PER_CALL = 20
ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention,
    torch.ops.aten._scaled_dot_product_efficient_attention,
    torch.ops.aten._scaled_dot_product_cudnn_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
)
BATCHES = {(565, 584): (1, 2, 5, 10, 20), (999, 960): (1, 2, 4, 10)}


@dataclass(frozen=True)
class Spoken:
    """What `predict_forward` took and gave for some pairs."""

    seconds: list[float]
    pairs: list[tuple[int, int]]
    masks: list[NDArray[np.bool_]]


def picture(number: int, size: tuple[int, int]) -> Picture:
    """Return smooth noise, another for each number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8))
    return np.asarray(coarse.resize(size))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds until the device is done, and what `call` gave."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    return time.perf_counter() - started, result


def spoken(checkpoint: Checkpoint, images: Sequence[Picture], calls: int) -> Spoken:
    """Time `predict_forward` on pairs of another image and prompt each."""
    reference = Reference(checkpoint)
    pairs = [(k % len(images), k % len(PROMPTS)) for k in range(calls)]
    for i, p in [(0, 0), (1, 1)]:
        reference.predict(Image.fromarray(images[i]), f"<image>\n{PROMPTS[p]}")
    seconds, masks = [], []
    for i, p in pairs:
        one = Image.fromarray(images[i])
        took, said = timed(partial(reference.predict, one, f"<image>\n{PROMPTS[p]}"))
        assert len(said.masks_SHW) == 1, f"predict_forward replied {said.reply!r}"
        seconds.append(took)
        masks.append(said.masks_SHW[0].numpy())
    return Spoken(seconds, pairs, masks)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the overlap of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def row(
    size: str,
    checkpoint: Checkpoint,
    segmenter: Sa2vaSegmenter,
    shape: tuple[int, int],
    said: Spoken,
    rate: float,
) -> dict[str, Any]:
    """Measure the table of one geometry and picture size against what `predict_forward` gave."""
    images = [picture(i, shape) for i in range(N_IMAGES)]
    torch.cuda.reset_peak_memory_stats()
    first, _ = timed(lambda: segmenter.segment(images, PROMPTS))
    runs = [timed(lambda: segmenter.segment(images, PROMPTS)) for _ in range(REPEATS)]
    table = statistics.median(took for took, _ in runs)
    answers = runs[0][1]
    peak = torch.cuda.max_memory_allocated() / 2**30
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(ATTENTION, _attention)) as counter:
        segmenter.segment(images, PROMPTS)
    large = int(checkpoint.model.grounding_encoder.sam2_model.image_size)
    space = ActionSpace(PROMPTS, (PostProcess(),))
    same, no_op = [], []
    for (i, p), mask in zip(said.pairs, said.masks, strict=True):
        logits = answers[i].logits_PHW
        same.append(iou(enlarged(logits[p], large, mask.shape) > 0, mask))
        no_op.append(iou(apply(space, p, logits, mask.shape), mask))
    others = [iou(answers[0].logits_PHW[0] > 0, answers[0].logits_PHW[p] > 0) for p in range(1, len(PROMPTS))]
    mean = statistics.mean(said.seconds)
    tflop = counter.get_total_flops() / 1e12
    return {
        "model": size, "image": f"{shape[0]}x{shape[1]}", "predict_forward ms": 1000 * mean,
        "spread ms": 1000 * statistics.pstdev(said.seconds), "loop s": mean * N_CALLS, "first s": first,
        "table s": table, "ratio": mean * N_CALLS / table, "TFLOP": tflop, "TFLOP/s": tflop / table,
        "limit s": tflop / (rate / 2), "over limit": table * (rate / 2) / tflop,
        "busy %": 100 * busy(lambda: segmenter.segment(images, PROMPTS))[0], "peak GiB": peak,
        "mean IoU": statistics.mean(same), "min IoU": min(same), "no-op IoU": statistics.mean(no_op),
        "prompts' IoU": statistics.mean(others), "fallbacks": segmenter.counters.fallback_pairs,
    }  # fmt: skip


def batches(
    checkpoint: Checkpoint, options: Sa2vaOptions, shape: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Measure memory and time against the number of images in a batch."""
    images = [picture(i, shape) for i in range(N_IMAGES)]
    for n in BATCHES[shape]:
        segmenter = Sa2vaSegmenter(checkpoint, replace(options, images_per_batch=n), "0" * 64)
        segmenter.segment(images[:n], PROMPTS)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        took, _ = timed(partial(segmenter.segment, images, PROMPTS))
        peak = torch.cuda.max_memory_allocated() / 2**30
        yield {"image": f"{shape[0]}x{shape[1]}", "images a batch": n, "table s": took, "peak GiB": peak}


def stream(segmenter: Sa2vaSegmenter, shape: tuple[int, int], n: int) -> dict[str, Any]:
    """Segment n generated images in calls of 20, each call's made while the one before it is computed."""

    def chunk(first: int) -> list[Picture]:
        return [picture(number, shape) for number in range(first, min(n, first + IMAGES_PER_CALL))]

    def work() -> None:
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(chunk, 0)
            for first in range(0, n, IMAGES_PER_CALL):
                images = coming.result()
                coming = ahead.submit(chunk, first + IMAGES_PER_CALL)
                seen.extend(float(answer.embedding_D[0]) for answer in segmenter.segment(images, PROMPTS))

    seen: list[float] = []
    before = _resident()
    with _Watched() as watched:
        took, _ = timed(work)
    assert len(seen) == n
    return {
        "image": f"{shape[0]}x{shape[1]}", "images": n, "seconds": took, "images/s": n / took,
        "nvidia-smi busy %": watched.mean(), "samples": len(watched.samples),
        "host GiB before": before, "host GiB after": _resident(),
        "host peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def _attention(queries: Sequence[int], keys: Sequence[int], *_: Any, **__: Any) -> int:
    # PyTorch's own count knows no heads of keys that several heads of queries share.
    return 4 * math.prod(queries) * keys[-2]


class _Watched:
    """The device's utilisation as nvidia-smi samples it, ten times a second."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        command = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-lms",
            "100",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> "_Watched":
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._reader.join()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip().isdigit():
                self.samples.append(float(line))

    def mean(self) -> float:
        """Return the mean but for the first half second and the last sample, which look at other times."""
        inner = self.samples[5:-1]
        return statistics.mean(inner) if inner else float("nan")


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def stages(segmenter: Sa2vaSegmenter, n: int, shape: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Make action tables as the job does: the same few with masks by the CPU and by the device, then of n.

    `busy` is CUPTI's share for the few images, among them the first, which nothing overlaps with, and
    nvidia-smi's for the many.
    """
    space = ActionSpace(PROMPTS, POSTPROCESS, SAM2_INPUT_SIZE)
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_images(Path(folder), n, *shape[::-1])
        few = Dataset(dataset.samples[:N_IMAGES])
        for device, some in (("cpu", few), ("cuda", few), ("cuda", dataset)):
            make = partial(
                table_of, some, space, segmenter, PLAIN, available_cpus(), device, batch_size=IMAGES_PER_CALL
            )
            with _Watched() as watched:
                table, seconds = make()
            share = 100 * busy(make)[0] if some is few else watched.mean()
            digests.update([table.digest()] if some is few else [])
            yield {
                "image": f"{shape[0]}x{shape[1]}", "images": len(some.samples), "actions": len(space),
                "masks on": device, "images/s": len(some.samples) / seconds, "busy %": share,
                "equal": len(digests) == 1 if device == "cuda" and some is few else None,
            }  # fmt: skip


def measure(
    size: str, folder: Path, asked: argparse.Namespace, found: Mapping[str, list[dict[str, Any]]]
) -> Iterator[str]:
    """Measure one geometry; yields the part of `found` to which a row was added."""

    def add(part: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
        for one in rows:
            found[part].append(one)
            yield part

    make(folder, asked.code, size, PROMPTS, "cuda")
    torch.cuda.empty_cache()
    spec = Sa2vaSpec(kind="sa2va", uri=str(folder), trust_code=trust_digest(folder))
    options = sa2va_options(spec)
    # predict_forward as the checkpoint's code runs by itself, then the adapter as it runs by default.
    checkpoint = load_checkpoint(folder, "cuda", replace(options, attention="eager"))
    is_asked = {part: part in asked.parts and (part == "table" or size == asked.detail) for part in found}
    said = {
        shape: spoken(checkpoint, [picture(i, shape) for i in range(N_IMAGES)], asked.calls)
        for shape in PICTURES
        if is_asked["table"]
    }
    use_attention(checkpoint.model, options.attention)
    fuse_norms(checkpoint.model)
    segmenter = Sa2vaSegmenter(checkpoint, options, "0" * 64)
    for shape in PICTURES if is_asked["table"] else ():
        yield from add("table", [row(size, checkpoint, segmenter, shape, said[shape], asked.rate)])
    for shape, n in zip(PICTURES, asked.stage, strict=True) if is_asked["stage"] else ():
        yield from add("stage", stages(segmenter, n, shape))
    for shape in PICTURES if is_asked["batches"] else ():
        yield from add("batches", batches(checkpoint, options, shape))
    for shape, numbers in zip(PICTURES, (asked.stream, asked.stream_large), strict=True):
        for n in numbers if is_asked["stream"] else ():
            yield from add("stream", [stream(segmenter, shape, n)])


def device() -> str:
    """Name what is measured; raises SystemExit without a CUDA device."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark measures a CUDA device, and torch sees none")
    torch.set_num_threads(available_cpus())
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {available_cpus()} CPUs"
