"""Masks a second by CLIPSeg and SAM 3, as their documentation calls them and with features read once.

    python -m benchmarks.feature_reuse [--images 8] [--prompts 12] [--rounds 3] [--dtype bfloat16] [--tiny]

Checkpoints with random weights are made in a temporary folder: of the published geometry on a CUDA device,
tiny on a CPU or with `--tiny`. Three ways to the same masks are compared in every round, each after a trial:

* a pair a call: `model(**inputs)` for each image and prompt;
* an image a call: the image repeated for its prompts, `model(**inputs)` once an image;
* features reused: the segmenter of this program, all images in one call.

Pixels are prepared alike and count in all three. Masks a second are of the median round. Exit code 1 where
the masks of the first and the last way differ in more than `MOST_DIFFERING` of their pixels in float32.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, CLIPSegConfig, CLIPSegForImageSegmentation, Sam3Config, Sam3Model

from job.data.image_names import NAMELESS
from job.segmenters.text_prompted.adapter import TextPromptedSegmenter
from job.segmenters.text_prompted.door import Kind, TextPromptedFamily
from tests.segmenters.text_prompted import tiny

MOST_DIFFERING = 1e-3
SIZE = (584, 565)
Masks = NDArray[np.bool_]


def main() -> int:
    """Measure, print one table."""
    options = _options()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    is_tiny = options.tiny or device == "cpu"
    dtype = options.dtype or ("float32" if device == "cpu" else "bfloat16")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(options.images)]
    prompts = [" ".join(tiny.WORDS[: 1 + n % 9]) + " the" * (n // 9) for n in range(options.prompts)]
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, {dtype}, {len(images)} images x {len(prompts)} prompts,"
          f" {'tiny' if is_tiny else 'published'} geometry")  # fmt: skip
    print(
        f"{'':8} {'pair a call':>13} {'image a call':>13} {'reused':>10} {'gain':>6} {'differ':>9} {'GB':>6}"
    )
    worst = 0.0
    for kind in ("clipseg", "sam3"):
        with tempfile.TemporaryDirectory() as folder:
            worst = max(
                worst, _row(kind, Path(folder), device, dtype, images, prompts, options.rounds, is_tiny)
            )
    return 1 if dtype == "float32" and worst > MOST_DIFFERING else 0


def _row(
    kind: Kind, folder: Path, device: str, dtype: str, images: list[NDArray[np.uint8]], prompts: list[str],
    rounds: int, is_tiny: bool,
) -> float:  # fmt: skip
    _make(kind, folder, is_tiny=is_tiny)
    family = TextPromptedFamily(kind, dtype)  # type: ignore[arg-type]
    segmenter = family.load(folder, device, None, NAMELESS)
    assert isinstance(segmenter, TextPromptedSegmenter)
    network: Any = segmenter._network
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def plain(step: int) -> Masks:
        masks = []
        for image in images:
            for first in range(0, len(prompts), step):
                some = prompts[first : first + step]
                tokens = tokenizer(
                    some, padding="max_length", max_length=network._length, return_tensors="pt"
                )
                pixels = torch.from_numpy(np.stack([network.preparation(image)] * len(some)))
                with torch.inference_mode():
                    asked = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}
                    found = network._model(pixel_values=pixels.to(device, network.dtype), **asked)
                logits = found.logits if kind == "clipseg" else found.semantic_seg
                masks.append((logits.reshape(len(some), *logits.shape[-2:]) > 0).cpu().numpy())
        return np.concatenate(masks)

    def reused() -> Masks:
        segmenter._prompts.clear()  # prompts are read in every round, as in a job's first
        return np.concatenate([one.logits_PHW > 0 for one in segmenter.segment(images, prompts)])

    ways: list[Callable[[], Masks]] = [lambda: plain(1), lambda: plain(min(len(prompts), 16)), reused]
    masks = [way() for way in ways]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, taken in zip(ways, seconds, strict=True):
            started = time.perf_counter()
            way()
            taken.append(time.perf_counter() - started)
    rates = [len(masks[0]) / statistics.median(taken) for taken in seconds]
    differing = float((masks[0] != masks[2]).mean())
    peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    print(f"{kind:8} {rates[0]:>11.1f}/s {rates[1]:>11.1f}/s {rates[2]:>8.1f}/s {rates[2] / rates[0]:>5.1f}x"
          f" {differing:>9.2e} {peak:>6.1f}", flush=True)  # fmt: skip
    return differing


def _make(kind: Kind, folder: Path, *, is_tiny: bool) -> None:
    if is_tiny:
        tiny.make(folder, kind)
        return
    words = tiny.tokenizer()
    torch.manual_seed(0)
    ends = {"eos_token_id": len(words) - 1, "bos_token_id": len(words) - 2, "pad_token_id": len(words) - 1}
    with torch.device("cuda"):
        if kind == "clipseg":  # CIDAS/clipseg-rd64-refined
            vision = {"image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12}
            config = CLIPSegConfig(
                vision_config=vision, text_config=ends, reduce_dim=64, extract_layers=[3, 6, 9],
                use_complex_transposed_convolution=True,
            )  # fmt: skip
            model: Any = CLIPSegForImageSegmentation(config)
        else:
            model = Sam3Model(Sam3Config())
            for name, value in ends.items():
                setattr(model.config.text_config, name, value)
    model.to(torch.bfloat16 if kind == "sam3" else torch.float32).save_pretrained(folder)
    words.save_pretrained(folder)
    side = 352 if kind == "clipseg" else 1008
    document = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(document))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CLIPSeg and SAM 3 before and after feature reuse.")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
