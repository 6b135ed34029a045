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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from job.actions import LARGEST_LOGIT, ActionSpace, Logits, PostProcess, check_logits, rows_between
from job.data.dataset import Loaded
from job.metrics.overlap import Confusion
from job.scoring import Measured, needs_whole_masks, sampling_stride
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
    with torch.inference_mode(), _in_any_order():
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
    """An image whose masks are wanted, for a row of the table with such terms."""

    loaded: Loaded
    logits_PHW: Logits
    terms: Sequence[str]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the masks."""
        return self.loaded.image.shape[0], self.loaded.image.shape[1]

    @property
    def whole(self) -> bool:
        """Whether the masks themselves are wanted, beside their counts."""
        return self.loaded.truth is not None and needs_whole_masks(self.terms)


def together(asked: Sequence[Asked], space: ActionSpace, device: str) -> int:
    """Return how many of the images, from the first on, are measured in one go: alike, and few enough."""
    first = asked[0]
    alike = [
        (one.size, one.logits_PHW.shape, one.whole) == (first.size, first.logits_PHW.shape, first.whole)
        for one in asked
    ]
    most = _bytes_at_once(device) // (len(space.prompts) * _bytes_of_a_map(space, first.size))
    return max(1, min([*alike, False].index(False), most))


def measure_those_that_fit(asked: Sequence[Asked], space: ActionSpace, device: str) -> list[Measured | None]:
    """Measure images that are `together`; None for those whose masks the device's memory does not hold.

    The CPU, which is asked then, says the same.
    """
    first = asked[0]
    try:
        return list(
            measure(
                space, [one.logits_PHW for one in asked], first.size, [one.loaded.truth for one in asked],
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
    halves = (measure_those_that_fit(some, space, device) for some in (asked[:half], asked[half:]))
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
    components: dict[float, _Components] = {}

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
            components[level] = _Components(over(level))
        return components[level].kept(min_area, None if one.low is None else strong_PHW)

    masks = []
    for one in postprocess:
        if one.closing_radius == 0:
            masks.append(grown(one, one.min_area))
            continue
        closed_PHW = _closed(grown(one, 0), one.closing_radius)
        masks.append(_Components(closed_PHW).kept(one.min_area, None) if one.min_area > 1 else closed_PHW)
    return torch.stack(masks, dim=1)


class _Components:
    """The 8-connected components of many masks `[B, H, W]`, by the R horizontal runs that they consist of."""

    def __init__(self, masks_BHW: Tensor) -> None:
        self._masks_BHW = masks_BHW
        starts_BHW, ends_BHW = masks_BHW.clone(), masks_BHW.clone()
        starts_BHW[..., 1:] &= ~masks_BHW[..., :-1]
        ends_BHW[..., :-1] &= ~masks_BHW[..., 1:]
        # Positions in all masks, one after the other.
        self._start_R, self._end_R = (which.flatten().nonzero()[:, 0] for which in (starts_BHW, ends_BHW))
        self._run_X = torch.cumsum(starts_BHW.flatten(), 0, dtype=torch.int32) - 1
        self._root_R = _united(torch.arange(len(self._start_R), device=masks_BHW.device), *self._touching())
        self._area_R = self._of_component(self._end_R - self._start_R + 1)

    def kept(self, min_area: int, strong_BHW: Tensor | None) -> Tensor:
        """Return those of an area; with `strong_BHW` only those that hold one of its pixels."""
        if not len(self._root_R):
            return torch.zeros_like(self._masks_BHW)
        is_kept_R = self._area_R >= min_area
        if strong_BHW is not None:
            strong_X = strong_BHW.flatten()
            upto_X = torch.cumsum(strong_X, 0, dtype=torch.int32)
            strong_R = upto_X[self._end_R] - upto_X[self._start_R] + strong_X[self._start_R]
            is_kept_R &= self._of_component(strong_R.long()) > 0
        # Before the first run there is none: what stands there is the last one's, and no part of the mask.
        return is_kept_R[self._run_X].view(self._masks_BHW.shape) & self._masks_BHW

    def _of_component(self, amount_R: Tensor) -> Tensor:
        """Add up an integer of each run over its component."""
        return torch.zeros_like(amount_R).index_add_(0, self._root_R, amount_R)[self._root_R]

    def _touching(self) -> tuple[Tensor, Tensor]:
        """Return pairs of runs that touch, the upper ones and the lower ones: each pair once or twice."""
        width = self._masks_BHW.shape[-1]
        above, below = self._masks_BHW[:, :-1], self._masks_BHW[:, 1:]
        # Where two runs lie upon each other one pixel says so; corners count where they do not.
        upon = above & below
        first_upon = upon.clone()
        first_upon[..., 1:] &= ~upon[..., :-1]
        to_right, to_left = torch.zeros_like(upon), torch.zeros_like(upon)
        to_right[..., :-1] = above[..., :-1] & below[..., 1:] & ~above[..., 1:] & ~below[..., :-1]
        to_left[..., 1:] = above[..., 1:] & below[..., :-1] & ~above[..., :-1] & ~below[..., 1:]
        upper, lower = [], []
        for touching, step in ((first_upon, 0), (to_right, 1), (to_left, -1)):
            b, y, x = touching.nonzero(as_tuple=True)
            at = (b * self._masks_BHW.shape[1] + y) * width + x
            upper.append(self._run_X[at])
            lower.append(self._run_X[at + width + step])
        return torch.cat(upper).long(), torch.cat(lower).long()


def _united(parent_R: Tensor, one_E: Tensor, other_E: Tensor) -> Tensor:
    """Return the least element of the set of each, where every one is in the set of its other."""
    while True:
        above_R = parent_R[parent_R]
        least_E = torch.minimum(above_R[one_E], above_R[other_E])
        following_R = torch.minimum(parent_R, above_R)
        for ends_E in (one_E, other_E):
            following_R.scatter_reduce_(0, parent_R[ends_E], least_E, "amin")
            following_R.scatter_reduce_(0, ends_E, least_E, "amin")
        following_R = following_R[following_R]
        if torch.equal(following_R, parent_R):
            return parent_R
        parent_R = following_R


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
def _in_any_order() -> Iterator[None]:
    """Within: sums of integers may be made in any order, which changes none of them."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
