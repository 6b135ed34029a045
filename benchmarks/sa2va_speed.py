"""How much faster a whole action table of Sa2VA is than the loop of `predict_forward` calls that it replaces.

    python -m benchmarks.sa2va_speed --code FOLDER [--sizes 1B 4B 8B] [--stream 20 200 2000]

Runs on one CUDA device. FOLDER holds the model's own code: `projects/sa2va/hf/models` of bytedance/Sa2VA, or
the *.py of a checkpoint with a Qwen2 language model. Checkpoints of the released geometries are made on the
spot with random weights, images are made too. All figures are of this run: `predict_forward` is timed over
`--calls` calls (after two to warm up), and the loop of 2,048 calls is their mean times 2,048: extrapolated,
nothing else is. The table is 20 images x 12 prompts, from pictures in host memory to logits there: the median
of 3.

`TFLOP` is what PyTorch's counter says of the table's matrix products, convolutions and attention; `limit` is
the time of that at half of `--rate`, the card's dense bfloat16 rate by its datasheet. `busy` is the time in
which a kernel or a copy ran (CUPTI, by torch.profiler, in a run of its own) over that run's wall time.
"""

import argparse
import json
import math
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
    """Make the action table of n images as the job does, masks made on the CPU and on the device."""
    space = ActionSpace(PROMPTS, POSTPROCESS, SAM2_INPUT_SIZE)
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_images(Path(folder), n, *shape[::-1])
        for device in ("cpu", "cuda"):
            make = partial(
                table_of,
                dataset,
                space,
                segmenter,
                PLAIN,
                available_cpus(),
                device,
                batch_size=IMAGES_PER_CALL,
            )
            table, seconds = make()
            share, _ = busy(make)
            digests.add(table.digest())
            yield {
                "image": f"{shape[0]}x{shape[1]}", "images": n, "actions": len(space), "masks on": device,
                "images/s": n / seconds, "busy %": 100 * share, "equal": len(digests) == 1,
            }  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for one in rows:
        cells = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in one.values())
        print("| " + " | ".join(cells) + " |", flush=True)


def measure(
    size: str, folder: Path, asked: argparse.Namespace, found: dict[str, list[dict[str, Any]]]
) -> None:
    """Measure one geometry, and write what is known so far."""
    make(folder, asked.code, size, PROMPTS, "cuda")
    torch.cuda.empty_cache()
    spec = Sa2vaSpec(kind="sa2va", uri=str(folder), trust_code=trust_digest(folder))
    options = sa2va_options(spec)
    # predict_forward as the checkpoint's code runs by itself, then the adapter as it runs by default.
    checkpoint = load_checkpoint(folder, "cuda", replace(options, attention="eager"))
    said = {
        shape: spoken(checkpoint, [picture(i, shape) for i in range(N_IMAGES)], asked.calls)
        for shape in PICTURES
    }
    use_attention(checkpoint.model, options.attention)
    fuse_norms(checkpoint.model)
    segmenter = Sa2vaSegmenter(checkpoint, options, "0" * 64)
    for shape in PICTURES:
        found["table"].append(row(size, checkpoint, segmenter, shape, said[shape], asked.rate))
        show(found["table"][-1:])
    if size == asked.detail and asked.stage:
        for shape in PICTURES:
            found["stage"].extend(stages(segmenter, asked.stage, shape))
    if size == asked.detail:
        for shape in PICTURES:
            found["batches"].extend(batches(checkpoint, options, shape))
        for shape, numbers in zip(PICTURES, (asked.stream, asked.stream_large), strict=True):
            for n in numbers:
                found["stream"].append(stream(segmenter, shape, n))
                show(found["stream"][-1:])
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, required=True, help="folder of the model's own *.py")
    parser.add_argument("--sizes", nargs="+", default=["1B", "4B", "8B"])
    parser.add_argument("--detail", default="4B", help="the geometry whose batches and streams are measured")
    parser.add_argument(
        "--calls", type=int, default=12, help="of predict_forward, a geometry and picture size"
    )
    parser.add_argument("--stream", type=int, nargs="*", default=[20, 200, 2000], help="images of 565x584")
    parser.add_argument("--stream-large", type=int, nargs="*", default=[20, 200], help="images of 999x960")
    parser.add_argument("--stage", type=int, default=60, help="images of a whole table stage; 0: none")
    parser.add_argument(
        "--rate", type=float, default=990.0, help="dense bfloat16 TFLOP/s (H100 and H200: 990)"
    )
    parser.add_argument("--work", type=Path, help="where checkpoints are made, up to 17 GB")
    parser.add_argument("--json", type=Path, help="where the figures are written, too")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("this benchmark measures a CUDA device, and torch sees none")
    torch.set_num_threads(available_cpus())
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {available_cpus()} CPUs", flush=True)
    found: dict[str, list[dict[str, Any]]] = {"table": [], "stage": [], "batches": [], "stream": []}
    for size in asked.sizes:
        work = Path(tempfile.mkdtemp(dir=asked.work))
        try:
            measure(size, work / size, asked, found)
        finally:
            shutil.rmtree(work)
            torch.cuda.empty_cache()
    for name in ("table", "stage", "batches", "stream"):
        if found[name]:
            print(f"\n{name}")
            show(found[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
