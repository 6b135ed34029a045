"""What a mask's score needs of it: sums over the working grid, of whole masks or of windows of them.

A mask that differs from another in one window alone has that one's sums but for what the window changes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from job.reward.coverage import cells_along
from job.reward.inputs import mask_coverage, working_size

_PIXELS_AT_ONCE = 2**25


@dataclass(frozen=True)
class MaskSums:
    """Sums over the cells of B images: of K masks times R truths, of the masks, of their squares."""

    shared_BKR: Tensor
    mask_BK1: Tensor
    squares_BK1: Tensor


def whole_sums(masks_BKN: Tensor, truths_BRN: Tensor) -> MaskSums:
    """Return the sums of masks (coverage in 0..1) and truths over N cells."""
    return MaskSums(
        masks_BKN @ truths_BRN.transpose(1, 2),
        masks_BKN.sum(2, keepdim=True),
        (masks_BKN**2).sum(2, keepdim=True),
    )


class WindowedMasks:
    """K masks of an image, each of whose windows alone is put into the mask `base_HW`.

    The Y x X windows have `side_px` pixels and begin `shift` pixels before the upper left corner. Cells that
    a window's border crosses are covered in part, as they are where whole masks are shrunk.
    """

    def __init__(
        self,
        masks_KHW: NDArray[np.bool_],
        base_HW: NDArray[np.bool_],
        side_px: int,
        shift: tuple[int, int],
        *,
        max_side: int,
        device: str,
    ) -> None:
        height, width = base_HW.shape
        size = working_size(height, width, max_side)
        self._base_N = mask_coverage(base_HW[None], size).flatten().to(device)
        rows_Ym, down_Ymp = _pooling(height, size[0], side_px, shift[0])
        columns_Xn, right_Xnp = _pooling(width, size[1], side_px, shift[1])
        cells_YXmn = rows_Ym[:, None, :, None] * size[1] + columns_Xn[None, :, None, :]
        self.n_windows = (len(rows_Ym), len(columns_Xn))
        self._cells_WC = cells_YXmn.flatten(2).flatten(0, 1).to(device)
        down_Ymp, right_Xnp = down_Ymp.to(device), right_Xnp.to(device)
        masks, base = torch.from_numpy(masks_KHW).to(device), torch.from_numpy(base_HW).to(device)
        n_pixels = side_px**2 * len(self._cells_WC)
        changes = [
            self._changes(some.to(torch.float32) - base.to(torch.float32), down_Ymp, right_Xnp, shift)
            for some in torch.split(masks, max(1, _PIXELS_AT_ONCE // n_pixels))
        ]
        self._changes_WKC = torch.cat(changes, dim=1)

    def sums(self, truths_RN: Tensor) -> MaskSums:
        """Return the sums of the W * K changed masks of one image, window by window."""
        base_WC, truths_RWC = self._base_N[self._cells_WC], truths_RN[:, self._cells_WC]
        changes = self._changes_WKC
        shared_WKR = torch.einsum("wkc,rwc->wkr", changes, truths_RWC) + truths_RN @ self._base_N
        mask_WK = changes.sum(2) + self._base_N.sum()
        squares_WK = (changes * (changes + 2 * base_WC[:, None])).sum(2) + (self._base_N**2).sum()
        return MaskSums(
            shared_WKR.flatten(0, 1)[None],
            mask_WK.flatten()[None, :, None],
            squares_WK.flatten()[None, :, None],
        )

    def _changes(self, d_KHW: Tensor, down_Ymp: Tensor, right_Xnp: Tensor, shift: tuple[int, int]) -> Tensor:
        """Return how each window alone changes the coverage of its cells, `[W, K, C]`."""
        rows, columns = self.n_windows
        side = down_Ymp.shape[2]
        below, right = rows * side - shift[0] - d_KHW.shape[1], columns * side - shift[1] - d_KHW.shape[2]
        blocks = F.pad(d_KHW, (shift[1], right, shift[0], below)).reshape(-1, rows, side, columns, side)
        changes = torch.einsum("ymp,kypxq,xnq->yxkmn", down_Ymp, blocks, right_Xnp)
        return changes.flatten(3).flatten(0, 1)


def _pooling(n_pixels: int, n_cells: int, side_px: int, shift: int) -> tuple[Tensor, Tensor]:
    """Return the cells `[Y, m]` that each window along a side may touch, and means over its pixels."""
    n_windows = -(-(n_pixels + shift) // side_px)
    # The means of `adaptive_avg_pool2d`, by which whole masks are shrunk: cells may share a pixel.
    first_l1, end_l1 = (torch.from_numpy(one)[:, None] for one in cells_along(n_pixels, n_cells))
    pixels_p = torch.arange(n_pixels)
    means_lp = ((first_l1 <= pixels_p) & (pixels_p < end_l1)).to(torch.float32) / (end_l1 - first_l1)
    padded = F.pad(means_lp, (shift, n_windows * side_px - shift - n_pixels))
    means_lYp = padded.reshape(n_cells, n_windows, side_px)
    touched_Yl = means_lYp.any(2).T
    most = int(touched_Yl.sum(1).max())
    first_Y = touched_Yl.to(torch.uint8).argmax(1).clamp(max=n_cells - most)
    cells_Ym = first_Y[:, None] + torch.arange(most)
    return cells_Ym, means_lYp[cells_Ym, torch.arange(n_windows)[:, None]]
