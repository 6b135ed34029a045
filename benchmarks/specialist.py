"""A specialist: a plain U-Net from scratch by nnU-Net's recipe, the baseline of fine-tuned weights.

After Isensee et al. 2021 (Nature Methods 18) and its second version's defaults for 2D: instance-normalised
leaky ReLU, deep supervision, Dice (over the batch) + cross-entropy, SGD with Nesterov momentum 0.99 and
polynomial decay, a third of the patches around foreground, mirroring and Gaussian-weighted tiles at
prediction. What differs: one logit instead of two, bilinear instead of cubic resampling, bfloat16 instead of
float16, the state kept that is best on validation, and a schedule of `steps` instead of 250,000.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.specialist_augmentation import augmented
from job.actions import ActionSpace, PostProcess, apply
from job.data.dataset import Loaded
from job.metrics.statistics import patient_means
from job.progress import Task
from job.reward.terms import score

_SLOPE = 0.01
_LEAST_SIDE = 4
"""Pixels of the deepest feature maps: strides are added until the next would go below."""
_MASK = ActionSpace(("vessels",), (PostProcess(),))


@dataclass(frozen=True)
class SpecialistSpec:
    """The recipe's figures; those of `patch` and `batch_size` its planner would choose by memory."""

    steps: int = 4000
    patch: int = 256
    batch_size: int = 12
    base_width: int = 32
    most_width: int = 512
    learning_rate: float = 0.01
    momentum: float = 0.99
    weight_decay: float = 3e-5
    max_grad_norm: float = 12.0
    foreground: float = 1 / 3
    validate_every: int = 250

    @property
    def n_stages(self) -> int:
        """Resolutions of the network; `patch` must be a multiple of their largest stride."""
        return int(math.log2(self.patch / _LEAST_SIDE)) + 1


@dataclass(frozen=True)
class Trained:
    """The network of the best look at validation; `curve` has a row a look."""

    network: "UNet"
    curve: list[dict[str, float]]
    best_step: int


class UNet(nn.Module):
    """Two convolutions a stage, strided ones down, transposed ones up; logits at every decoder stage."""

    def __init__(self, spec: SpecialistSpec) -> None:
        super().__init__()
        widths = [min(spec.base_width * 2**stage, spec.most_width) for stage in range(spec.n_stages)]
        before = [3, *widths[:-1]]
        self.encoder = nn.ModuleList(
            _stage(a, b, stride=1 if stage == 0 else 2)
            for stage, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for low, high in pairs)
        self.decoder = nn.ModuleList(_stage(2 * high, high, stride=1) for _, high in pairs)
        self.heads = nn.ModuleList(nn.Conv2d(high, 1, 1) for _, high in pairs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x_B3HW: Tensor) -> list[Tensor]:
        """Return logits `[B, 1, h, w]` of each decoder stage, finest first."""
        skips = []
        x = x_B3HW
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        logits = []
        for stage in reversed(range(len(self.decoder))):
            x = self.decoder[stage](torch.cat([self.up[stage](x), skips[stage]], dim=1))
            logits.append(self.heads[stage](x))
        return logits[::-1]


def train(
    spec: SpecialistSpec,
    images: Sequence[Loaded],
    validation: Sequence[Loaded],
    patients: Sequence[str],
    *,
    seed: int,
    device: str,
    folder: Path,
    task: Task,
) -> Trained:
    """Train on labelled images; goes on from what an interrupted call left in `folder`.

    Validation images (`patients` are theirs) choose the state that is kept, nothing else. Raises what `task`
    raises, after the state was kept.
    """
    torch.manual_seed(seed)
    network = UNet(spec).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), spec.learning_rate, spec.momentum, weight_decay=spec.weight_decay, nesterov=True
    )
    state = _State(folder / "specialist.safetensors", network, optimizer)
    source = _Patches(spec, images, device)
    while state.step < spec.steps:
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * (1 - state.step / spec.steps) ** 0.9
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + state.step)
        pixels, truths = augmented(*source.draw(generator), generator)
        network.train()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
            logits = network(pixels)
        loss = _supervised_loss([level.float() for level in logits], truths)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), spec.max_grad_norm)
        optimizer.step()
        state.step += 1
        if state.step % spec.validate_every == 0 or state.step == spec.steps:
            gold = _validation_dice(network, spec, validation, patients, device, task)
            state.look(gold, float(loss.detach()))
        try:
            task.advance()
        except BaseException:
            state.save()
            raise
    state.save()
    network.load_state_dict(state.best)
    return Trained(network, state.curve, state.best_step)


@torch.no_grad()
def predict(
    network: UNet, spec: SpecialistSpec, image: NDArray[np.uint8], device: str
) -> NDArray[np.float16]:
    """Return logits `[1, H, W]` of an image `[H, W, 3]`: overlapping tiles, each also mirrored."""
    network.eval()
    pixels = normalised(image).to(device)
    height, width = pixels.shape[1:]
    # Zeros, the mean, are what training saw beyond an image.
    pixels = F.pad(pixels, (0, max(0, spec.patch - width), 0, max(0, spec.patch - height)))
    weight_PP = _importance(spec.patch, device)
    total, weights = (
        torch.zeros(pixels.shape[1:], device=device),
        torch.zeros(pixels.shape[1:], device=device),
    )
    for top in _starts(pixels.shape[1], spec.patch):
        for left in _starts(pixels.shape[2], spec.patch):
            place = (slice(top, top + spec.patch), slice(left, left + spec.patch))
            total[place] += weight_PP * _mirrored(network, pixels[:, *place][None], device)
            weights[place] += weight_PP
    logits_1HW = (total / weights)[None, :height, :width]
    largest = float(np.finfo(np.float16).max)
    return logits_1HW.clamp(-largest, largest).to(torch.float16).cpu().numpy()


def normalised(image: NDArray[np.uint8]) -> Tensor:
    """Return float32 `[3, H, W]` with mean 0 and deviation 1 in each channel."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
    mean, deviation = pixels.mean((1, 2), keepdim=True), pixels.std((1, 2), keepdim=True)
    return (pixels - mean) / deviation.clamp(min=1e-8)


class _State:
    """Network, momentum, best weights and curve, in one file that the next call goes on from."""

    def __init__(self, path: Path, network: UNet, optimizer: torch.optim.Optimizer) -> None:
        self._path, self._network, self._optimizer = path, network, optimizer
        self.step, self.best_step, self.curve = 0, 0, list[dict[str, float]]()
        self.best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        if path.is_file():
            self._load()

    def look(self, gold: float, loss: float) -> None:
        """Note the Dice of validation, and keep the weights if no look was better."""
        if not self.curve or gold > max(row["gold"] for row in self.curve):
            self.best_step = self.step
            self.best = {n: value.detach().cpu().clone() for n, value in self._network.state_dict().items()}
        self.curve.append({"step": float(self.step), "gold": gold, "loss": loss})

    def save(self) -> None:
        """Keep the state in place of the one before."""
        tensors = {f"model.{name}": value for name, value in self._network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, parameter in enumerate(self._parameters()):
            if parameter in self._optimizer.state:
                tensors[f"momentum.{i}"] = self._optimizer.state[parameter]["momentum_buffer"]
        rows = [[row["step"], row["gold"], row["loss"]] for row in self.curve]
        tensors["curve"] = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
        tensors["steps"] = torch.tensor([self.step, self.best_step])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial)
        partial.replace(self._path)

    def _load(self) -> None:
        with safe_open(self._path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._network.load_state_dict(_part(tensors, "model."))
        self.best = _part(tensors, "best.")
        for i, parameter in enumerate(self._parameters()):
            if f"momentum.{i}" in tensors:
                buffer = tensors[f"momentum.{i}"].to(parameter.device)
                self._optimizer.state[parameter]["momentum_buffer"] = buffer
        self.step, self.best_step = (int(n) for n in tensors["steps"])
        self.curve = [{"step": s, "gold": g, "loss": loss} for s, g, loss in tensors["curve"].tolist()]

    def _parameters(self) -> list[nn.Parameter]:
        return list(self._network.parameters())


class _Patches:
    """Draws patches of whole images that stay on the device; rotation and scale are a part of the cut."""

    def __init__(self, spec: SpecialistSpec, images: Sequence[Loaded], device: str) -> None:
        self._spec = spec
        height = max(loaded.image.shape[0] for loaded in images)
        width = max(loaded.image.shape[1] for loaded in images)
        self._pixels = torch.zeros((len(images), 3, height, width), device=device)
        self._truths = torch.zeros((len(images), 1, height, width), device=device)
        self._sizes, self._foreground = [], []
        for i, loaded in enumerate(images):
            assert loaded.truth is not None
            h, w = loaded.truth.shape
            self._pixels[i, :, :h, :w] = normalised(loaded.image).to(device)
            self._truths[i, 0, :h, :w] = torch.from_numpy(loaded.truth).to(device)
            self._sizes.append((h, w))
            self._foreground.append(torch.from_numpy(np.argwhere(loaded.truth)))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return pixels `[B, 3, P, P]` and truths of 0 and 1 `[B, 1, P, P]`, a third around foreground."""
        n, side = self._spec.batch_size, self._spec.patch
        rng = np.random.default_rng(
            int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        )
        chosen = rng.integers(len(self._sizes), size=n)
        n_anywhere = round(n * (1 - self._spec.foreground))
        centres = np.array([self._centre(rng, int(i), around=b >= n_anywhere) for b, i in enumerate(chosen)])
        angle = np.where(rng.random(n) < 0.2, rng.uniform(-math.pi, math.pi, n), 0.0)
        scale = np.where(rng.random(n) < 0.2, rng.uniform(0.7, 1.4, n), 1.0)
        steps = (torch.arange(side, dtype=torch.float32) - (side - 1) / 2)[None]
        sine, cosine, zoom, y, x = (
            torch.from_numpy(v.astype(np.float32))[:, None, None]
            for v in (np.sin(angle), np.cos(angle), scale, centres[:, 0], centres[:, 1])
        )
        down, right = steps[:, :, None] * zoom, steps[:, None] * zoom
        height, width = self._pixels.shape[2:]
        grid = torch.stack(
            [
                (x - sine * down + cosine * right + 0.5) * 2 / width - 1,
                (y + cosine * down + sine * right + 0.5) * 2 / height - 1,
            ],
            dim=-1,
        ).to(self._pixels.device)
        which = torch.from_numpy(chosen).to(self._pixels.device)
        pixels = F.grid_sample(self._pixels[which], grid, align_corners=False)
        truths = F.grid_sample(self._truths[which], grid, align_corners=False)
        return pixels, (truths > 0.5).to(torch.float32)

    def _centre(self, rng: np.random.Generator, i: int, *, around: bool) -> tuple[float, float]:
        foreground = self._foreground[i]
        if around and len(foreground):
            y, x = foreground[int(rng.integers(len(foreground)))].tolist()
            return float(y), float(x)
        half = (self._spec.patch - 1) / 2
        y, x = (
            rng.uniform(half, size - 1 - half) if size > self._spec.patch else (size - 1) / 2
            for size in self._sizes[i]
        )
        return y, x


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, step in ((before, stride), (after, 1)):
        layers += [
            nn.Conv2d(channels, after, 3, stride=step, padding=1),
            nn.InstanceNorm2d(after, affine=True),
            nn.LeakyReLU(_SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)


def _supervised_loss(logits: Sequence[Tensor], truths_B1HW: Tensor) -> Tensor:
    """Sum Dice + cross-entropy over the stages, each half as heavy as the finer one, the last not at all."""
    weights = [0.5**stage for stage in range(len(logits))]
    if len(weights) > 1:
        weights[-1] = 0.0
    loss = truths_B1HW.new_zeros(())
    for weight, level in zip(weights, logits, strict=True):
        if weight:
            truths = F.interpolate(truths_B1HW, size=level.shape[2:], mode="nearest-exact")
            p = level.sigmoid()
            dice = (2 * (p * truths).sum() + 1e-5) / (p.sum() + truths.sum() + 1e-5)
            loss = loss + weight * (F.binary_cross_entropy_with_logits(level, truths) - dice)
    return loss / sum(weights)


def _validation_dice(
    network: UNet,
    spec: SpecialistSpec,
    validation: Sequence[Loaded],
    patients: Sequence[str],
    device: str,
    task: Task,
) -> float:
    dice = []
    for loaded in validation:
        task.advance(0)
        assert loaded.truth is not None
        mask_HW = apply(_MASK, 0, predict(network, spec, loaded.image, device), loaded.truth.shape)
        dice.append(float(score(mask_HW[None], loaded.truth, ["dice"])["dice"][0]))
    return float(patient_means(dice, patients).mean())


def _mirrored(network: UNet, x_1CHW: Tensor, device: str) -> Tensor:
    total = torch.zeros(x_1CHW.shape[2:], device=device)
    for axes in ((), (2,), (3,), (2, 3)):
        with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
            logits = network(x_1CHW.flip(axes))[0]
        total += logits.float().flip(axes)[0, 0]
    return total / 4


def _starts(length: int, patch: int) -> list[int]:
    """Return where tiles begin: evenly spread, at most half a patch apart."""
    n = math.ceil((length - patch) / (patch / 2)) + 1
    return [round(i * (length - patch) / max(1, n - 1)) for i in range(n)]


def _importance(patch: int, device: str) -> Tensor:
    """Return weights `[P, P]` of a tile's pixels: a Gaussian of an eighth of the patch, nowhere 0."""
    steps = (torch.arange(patch, device=device) - (patch - 1) / 2) / (patch / 8)
    row = torch.exp(-0.5 * steps**2)
    weight_PP = row[:, None] * row[None]
    return weight_PP.clamp(min=1e-4)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
