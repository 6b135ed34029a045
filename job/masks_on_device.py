"""All masks of an image made and counted on an accelerator: the very masks of `job/actions.py`, as integers.

Interpolation is the same three float32 operations in the same order, each rounded by itself, so that surfaces
are equal to the bit; what follows is comparisons and integers. Components are sets of pixels, of which only
areas matter and whether one holds a sure pixel, not their numbers: union by parents (Zhang, Azad and Hu 2020,
FastSV) finds them in a few passes over all masks at once. Skeletons stay with the CPU.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.actions import LARGEST_LOGIT, ActionSpace, Logits, PostProcess, check_logits, rows_between
from job.components_on_device import Components
from job.metrics.overlap import Confusion
from job.progress import Task
from job.scoring import Measured, sampling_stride
from job.segmenters.checked import is_out_of_memory

BYTES_AT_ONCE, MOST_BYTES_AT_ONCE, SHARE_OF_FREE_MEMORY = 2**30, 2**33, 8
"""Of the device's memory, for masks that are made together: so much, or a share of what is free."""
BYTES_PER_PIXEL, BYTES_PER_PIXEL_AND_POSTPROCESS = 64, 12
"""Of a prompt's surface while its masks are made: floats and positions; a mask, and the runs of its level."""


def measure(
    space: ActionSpace,
    logits: Sequence[Logits],
    size: tuple[int, int],
    truths: Sequence[NDArray[np.bool_] | None],
    *,
    stride: int,
    whole: bool,
    device: str,
) -> list[Measured]:
    """Make the masks of all actions for images of one size, and count them; with `whole` hand them over too.

    `logits` has a `[P, h, w]` an image, all of one shape: small kernels cost as much as large ones, so images
    are measured together. Raises ValueError as `actions.apply_all` does, and what torch raises for want of
    memory.
    """
    for one in logits:
        check_logits(space, one, size)
    n_images, n_prompts = len(logits), len(space.prompts)
    with torch.inference_mode(), _beside_others(device):
        maps = torch.from_numpy(np.concatenate(logits)).to(device).float()
        if torch.isnan(maps).any():
            raise ValueError("logits contain NaN: the segmenter's arithmetic overflowed")
        # Without a truth nothing is compared, whatever is counted here.
        truth_NHW = torch.from_numpy(
            np.stack([np.zeros(size, np.bool_) if truth is None else truth for truth in truths])
        ).to(device)
        image_M = torch.arange(n_images, device=device).repeat_interleave(n_prompts)
        at_once = max(1, _bytes_at_once(device) // _bytes_of_a_map(space, size))
        found: dict[str, list[Tensor]] = {"n": [], "tp": [], "sampled": [], "surfaces": [], "masks": []}
        for few, image_m in zip(
            torch.split(maps.clamp(-LARGEST_LOGIT, LARGEST_LOGIT), at_once),
            torch.split(image_M, at_once),
            strict=True,
        ):
            surfaces_PHW = resize_bilinear(few, size, space.by_way_of)
            found["surfaces"].append(surfaces_PHW[:, ::stride, ::stride].flatten(1))
            masks_PQHW = masks_of(surfaces_PHW, space.postprocess)
            found["n"].append(_count(masks_PQHW))
            found["tp"].append(_count(masks_PQHW & truth_NHW[image_m][:, None]))
            found["sampled"].append(_packed(masks_PQHW[..., ::stride, ::stride].flatten(2)))
            if whole:
                found["masks"].append(_packed(masks_PQHW.flatten(2)))
        of_truth_N = _count(truth_NHW[:, None])[:, 0].cpu().numpy()
        arrays = {
            name: np.split(torch.cat(parts).cpu().numpy(), n_images) for name, parts in found.items() if parts
        }
    return [
        Measured(
            None
            if truth is None
            else _confusion(arrays["tp"][i].ravel(), arrays["n"][i].ravel(), int(of_truth_N[i]), size),
            arrays["sampled"][i].reshape(len(space), -1),
            arrays["surfaces"][i],
            arrays["masks"][i].reshape(len(space), -1) if whole else None,
        )
        for i, truth in enumerate(truths)
    ]


@dataclass(frozen=True)
class Asked:
    """An image whose masks of a size are to be counted, against the truth if there is one."""

    logits_PHW: Logits
    size: tuple[int, int]
    truth: NDArray[np.bool_] | None
    whole: bool
    """Whether the masks themselves are wanted, too."""

    def measured_bytes(self, space: ActionSpace) -> int:
        """Return what its `Measured` will take."""
        height, width = self.size
        stride = sampling_stride(self.size)
        sampled = math.ceil(height / stride) * math.ceil(width / stride)
        bits = math.ceil(sampled / 8) + (math.ceil(height * width / 8) if self.whole else 0)
        return len(space) * bits + len(space.prompts) * sampled * np.dtype(np.float32).itemsize


def groups(asked: Sequence[Asked], space: ActionSpace, device: str) -> Iterator[Sequence[Asked]]:
    """Yield, in order, images that are measured in one go: alike, and as many as the memory holds."""
    while asked:
        first = asked[0]
        alike = [
            (one.size, one.logits_PHW.shape, one.whole) == (first.size, first.logits_PHW.shape, first.whole)
            for one in asked
        ]
        most = _bytes_at_once(device) // (len(space.prompts) * _bytes_of_a_map(space, first.size))
        n = max(1, min([*alike, False].index(False), most))
        yield asked[:n]
        asked = asked[n:]


def measure_those_that_fit(
    asked: Sequence[Asked], space: ActionSpace, device: str, task: Task
) -> list[Measured | None]:
    """Measure a group of images; None for those whose masks the device's memory does not hold.

    The CPU, which is asked then, says the same. `task` is looked at for a stop request.
    """
    task.advance(0)
    first = asked[0]
    try:
        return list(
            measure(
                space, [one.logits_PHW for one in asked], first.size, [one.truth for one in asked],
                stride=sampling_stride(first.size), whole=first.whole, device=device,
            )
        )  # fmt: skip
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # out of the handler: the error holds every tensor of the call
    if len(asked) == 1:
        return [None]
    half = len(asked) // 2
    halves = (measure_those_that_fit(some, space, device, task) for some in (asked[:half], asked[half:]))
    return [measured for some in halves for measured in some]


def _bytes_of_a_map(space: ActionSpace, size: tuple[int, int]) -> int:
    return size[0] * size[1] * (BYTES_PER_PIXEL + BYTES_PER_PIXEL_AND_POSTPROCESS * len(space.postprocess))


def _bytes_at_once(device: str) -> int:
    """Return what masks that are made together may take: more where much of the device's memory is free."""
    if not device.startswith("cuda"):
        return BYTES_AT_ONCE
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return max(BYTES_AT_ONCE, min(free // SHARE_OF_FREE_MEMORY, MOST_BYTES_AT_ONCE))


def resize_bilinear(
    logits_PHW: Tensor, size: tuple[int, int], by_way_of: tuple[int, int] | None = None
) -> Tensor:
    """Resize float32 logits as `actions.resize_bilinear` does, several maps at once."""
    if by_way_of is None:
        if tuple(logits_PHW.shape[1:]) == size:
            return logits_PHW
        by_way_of = size
    columns_PWh = _resize_rows(_resize_rows(logits_PHW.transpose(1, 2), by_way_of[1]), size[1])
    return _resize_rows(_resize_rows(columns_PWh.transpose(1, 2), by_way_of[0]), size[0]).contiguous()


def masks_of(surfaces_PHW: Tensor, postprocess: Sequence[PostProcess]) -> Tensor:
    """Apply every post-processing to every surface: bool `[P, Q, H, W]`."""
    components: dict[float, Components] = {}

    def over(probability: float) -> Tensor:
        # The level as a float32, which numpy's comparison makes of it.
        level = torch.tensor(math.log(probability / (1 - probability)), dtype=torch.float32)
        return surfaces_PHW > level.to(surfaces_PHW.device)

    def grown(one: PostProcess, min_area: int) -> Tensor:
        strong_PHW = over(one.threshold)
        if one.low is None and min_area <= 1:
            return strong_PHW
        level = one.threshold if one.low is None else one.low
        if level not in components:
            components[level] = Components(over(level))
        return components[level].kept(min_area, None if one.low is None else strong_PHW)

    masks = []
    for one in postprocess:
        if one.closing_radius == 0:
            masks.append(grown(one, one.min_area))
            continue
        closed_PHW = _closed(grown(one, 0), one.closing_radius)
        masks.append(Components(closed_PHW).kept(one.min_area, None) if one.min_area > 1 else closed_PHW)
    return torch.stack(masks, dim=1)


def _resize_rows(values_PhW: Tensor, height: int) -> Tensor:
    n_rows = values_PhW.shape[1]
    if n_rows == height:
        return values_PhW
    rows = [torch.from_numpy(one).to(values_PhW.device) for one in rows_between(n_rows, height)]
    upper_PHW = values_PhW.index_select(1, rows[0])
    # One after the other: fused, they would round once instead of three times.
    return values_PhW.index_select(1, rows[1]).sub_(upper_PHW).mul_(rows[2][:, None]).add_(upper_PHW)


def _closed(masks_BHW: Tensor, radius: int) -> Tensor:
    canvas = torch.nn.functional.pad(masks_BHW, (radius,) * 4)
    closed = ~_dilated(~_dilated(canvas, radius), radius)
    return closed[:, radius:-radius, radius:-radius]


def _dilated(masks_BHW: Tensor, radius: int) -> Tensor:
    """Dilate with a disk of horizontal bars, as `actions` does."""
    height = masks_BHW.shape[1]
    bar_BHW = masks_BHW.clone()
    dilated_BHW = torch.zeros_like(masks_BHW)
    half_width = 0
    for dy in range(radius, -1, -1):
        while (half_width + 1) ** 2 + dy**2 <= radius**2:
            half_width += 1
            bar_BHW[..., half_width:] |= masks_BHW[..., :-half_width]
            bar_BHW[..., :-half_width] |= masks_BHW[..., half_width:]
        dilated_BHW[:, dy:] |= bar_BHW[:, : height - dy]
        dilated_BHW[:, : height - dy] |= bar_BHW[:, dy:]
    return dilated_BHW


def _count(masks_PQHW: Tensor) -> Tensor:
    return masks_PQHW.flatten(2).sum(dim=2, dtype=torch.int64)


def _packed(bits_PQX: Tensor) -> Tensor:
    """Return what numpy's `packbits` makes of the last axis."""
    padded = torch.nn.functional.pad(bits_PQX, (0, -bits_PQX.shape[-1] % 8)).view(torch.uint8)
    octets = padded.reshape(*padded.shape[:-1], -1, 8)
    packed: Tensor = octets[..., 0] << 7
    for place in range(1, 8):
        packed |= octets[..., place] << (7 - place)
    return packed


def _confusion(tp: NDArray[np.int64], n: NDArray[np.int64], n_truth: int, size: tuple[int, int]) -> Confusion:
    fp, fn = n - tp, n_truth - tp
    return Confusion(tp=tp, fp=fp, fn=fn, tn=size[0] * size[1] - tp - fp - fn)


@contextmanager
def _beside_others(device: str) -> Iterator[None]:
    """Within: a CUDA device does this thread's work beside that of others, and before it.

    What is computed here is looked at again and again; behind a segmenter's batch each look would take that
    long.
    """
    if not device.startswith("cuda"):
        yield
        return
    with torch.cuda.stream(_stream(device)):
        yield


@cache
def _stream(device: str) -> torch.cuda.Stream:
    # One for all: memory that torch keeps for a stream is of use to that one alone.
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
