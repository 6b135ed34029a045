"""The connected components of many masks at once, with integers alone, on any device."""

import torch
from torch import Tensor


class Components:
    """The 8-connected components of many masks `[B, H, W]`, by the R horizontal runs that they consist of."""

    def __init__(self, masks_BHW: Tensor) -> None:
        self._masks_BHW = masks_BHW
        starts_BHW, ends_BHW = masks_BHW.clone(), masks_BHW.clone()
        starts_BHW[..., 1:] &= ~masks_BHW[..., :-1]
        ends_BHW[..., :-1] &= ~masks_BHW[..., 1:]
        # Positions in all masks, one after the other.
        self._start_R, self._end_R = (which.flatten().nonzero()[:, 0] for which in (starts_BHW, ends_BHW))
        self._run_X = torch.cumsum(starts_BHW.flatten(), 0, dtype=torch.int32) - 1
        root_R = _united(torch.arange(len(self._start_R), device=masks_BHW.device), *self._touching())
        sorted_R, self._by_component_R = torch.sort(root_R)
        is_last_R = torch.ones_like(sorted_R, dtype=torch.bool)
        is_last_R[:-1] = sorted_R[1:] != sorted_R[:-1]
        self._last_C = is_last_R.nonzero()[:, 0]
        self._component_R = torch.searchsorted(sorted_R[self._last_C], root_R)
        self._area_R = self._of_component(self._end_R - self._start_R + 1)

    def kept(self, min_area: int, strong_BHW: Tensor | None) -> Tensor:
        """Return those of an area; with `strong_BHW` only those that hold one of its pixels."""
        if not len(self._start_R):
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
        """Add up an integer of each run over its component.

        Runs are sorted for it: torch adds at indices slowly unless it may do so in any order, and what it may
        is one setting for all threads.
        """
        upto_C = torch.cumsum(amount_R[self._by_component_R], 0)[self._last_C]
        return torch.diff(upto_C, prepend=upto_C.new_zeros(1))[self._component_R]

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
