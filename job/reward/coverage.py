"""How much of each cell of a smaller grid a mask covers: what torch's adaptive pooling gives, to the bit.

A mask is bits, so that sums over cells are small integers, whatever their order: no float is made before
they are there. Without torch, whose import costs a process of workers seconds.
"""

import numpy as np
from numpy.typing import NDArray

_PIXELS_AT_ONCE = 2**20  # a block that stays in a core's cache

Counts = NDArray[np.unsignedinteger]


def coverage(masks_BHW: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the share of each grid cell that a mask covers: `[B, h, w]` in 0..1.

    Vessels are thinner than a cell: a nearest pixel would break them, a mean keeps their area. Raises
    ValueError unless masks are bool `[B, H, W]`.
    """
    if masks_BHW.dtype != np.bool_ or masks_BHW.ndim != 3:
        raise ValueError(f"masks must be bool [B, H, W], got {masks_BHW.dtype} {masks_BHW.shape}")
    if masks_BHW.shape[1:] == size:
        return masks_BHW.astype(np.float32)
    shares_Bhw = np.empty((len(masks_BHW), *size), dtype=np.float32)
    (from_h, to_h), (from_w, to_w) = (
        cells_along(*sides) for sides in zip(masks_BHW.shape[1:], size, strict=True)
    )
    height_h, width_w = to_h - from_h, to_w - from_w
    counts_in = np.min_scalar_type(int(height_h.max() * width_w.max()))
    at_once = max(1, _PIXELS_AT_ONCE // (masks_BHW.shape[1] * masks_BHW.shape[2]))
    for start in range(0, len(masks_BHW), at_once):
        bits_BHW = masks_BHW[start : start + at_once].view(np.uint8)
        of_rows_BWh = np.swapaxes(_summed(bits_BHW, from_h, to_h, counts_in), 1, 2)
        counts_Bwh = _summed(np.ascontiguousarray(of_rows_BWh), from_w, to_w, counts_in)
        shares_hw = shares_Bhw[start : start + at_once]
        # Divided twice, as torch does: that rounds otherwise than one division by the area.
        np.divide(
            np.swapaxes(counts_Bwh, 1, 2).astype(np.float32),
            height_h[:, None].astype(np.float32),
            out=shares_hw,
        )
        shares_hw /= width_w.astype(np.float32)
    return shares_Bhw


def coverage_bytes(masks_BHW: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return `coverage` in steps of 1/255: uint8 `[B, h, w]`."""
    shares_Bhw = coverage(masks_BHW, size)
    shares_Bhw *= 255
    return np.rint(shares_Bhw, out=shares_Bhw).astype(np.uint8)


def cells_along(n_pixels: int, n_cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where each cell begins and ends along one side; cells share the pixels that they cut."""
    cells = np.arange(n_cells)
    return cells * n_pixels // n_cells, -(-(cells + 1) * n_pixels // n_cells)


def _summed(
    values_BHW: NDArray[np.unsignedinteger],
    from_h: NDArray[np.intp],
    to_h: NDArray[np.intp],
    counts_in: np.dtype,
) -> NDArray[np.unsignedinteger]:
    """Add up rows `from_h` until `to_h`: `[B, h, W]`."""
    summed_BhW = values_BHW[:, from_h].astype(counts_in)
    for further in range(1, int((to_h - from_h).max())):
        rows_h = from_h + further
        is_there_h = rows_h < to_h
        more_BhW = values_BHW[:, np.minimum(rows_h, values_BHW.shape[1] - 1)]
        if not is_there_h.all():
            more_BhW *= is_there_h[:, None]
        summed_BhW += more_BhW
    return summed_BhW
