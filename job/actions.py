"""Actions: a prompt with a post-processing, and the only code that turns logits into masks.

Every path (table, live environment, training, prediction) rounds logits to float16 and then calls `apply` or
`apply_all`, so that equal logits give equal masks everywhere. No torch here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Masks = NDArray[np.bool_]
Logits = NDArray[np.float16]
Surface = NDArray[np.float32]

LARGEST_LOGIT = float(np.finfo(np.float16).max)
EIGHT_CONNECTED = np.ones((3, 3), dtype=np.bool_)


@dataclass(frozen=True)
class PostProcess:
    """From probabilities to a mask: threshold, hysteresis, closing, then small components are dropped.

    `threshold` and `low` are probabilities in (0, 1); with `low`, pixels over `low` that are 8-connected to a
    pixel over `threshold` are foreground too. `closing_radius` is that of a disk and `min_area` the smallest
    8-connected component that stays, both in pixels of the mask. Raises ValueError for values outside these
    ranges.
    """

    threshold: float = 0.5
    low: float | None = None
    min_area: int = 0
    closing_radius: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {self.threshold}")
        if self.low is not None and not 0 < self.low < self.threshold:
            raise ValueError(f"low must lie between 0 and the threshold {self.threshold}, got {self.low}")
        if self.min_area < 0 or self.closing_radius < 0:
            raise ValueError(f"min_area and closing_radius must not be negative, got {self}")

    @property
    def label(self) -> str:
        """A few words for tables and plots, such as `t 0.5, hysteresis 0.3, area>=30`."""
        parts = [f"t {self.threshold:g}"]
        if self.low is not None:
            parts.append(f"hysteresis {self.low:g}")
        if self.closing_radius:
            parts.append(f"closing {self.closing_radius}")
        if self.min_area:
            parts.append(f"area>={self.min_area}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Action:
    """What a chooser chooses: a prompt and what is done with its logits."""

    prompt: str
    postprocess: PostProcess

    @property
    def label(self) -> str:
        """A short name for people, such as `'Segment the major vessels' | t 0.5`."""
        return f"'{self.prompt}' | {self.postprocess.label}"


@dataclass(frozen=True)
class ActionSpace:
    """Every prompt with every post-processing, numbered prompt by prompt: `k = p * Q + q`.

    Action 0 is the no-op, what the user has today. Where the segmenter's own code enlarges its logits to
    another size (height, width) before the image's, `by_way_of` is that. Raises ValueError when either list
    is empty.
    """

    prompts: tuple[str, ...]
    postprocess: tuple[PostProcess, ...]
    by_way_of: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.prompts or not self.postprocess:
            raise ValueError("an action space needs at least one prompt and one post-processing")

    def __len__(self) -> int:
        return len(self.prompts) * len(self.postprocess)

    def __getitem__(self, action: int) -> Action:
        return Action(self.prompts[self.prompt_of(action)], self.postprocess[self.postprocess_of(action)])

    def __iter__(self) -> Iterator[Action]:
        return (self[action] for action in range(len(self)))

    def index(self, p: int, q: int) -> int:
        """Number the action of prompt `p` and post-processing `q`; IndexError when there is none."""
        if not (0 <= p < len(self.prompts) and 0 <= q < len(self.postprocess)):
            raise IndexError(f"no prompt {p} with post-processing {q} in {self._size}")
        return p * len(self.postprocess) + q

    def prompt_of(self, action: int) -> int:
        """Give the prompt's position in `prompts`; IndexError for an action that does not exist."""
        return self._checked(action) // len(self.postprocess)

    def postprocess_of(self, action: int) -> int:
        """Give the post-processing's position in `postprocess`; IndexError as in `prompt_of`."""
        return self._checked(action) % len(self.postprocess)

    def _checked(self, action: int) -> int:
        # A negative number never means "from the end": it would be somebody's "no action".
        if not 0 <= action < len(self):
            raise IndexError(f"no action {action} in {self._size}")
        return int(action)

    @property
    def _size(self) -> str:
        return f"{len(self.prompts)} prompts x {len(self.postprocess)} post-processings"


def apply(space: ActionSpace, action: int, logits_PHW: Logits, size: tuple[int, int]) -> Masks:
    """Turn one image's logits into the mask of one action: bool `[H, W]` of the given size.

    Logits are resized bilinearly in float32 and compared strictly with the logit of the threshold (0.5: logit
    > 0). Raises ValueError when logits are not float16 `[prompts, h, w]` or contain NaN, IndexError for an
    unknown action.
    """
    check_logits(space, logits_PHW, size)
    surface_HW = _surface(space, logits_PHW, space.prompt_of(action), size)
    return _Thresholds(surface_HW).mask(space.postprocess[space.postprocess_of(action)])


def apply_all(space: ActionSpace, logits_PHW: Logits, size: tuple[int, int]) -> Masks:
    """Turn one image's logits into the masks of K actions: bool `[K, H, W]`, bit for bit those of `apply`.

    Raises ValueError as `apply` does.
    """
    ((_, masks_KHW),) = iter_masks(space, logits_PHW, size, len(space))
    return masks_KHW


def iter_masks(
    space: ActionSpace, logits_PHW: Logits, size: tuple[int, int], at_once: int
) -> Iterator[tuple[range, Masks]]:
    """Yield actions and their masks of `apply_all`, in order, as blocks `[B, H, W]` of at most `at_once`.

    A block is of whole prompts where `at_once` is enough for one, else of a part of one.
    """
    check_logits(space, logits_PHW, size)
    prompt, thresholds = -1, None
    for block in blocks_of(space, at_once):
        block_BHW = np.empty((len(block), *size), dtype=np.bool_)
        for action, mask_HW in zip(block, block_BHW, strict=True):
            p, q = divmod(action, len(space.postprocess))
            if thresholds is None or p != prompt:
                prompt, thresholds = p, _Thresholds(_surface(space, logits_PHW, p, size))
            mask_HW[:] = thresholds.mask(space.postprocess[q])
        yield block, block_BHW


def blocks_of(space: ActionSpace, at_once: int) -> Iterator[range]:
    """Yield all actions in order, at most `at_once` together: whole prompts, or a part of one."""
    n_of_prompt, first = len(space.postprocess), 0
    while first < len(space):
        whole = min(len(space) - first, at_once // n_of_prompt * n_of_prompt)
        n = whole or min(n_of_prompt - first % n_of_prompt, at_once)
        yield range(first, first + n)
        first += n


@dataclass(frozen=True)
class MaskBlocks:
    """What `iter_masks` yields, made when it is iterated over: here, or in a process that this is sent to."""

    space: ActionSpace
    logits_PHW: Logits
    size: tuple[int, int]
    at_once: int

    def __iter__(self) -> Iterator[tuple[range, Masks]]:
        return iter_masks(self.space, self.logits_PHW, self.size, self.at_once)


def resize_bilinear(
    logits_HW: Surface, size: tuple[int, int], by_way_of: tuple[int, int] | None = None
) -> Surface:
    """Resize float32 logits bilinearly with half-pixel centres (`align_corners=False`), without antialiasing.

    With `by_way_of` to that size first, and that to `size`. Products are elementwise, never a matrix product:
    the bits do not depend on threads or on the BLAS.
    """
    if by_way_of is None:
        if logits_HW.shape == size:
            return logits_HW
        by_way_of = size
    # Each step is a sum along one axis, so one axis goes all the way before the other: the order changes
    # rounding alone. Columns while the map is small, then whole rows, which is a sequence of plain copies.
    columns_Wh = _resize_rows(_resize_rows(np.ascontiguousarray(logits_HW.T), by_way_of[1]), size[1])
    wide_hW = np.ascontiguousarray(columns_Wh.T)
    return _resize_rows(_resize_rows(wide_hW, by_way_of[0]), size[0])


def rows_between(n_rows: int, height: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, by row of a map that is resized, the rows above and below it and the weight of the latter."""
    centre_H = np.maximum((np.arange(height) + 0.5) * (n_rows / height) - 0.5, 0.0)
    above_H = np.minimum(centre_H.astype(np.intp), n_rows - 1)
    below_H = np.minimum(above_H + 1, n_rows - 1)
    return above_H, below_H, (centre_H - above_H).astype(np.float32)


def check_logits(space: ActionSpace, logits_PHW: Logits, size: tuple[int, int]) -> None:
    """Raise ValueError for logits that are not float16 `[prompts, h, w]`, or a size without pixels."""
    if logits_PHW.dtype != np.float16:
        raise ValueError(
            f"logits are {logits_PHW.dtype}: every path rounds logits to float16 before any threshold"
        )
    if logits_PHW.ndim != 3 or len(logits_PHW) != len(space.prompts) or logits_PHW.size == 0:
        raise ValueError(f"logits {logits_PHW.shape} must be [P, h, w] with P = {len(space.prompts)} prompts")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width) of at least one pixel, got {size}")


class _Thresholds:
    """All masks of one logit map; components are labelled once per level, however many actions need them."""

    def __init__(self, logits_HW: Surface) -> None:
        self._logits_HW = logits_HW
        self._components: dict[float, tuple[NDArray[np.int32], NDArray[np.int64]]] = {}

    def mask(self, postprocess: PostProcess) -> Masks:
        """Apply one post-processing."""
        if postprocess.closing_radius == 0:
            return self._grown(postprocess.threshold, postprocess.low, postprocess.min_area)
        mask_HW = _closed(self._grown(postprocess.threshold, postprocess.low, 0), postprocess.closing_radius)
        if postprocess.min_area > 1:
            labels_HW, areas = _label(mask_HW)
            mask_HW = _keep(areas >= postprocess.min_area, labels_HW)
        return mask_HW

    def _grown(self, threshold: float, low: float | None, min_area: int) -> Masks:
        strong_HW = self._over(threshold)
        if low is None and min_area <= 1:
            return strong_HW
        level = threshold if low is None else low
        if level not in self._components:
            self._components[level] = _label(self._over(level))
        labels_HW, areas = self._components[level]
        is_kept = areas >= min_area
        if low is not None:
            is_kept &= np.bincount(labels_HW[strong_HW], minlength=len(areas)) > 0
        return _keep(is_kept, labels_HW)

    def _over(self, probability: float) -> Masks:
        return self._logits_HW > math.log(probability / (1 - probability))


def _surface(space: ActionSpace, logits_PHW: Logits, p: int, size: tuple[int, int]) -> Surface:
    logits_HW = logits_PHW[p].astype(np.float32)
    least, greatest = float(logits_HW.min()), float(logits_HW.max())
    if math.isnan(least):
        raise ValueError(f"logits of prompt {p} contain NaN: the segmenter's arithmetic overflowed")
    if math.isinf(least) or math.isinf(greatest):
        # float16 rounds a very sure pixel to infinity, and interpolating infinities gives NaN.
        logits_HW = np.clip(logits_HW, -LARGEST_LOGIT, LARGEST_LOGIT)
    return resize_bilinear(logits_HW, size, space.by_way_of)


def _resize_rows(values_hW: Surface, height: int) -> Surface:
    n_rows = len(values_hW)
    if n_rows == height:
        return values_hW
    above_H, below_H, weight_H = rows_between(n_rows, height)
    upper_HW = values_hW[above_H]
    resized_HW: Surface = values_hW[below_H]
    resized_HW -= upper_HW
    resized_HW *= weight_H[:, None]
    resized_HW += upper_HW
    return resized_HW


def _label(mask_HW: Masks) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Label 8-connected components: labels `[H, W]` and areas by label, where the background's is -1."""
    labels_HW = np.empty(mask_HW.shape, dtype=np.int32)
    n_components = ndimage.label(mask_HW, structure=EIGHT_CONNECTED, output=labels_HW)
    # Vessels are a tenth of an image: picking them out costs a quarter of counting the background as well.
    areas = np.bincount(labels_HW[mask_HW], minlength=n_components + 1)
    areas[0] = -1
    return labels_HW, areas


def _keep(is_kept: Masks, labels_HW: NDArray[np.int32]) -> Masks:
    return is_kept.take(labels_HW)  # the same as by brackets, in half the time


def _closed(mask_HW: Masks, radius: int) -> Masks:
    """Close with a disk as if the image went on as background: the border is neither eroded nor a wall."""
    canvas = np.pad(mask_HW, radius)
    closed = ~_dilated(~_dilated(canvas, radius), radius)
    return np.ascontiguousarray(closed[radius:-radius, radius:-radius])


def _dilated(mask_HW: Masks, radius: int) -> Masks:
    """Dilate with the disk `x^2 + y^2 <= radius^2`, background outside.

    A disk is a stack of horizontal bars: shifting whole arrays costs about 4 radius ORs, 20 times less than
    a generic dilation with a disk of 3 px.
    """
    height = len(mask_HW)
    bar_HW = mask_HW.copy()
    dilated_HW = np.zeros_like(mask_HW)
    half_width = 0
    for dy in range(radius, -1, -1):
        while (half_width + 1) ** 2 + dy**2 <= radius**2:
            half_width += 1
            bar_HW[:, half_width:] |= mask_HW[:, :-half_width]
            bar_HW[:, :-half_width] |= mask_HW[:, half_width:]
        dilated_HW[dy:] |= bar_HW[: height - dy]
        dilated_HW[: height - dy] |= bar_HW[dy:]
    return dilated_HW
