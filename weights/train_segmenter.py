"""Train the embedded promptable segmentation network from nothing, and write its checkpoint folder.

    python weights/train_segmenter.py                   # a GPU: the recipe of what ships, two minutes
    python weights/train_segmenter.py --minutes 20 --batch 8 --crop 128 --out DIR   # a CPU: a rough network

Every scene is drawn from seeds of 10**9 and above, which no spec uses. Worker processes render scenes while
the network trains on those that are there, each with a fresh sentence for each of the three meanings. What
ships took 2,300 steps on 12,600 scenes, two minutes on a machine with an H100 and 16 cores; the sums of a GPU
are not reproducible to the bit, so a new training gives like figures, not equal bytes.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prompts import MEANINGS, draw_prompt, vocabulary
from randomisation import draw_scene
from torch import Tensor
from torch.nn import functional as F

from job.data import fundus
from job.segmenters.promptable_unet.pretrained import (
    PretrainedPromptableUNet,
    PretrainedPromptableUNetConfig,
    build_tokenizer,
)

SEED = 10**9
HELD_OUT_SEED = 2 * 10**9
CHECKPOINT = Path(__file__).resolve().parents[1] / "job" / "segmenters" / "promptable_unet" / "checkpoint"
_MAX_TOKENS = 16
_ALL, _MAJOR = 1, 2  # bits of a label


def main() -> None:
    """Render and train side by side, save, measure."""
    options = _options()
    with _workers(options.workers) as workers:
        scenes = Scenes(workers, options)
        torch.manual_seed(options.seed)
        device = torch.device(options.device)
        tokenizer = build_tokenizer(vocabulary())
        config = PretrainedPromptableUNetConfig(
            vocab_size=len(tokenizer),
            widths=tuple(options.widths),
            decoder_widths=tuple(options.decoder_widths),
        )
        network = PretrainedPromptableUNet(config).to(device)
        print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
        train(network, scenes, options, tokenizer)
    network.eval()
    save(network, tokenizer, options.out)
    report_held_out(network.float(), tokenizer, device)


class Scenes:
    """Crops and their labels (bit 0: a vessel, bit 1: a major one), growing in number as training runs.

    At a given step the same scenes are there in every run: a slow renderer is waited for.
    """

    def __init__(self, workers: Any, options: argparse.Namespace) -> None:
        count, size = options.scenes, options.crop
        device = torch.device(options.device)
        jobs = ((options.seed, index, size) for index in range(count))
        self._arriving = workers.imap(_render, jobs, chunksize=8)
        self._pixels = torch.empty((count, 3, size, size), dtype=torch.uint8, device=device)
        self._labels = torch.empty((count, size, size), dtype=torch.uint8, device=device)
        self._count = 0
        self._steps_to_fill = options.steps

    def __len__(self) -> int:
        return self._count

    def draw(self, rng: np.random.Generator, step: int, batch: int) -> tuple[Tensor, Tensor]:
        """Return a batch of crops and labels, turned and mirrored by one of the square's eight symmetries."""
        total = len(self._pixels)
        first = min(1000, total)
        wanted = min(total, first + int((total - first) * step / self._steps_to_fill))
        while self._count < wanted:
            crop, label = next(self._arriving)
            self._pixels[self._count] = torch.from_numpy(crop)
            self._labels[self._count] = torch.from_numpy(label)
            self._count += 1
        chosen = torch.from_numpy(rng.integers(self._count, size=batch)).to(self._pixels.device)
        crops, labels = self._pixels[chosen], self._labels[chosen]
        quarter = int(rng.integers(4))
        crops, labels = torch.rot90(crops, quarter, (2, 3)), torch.rot90(labels, quarter, (1, 2))
        return (crops.flip(3), labels.flip(2)) if rng.integers(2) else (crops, labels)


def train(
    network: PretrainedPromptableUNet, scenes: Scenes, options: argparse.Namespace, tokenizer: Any
) -> None:
    """Minimise binary cross-entropy plus a share of soft Dice, one prompt of each meaning an image."""
    device = next(network.parameters()).device
    rng = np.random.default_rng([options.seed, 1])
    sentences = [_sentences(rng, tokenizer, meaning).to(device) for meaning in range(len(MEANINGS))]
    network.to(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=options.lr, weight_decay=1e-2, fused=device.type == "cuda"
    )
    network.train()
    started, running = time.monotonic(), torch.zeros(2, device=device)
    for step in range(1, options.steps + 1):
        elapsed = time.monotonic() - started
        progress = max(step / options.steps, elapsed / (60 * options.minutes))
        if progress > 1:
            print(f"{options.minutes} minutes are over at step {step}", flush=True)
            break
        for group in optimiser.param_groups:
            group["lr"] = options.lr * min(1.0, step / 200) * 0.5 * (1 + math.cos(math.pi * progress))
        crops, labels = scenes.draw(rng, step, options.batch)
        tokens = torch.stack(
            [s[torch.from_numpy(rng.integers(len(s), size=len(crops))).to(device)] for s in sentences], 1
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(crops, tokens).logits.float()
        target = torch.stack([labels & _ALL > 0, labels & _MAJOR > 0, labels == _ALL], 1).float()
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
        dice = _soft_dice_loss(logits, target)
        optimiser.zero_grad(set_to_none=True)
        (cross_entropy + options.dice_weight * dice).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        running += torch.stack([cross_entropy.detach(), dice.detach()])
        if step % options.report_every == 0:
            mean = (running / options.report_every).tolist()
            rate = step / (time.monotonic() - started)
            print(
                f"step {step:>6}  bce {mean[0]:.4f}  dice loss {mean[1]:.4f}  {len(scenes):,} scenes  "
                f"{rate:.1f} steps/s",
                flush=True,
            )
            running.zero_()


def save(network: PretrainedPromptableUNet, tokenizer: Any, folder: Path) -> None:
    """Write config.json, model.safetensors (float16) and the tokenizer's files; keep others, as README.md."""
    folder.mkdir(parents=True, exist_ok=True)
    network.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    print(f"wrote {folder}: {size:,} bytes")


def report_held_out(network: PretrainedPromptableUNet, tokenizer: Any, device: torch.device) -> None:
    """Print Dice of each meaning at threshold 0.5 on 48 unseen images of the data set's own distribution."""
    texts = [
        "Please segment the retinal blood vessels.",
        "Segment the major vessels.",
        "Segment the fine vessels.",
    ]
    tokens = _encode(tokenizer, texts).to(device)
    scores = np.zeros((48, 3))
    hazy = np.zeros(48, dtype=bool)
    for index in range(48):
        picture = fundus.render(np.random.default_rng([HELD_OUT_SEED, index]), 128)
        image = torch.from_numpy(picture.image_HWC).permute(2, 0, 1)[None].to(device)
        with torch.inference_mode():
            masks = (network(image, tokens).logits[0] > 0).cpu().numpy()
        truths = (picture.vessels_HW, picture.major_HW, picture.vessels_HW & ~picture.major_HW)
        for meaning, truth in enumerate(truths):
            overlap = 2 * (masks[meaning] & truth).sum()
            scores[index, meaning] = overlap / max(1, masks[meaning].sum() + truth.sum())
        hazy[index] = picture.clarity < 0.5
    for name, group in (("clear", ~hazy), ("hazy", hazy)):
        figures = ", ".join(f"{m} {s:.3f}" for m, s in zip(MEANINGS, scores[group].mean(0), strict=True))
        print(f"held-out Dice, {name}: {figures}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="checkpoint folder to write")
    parser.add_argument("--device", default=None, help="cpu or cuda; else what there is")
    parser.add_argument("--scenes", type=int, default=12_600, help="training crops to render")
    parser.add_argument("--crop", type=int, default=160, help="size of a crop in pixels")
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--dice-weight", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=SEED, help=f"at least {SEED}: no spec uses those")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 80])
    parser.add_argument("--decoder-widths", type=int, nargs="+", default=[16, 24, 40])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="rendering processes")
    parser.add_argument("--minutes", type=float, default=60, help="end by then, the learning rate annealed")
    parser.add_argument("--report-every", type=int, default=100)
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cpu" and options.out == CHECKPOINT:
        parser.error(
            "no GPU: two cores would write a much weaker network over the shipped one;"
            " run this on a machine with a GPU, or name another place with --out"
        )
    if options.seed < SEED:
        parser.error(f"--seed must be at least {SEED}: smaller seeds belong to specs and their test images")
    return options


def _workers(count: int) -> Any:
    # Forked before the first use of a device: a spawned worker would import PyTorch again, for nothing.
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Pool(count)


def _render(task: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    seed, index, crop = task
    scene = draw_scene(np.random.default_rng([seed, index]), crop)
    label = scene.vessels_HW * np.uint8(_ALL) + scene.major_HW * np.uint8(_MAJOR)
    return scene.image_HWC.transpose(2, 0, 1), label


def _soft_dice_loss(logits_BPHW: Tensor, target_BPHW: Tensor) -> Tensor:
    probability = torch.sigmoid(logits_BPHW)
    overlap = (probability * target_BPHW).sum((2, 3))
    total = probability.sum((2, 3)) + target_BPHW.sum((2, 3))
    return (1 - (2 * overlap + 20) / (total + 20)).mean()


def _sentences(rng: np.random.Generator, tokenizer: Any, meaning: int, count: int = 4000) -> Tensor:
    """Return tokens `[count, T]` of sentences with one meaning, a few words unknown as users' will be."""
    tokens = _encode(tokenizer, [draw_prompt(rng, meaning).text for _ in range(count)])
    neutral = ["segment", "please", "the", "in", "image", "retinal", "this"]
    known = torch.tensor(tokenizer.convert_tokens_to_ids(neutral))
    unknown = torch.from_numpy(rng.uniform(size=tokens.shape) < 0.3) & torch.isin(tokens, known)
    return tokens.masked_fill(unknown, tokenizer.unk_token_id)


def _encode(tokenizer: Any, texts: list[str]) -> Tensor:
    encoded = tokenizer(
        texts, padding="max_length", truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
    )
    ids: Tensor = encoded["input_ids"]
    return ids


if __name__ == "__main__":
    main()
