"""Pretrain the embedded reward network from nothing on synthetic scenes, and write its file.

    python weights/train_reward_network.py      # a GPU: the recipe of what ships, minutes
    python weights/train_reward_network.py --scenes 300 --steps 900 --batch 4 --out FILE     # a CPU: rough

Needs the embedded segmenter's checkpoint (train_segmenter.py): most masks are its answers to the default
actions. Every scene is drawn from seeds of 3 * 10**9 and above, which no spec uses.
"""

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from reward_scenes import RewardScene, default_space, draw_reward_scene
from torch import Tensor
from torch.nn import functional as F

from job.actions import apply_all
from job.data.fundus import sample
from job.reward import terms
from job.reward.calibration import judge_quality
from job.reward.losses import balance
from job.reward.network import NetworkJudge, RewardNetwork, RewardNetworkConfig
from job.reward.network_file import EMBEDDED, save, scratch
from job.segmenters.promptable_unet.adapter import EMBEDDED_CHECKPOINT, PromptableUNetSegmenter

SEED = 3 * 10**9
HELD_OUT_SEED = 4 * 10**9
_READING_WEIGHT = 0.2
_STYLE_WEIGHT = 0.02


def main() -> None:
    """Draw scenes, train, save, measure."""
    options = _options()
    pool = draw_pool(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    config = RewardNetworkConfig(widths=tuple(options.widths))
    network = scratch(options.seed, config).to(options.device)
    n_scenes, n_masks = pool.masks_MHW.shape[:2]
    n_parameters = sum(p.numel() for p in network.parameters())
    print(f"{n_parameters:,} parameters, {n_scenes:,} scenes of {n_masks} masks", flush=True)
    train(network, pool, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save(network, options.out, dtype=torch.float16)
    print(f"wrote {options.out}: {options.out.stat().st_size:,} bytes", flush=True)
    report_held_out(network.cpu(), options.held_out)


def draw_pool(options: argparse.Namespace) -> RewardScene:
    """Draw scenes in worker processes, each with a segmenter of its own; stop early when time is up."""
    if options.pool and options.pool.exists():
        with np.load(options.pool) as stored:
            return RewardScene(*(stored[name] for name in RewardScene._fields))
    started = time.monotonic()
    scenes: list[RewardScene] = []
    tasks = [(options.seed, index) for index in range(options.scenes)]
    with multiprocessing.get_context("spawn").Pool(options.workers, _start_worker) as workers:
        for scene in workers.imap(_draw, tasks, chunksize=4):
            scenes.append(scene)
            seconds = time.monotonic() - started
            if len(scenes) % 500 == 0:
                print(f"{len(scenes):,} scenes, {len(scenes) / seconds:.1f} a second", flush=True)
            if options.most_seconds and seconds > options.most_seconds:
                print(f"time is up: {len(scenes):,} scenes drawn", flush=True)
                break
    pool = RewardScene(*(np.stack(arrays) for arrays in zip(*scenes, strict=True)))
    if options.pool:
        np.savez(options.pool, **pool._asdict())
    return pool


def train(network: RewardNetwork, pool: RewardScene, options: argparse.Namespace) -> None:
    """Minimise the error in expected Dice, in its order within a scene, and of both readings."""
    rng = np.random.default_rng([options.seed, 10**9])
    scenes = _Scenes.of(pool, options.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.lr, options.steps, pct_start=0.1)
    network.train()
    order = np.empty(0, dtype=np.int64)
    started, running = time.monotonic(), torch.zeros(3, device=options.device)
    for step in range(1, options.steps + 1):
        if len(order) < options.batch:
            order = rng.permutation(len(pool.channels_CHW))
        chosen, order = order[: options.batch], order[options.batch :]
        errors = _errors(network, scenes.drawn(chosen, rng))
        optimiser.zero_grad(set_to_none=True)
        errors.sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running += errors.detach()
        if step % options.report_every == 0:
            mean = " ".join(f"{e:.5f}" for e in (running / options.report_every).tolist())
            rate = step / (time.monotonic() - started)
            print(f"step {step:>6} level, order, reading: {mean}; {rate:.1f} steps/s", flush=True)
            running.zero_()
    network.eval()


def report_held_out(network: RewardNetwork, n_images: int) -> None:
    """Print how well the network judges default actions on unseen images of the embedded data set."""
    segmenter = PromptableUNetSegmenter.load(EMBEDDED_CHECKPOINT)
    space, judge = default_space(), NetworkJudge([network])
    predicted, true = [], []
    for index in range(n_images):
        picture = sample(index, seed=HELD_OUT_SEED, size=128)
        logits = segmenter.segment([picture.image_HWC], space.prompts)[0].logits_PHW
        masks = apply_all(space, logits, picture.mask_HW.shape)
        predicted.append(judge(picture.image_HWC, masks))
        true.append(terms.score(masks, picture.mask_HW, ["dice"])["dice"])
    print(f"{n_images} held-out images: {judge_quality(np.stack(predicted), np.stack(true))}", flush=True)


@dataclass(frozen=True)
class _Scenes:
    """Scenes as tensors on the training device; coverage stays in bytes until it is needed."""

    channels_BCHW: Tensor
    truths_BRHW: Tensor
    masks_BKHW: Tensor
    dice_BK: Tensor
    weights_BK: Tensor
    chance_BR: Tensor

    @classmethod
    def of(cls, pool: RewardScene, device: str) -> "_Scenes":
        """Expect the Dice of a mask over the ways to annotate, and weigh rare qualities."""
        dice_BK = np.einsum("br,brk->bk", pool.style_chance_2, pool.dice_2M)
        arrays = (
            pool.channels_CHW,
            pool.truths_2HW,
            pool.masks_MHW,
            dice_BK,
            np.stack(balance(list(dice_BK))).astype(np.float32),
            pool.style_chance_2,
        )
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def drawn(self, chosen: np.ndarray, rng: np.random.Generator) -> "_Scenes":
        """Return some scenes as float32, turned and mirrored together."""
        quarter, mirror = int(rng.integers(4)), bool(rng.integers(2))
        rows = torch.from_numpy(chosen).to(self.dice_BK.device)

        def turned(x: Tensor, scale: float) -> Tensor:
            x = x[rows].float() / scale
            return torch.rot90(x.flip(-1) if mirror else x, quarter, (-2, -1))

        return _Scenes(
            turned(self.channels_BCHW, 1.0),
            turned(self.truths_BRHW, 255.0),
            turned(self.masks_BKHW, 255.0),
            self.dice_BK[rows],
            self.weights_BK[rows],
            self.chance_BR[rows],
        )


def _errors(network: RewardNetwork, scenes: _Scenes) -> Tensor:
    """Return weighted errors in level and in order within an image, and that of the readings."""
    reading = network.read(scenes.channels_BCHW)
    error_BK = network.compare(reading, scenes.masks_BKHW) - scenes.dice_BK
    share_BK = scenes.weights_BK / scenes.weights_BK.sum(1, keepdim=True)
    bias_B1 = (share_BK * error_BK).sum(1, keepdim=True)
    level = (share_BK * error_BK**2).sum(1).mean()
    order = (share_BK * (error_BK - bias_B1) ** 2).sum(1).mean()
    maps = F.binary_cross_entropy_with_logits(reading.logits_BRHW, scenes.truths_BRHW)
    style = -(scenes.chance_BR * reading.style_BR.log_softmax(1)).sum(1).mean()
    return torch.stack([level, order, _READING_WEIGHT * maps + _STYLE_WEIGHT * style])


def _options() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="file to write")
    parser.add_argument("--device", default=None, help="cpu or cuda; else what there is")
    parser.add_argument("--scenes", type=int, default=2400, help="training scenes to draw, 1.2 MB each")
    parser.add_argument("--most-seconds", type=float, default=0, help="stop drawing after this; 0: never")
    parser.add_argument("--pool", type=Path, help="keep the drawn scenes in this .npz, or take them from it")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16, help="scenes a step")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=SEED, help=f"at least {SEED}: no spec uses those")
    parser.add_argument("--widths", type=int, nargs="+", default=list(RewardNetworkConfig().widths))
    parser.add_argument("--held-out", type=int, default=100, help="images to measure on")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="drawing processes")
    parser.add_argument("--threads", type=int, default=0, help="CPU training threads; 0: PyTorch's choice")
    parser.add_argument("--report-every", type=int, default=100)
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cpu" and options.out == EMBEDDED:
        parser.error(
            "no GPU: two cores would write a much weaker network over the shipped one;"
            " run this on a machine with a GPU, or name another file with --out"
        )
    if options.seed < SEED:
        parser.error(f"--seed must be at least {SEED}: smaller seeds belong to specs and to the segmenter")
    return options


_worker: dict[str, PromptableUNetSegmenter] = {}  # a worker process loads its segmenter once


def _start_worker() -> None:
    torch.set_num_threads(1)
    _worker["segmenter"] = PromptableUNetSegmenter.load(EMBEDDED_CHECKPOINT)


def _draw(task: tuple[int, int]) -> RewardScene:
    return draw_reward_scene(np.random.default_rng(task), _worker["segmenter"])


if __name__ == "__main__":
    main()
