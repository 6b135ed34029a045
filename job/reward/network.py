"""The reward network: (image, mask) -> predicted Dice, without the truth."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from job.device import one_thread
from job.errors import InvalidResult
from job.reward.inputs import N_CHANNELS, image_channels, mask_coverage, working_size
from job.reward.mask_sums import MaskSums, WindowedMasks, whole_sums

REVISION = 1
"""Raised when the meaning of weights changes: older files are then refused instead of misread."""

_PIXEL = 1.0  # smooths ratios by one pixel: an empty mask of an empty reading is right
_SUREST = 1e-3
_N_FEATURES = 8

_Shown = TypeVar("_Shown")


@dataclass(frozen=True)
class RewardNetworkConfig:
    """Shape of the network: channels a level, number of readings, longest side of the working grid."""

    widths: tuple[int, ...] = (16, 24, 36, 44)
    readings: int = 2
    max_side: int = 256

    def __post_init__(self) -> None:
        numbers = (*self.widths, self.readings, self.max_side)
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"widths, readings and max_side must be integers, got {self}")
        # Bounds keep a hostile file from asking for more memory than any machine has.
        if not 1 <= len(self.widths) <= 6 or any(width % 4 or not 4 <= width <= 256 for width in self.widths):
            raise ValueError(f"widths must be 1 to 6 multiples of 4 up to 256, got {self.widths}")
        if not (1 <= self.readings <= 16 and 16 <= self.max_side <= 2048):
            raise ValueError(f"readings must be 1 to 16 and max_side 16 to 2048, got {self}")

    def to_dict(self) -> dict[str, object]:
        """Return what `from_dict` reads, ready for JSON."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "RewardNetworkConfig":
        """Read a configuration; raises TypeError or ValueError for anything but exactly its fields."""
        return cls(**{**fields, "widths": tuple(fields["widths"])})


@dataclass(frozen=True)
class Reading:
    """What the network sees in B images before any mask is shown to it.

    `logits_BRHW`: each pixel's logit of being annotated, under R ways to annotate; `style_BR`: the logit of
    each way being the annotator's.
    """

    logits_BRHW: Tensor
    style_BR: Tensor

    def expected(self) -> Tensor:
        """Return the probability `[B, H, W]` that a pixel is annotated, over the readings."""
        weight_BR11 = self.style_BR.softmax(1)[..., None, None]
        return (weight_BR11 * self.logits_BRHW.sigmoid()).sum(1)


class RewardNetwork(nn.Module):
    """Imagine the truth from the image, then compare the mask with it.

    A U-Net turns the image into R possible truths ("readings": with fine vessels, without, ...) and says how
    likely each is; a mask's score is its expected Dice over the readings, corrected by a small perceptron.
    The image is read once however many masks are judged, a mask then costs R dot products, and a score
    cannot ignore the image.
    """

    def __init__(self, config: RewardNetworkConfig = RewardNetworkConfig()) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.encoder = nn.ModuleList(
            _Block(before, after) for before, after in zip([N_CHANNELS, *widths[:-1]], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            _Block(below + skip, skip) for below, skip in zip(widths[1:], widths[:-1], strict=True)
        )
        self.readings = nn.Conv2d(widths[0], config.readings, 1)
        self.style = nn.Linear(2 * widths[-1] + 2 * widths[0], config.readings)
        self.correction = nn.Sequential(nn.Linear(_N_FEATURES, 16), nn.ReLU(), nn.Linear(16, 1))
        for layer in (self.style, self.correction[-1]):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, channels_BCHW: Tensor, masks_BKHW: Tensor) -> Tensor:
        """Score K masks (coverage in 0..1) for each of B images: `[B, K]` in [0, 1]."""
        return self.compare(self.read(channels_BCHW), masks_BKHW)

    def read(self, channels_BCHW: Tensor) -> Reading:
        """Read images given as `inputs.image_channels` gives them, of any size."""
        height, width = channels_BCHW.shape[-2:]
        stride = 2 ** (len(self.encoder) - 1)
        x = F.pad(channels_BCHW, (0, -width % stride, 0, -height % stride), mode="replicate")
        features = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.avg_pool2d(x, 2))
            features.append(x)
        fine, coarse = features[0], features[-1]
        pooled = torch.cat([part(f) for f in (coarse, fine) for part in (_mean, _deviation)], dim=1)
        for level in reversed(range(len(self.decoder))):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.decoder[level](torch.cat([x, features[level]], dim=1))
        return Reading(self.readings(x)[..., :height, :width], self.style(pooled))

    def compare(self, reading: Reading, masks_BKHW: Tensor) -> Tensor:
        """Score K masks an image against its reading: `[B, K]`."""
        truths_BRN = reading.logits_BRHW.flatten(2).sigmoid()
        return self.quality(whole_sums(masks_BKHW.flatten(2), truths_BRN), truths_BRN, reading.style_BR)

    def compare_windows(self, reading: Reading, masks: WindowedMasks) -> Tensor:
        """Score the base of one image with each window of each mask in it: `[K, Y, X]`."""
        truths_BRN = reading.logits_BRHW.flatten(2).sigmoid()
        quality_1M = self.quality(masks.sums(truths_BRN[0]), truths_BRN, reading.style_BR)
        return quality_1M.reshape(*masks.n_windows, -1).permute(2, 0, 1)

    def quality(self, sums: MaskSums, truths_BRN: Tensor, style_BR: Tensor) -> Tensor:
        """Score K masks an image by their sums with its possible truths: `[B, K]`."""
        shared_BKR, mask_BK1 = sums.shared_BKR, sums.mask_BK1
        truth_B1R = truths_BRN.sum(2)[:, None]
        dice_BKR = (2 * shared_BKR + _PIXEL) / (mask_BK1 + truth_B1R + _PIXEL)
        precision_BKR = (shared_BKR + _PIXEL) / (mask_BK1 + _PIXEL)
        recall_BKR = (shared_BKR + _PIXEL) / (truth_B1R + _PIXEL)
        certainty_B1R = (truths_BRN**2).sum(2)[:, None] / (truth_B1R + _PIXEL)
        # Below 1 where cells are covered in part: there the product of coverages is less than what is shared.
        wholeness_BK1 = sums.squares_BK1 / (mask_BK1 + _PIXEL)
        size_BKR = torch.log((mask_BK1 + _PIXEL) / (truth_B1R + _PIXEL))
        style_B1R = style_BR.softmax(1)[:, None]
        share_B1R = truths_BRN.mean(2)[:, None] * 10
        features = [
            dice_BKR,
            precision_BKR,
            recall_BKR,
            certainty_B1R,
            wholeness_BK1,
            size_BKR,
            style_B1R,
            share_B1R,
        ]
        correction = self.correction(torch.stack([f.expand_as(dice_BKR) for f in features], dim=-1))
        quality_BKR = torch.sigmoid(torch.logit(dice_BKR, eps=_SUREST) + correction.squeeze(-1))
        return (style_B1R * quality_BKR).sum(2)


class NetworkJudge:
    """Score masks by the mean of networks as they are now: a `job.reward.terms.Judge`."""

    def __init__(self, networks: Sequence[RewardNetwork], device: str = "cpu") -> None:
        if not networks:
            raise ValueError("a judge needs at least one network")
        # Copies: a judge on a GPU must not move the networks of one on the CPU.
        self._networks = [copy.deepcopy(network).to(device).eval() for network in networks]
        self._device = device

    def __call__(self, image_HWC: NDArray[np.uint8], masks_BHW: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Score masks `[B, H, W]` of one image `[H, W, 3]`: float64 `[B]` in [0, 1].

        Raises `InvalidResult` when a network answers with what is no number.
        """
        scores: NDArray[np.float64] = self.each(image_HWC, masks_BHW).mean(axis=0)
        return scores

    def each(self, image_HWC: NDArray[np.uint8], masks_BHW: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return what each of the N networks says, `[N, B]`; raises what a call does."""
        _check_sizes(image_HWC, masks_BHW)

        def shown(max_side: int) -> Tensor:
            size = working_size(image_HWC.shape[0], image_HWC.shape[1], max_side)
            return mask_coverage(masks_BHW, size)[None].to(self._device)

        return self._judged(
            image_HWC, shown, lambda network, reading, masks: network.compare(reading, masks)[0]
        )

    def each_window(
        self,
        image_HWC: NDArray[np.uint8],
        masks_KHW: NDArray[np.bool_],
        base_HW: NDArray[np.bool_],
        side_px: int,
        shift: tuple[int, int],
    ) -> NDArray[np.float64]:
        """Return what each network says of `base_HW` with one window of one mask in it: `[N, K, Y, X]`.

        Windows are those of `WindowedMasks`; the image is read once. Raises what a call does.
        """
        _check_sizes(image_HWC, masks_KHW)

        def shown(max_side: int) -> WindowedMasks:
            return WindowedMasks(masks_KHW, base_HW, side_px, shift, max_side=max_side, device=self._device)

        return self._judged(image_HWC, shown, RewardNetwork.compare_windows)

    @torch.inference_mode()
    def _judged(
        self,
        image_HWC: NDArray[np.uint8],
        shown: Callable[[int], _Shown],
        compare: Callable[[RewardNetwork, Reading, _Shown], Tensor],
    ) -> NDArray[np.float64]:
        with one_thread():
            grids = {network.config.max_side for network in self._networks}
            inputs = {
                grid: (image_channels(image_HWC, grid)[None].to(self._device), shown(grid)) for grid in grids
            }
            answers = []
            for network in self._networks:
                channels, masks = inputs[network.config.max_side]
                answers.append(compare(network, network.read(channels), masks))
            scores: NDArray[np.float64] = torch.stack(answers).double().cpu().numpy()
        is_number = np.isfinite(scores).all(axis=0)
        if not is_number.all():
            raise InvalidResult(
                f"the reward network's score of {(~is_number).sum()} of {is_number.size} masks of an image"
                " is no number",
                advice="train another network: lower reward.network.learning_rate, or leave out"
                " reward.network.uri",
            )
        return scores


def _check_sizes(image_HWC: NDArray[np.uint8], masks_BHW: NDArray[np.bool_]) -> None:
    if masks_BHW.shape[1:] != image_HWC.shape[:2]:
        raise ValueError(f"masks {masks_BHW.shape} do not fit the image {image_HWC.shape}")


class _Block(nn.Module):
    """Two 3x3 convolutions, each normalised within the image: no statistics that a few images would spoil."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, after)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


def _mean(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.mean((2, 3))


def _deviation(x_BCHW: Tensor) -> Tensor:
    return (x_BCHW.var((2, 3), correction=0) + 1e-6).sqrt()
