"""What a checkpoint's code makes of pictures on the CPU, made on the device instead, bit for bit.

Pillow's bicubic resize weighs 8-bit pixels by integers of 22 fractional bits, one axis after the other, and
rounds to 8 bits between. Integers give the same everywhere, so a GPU does in about a millisecond what takes a
core 25 to 80. Which axis comes first depends on Pillow's version and the sizes. So the first picture of each
size goes through the checkpoint's own code too: where no order gives its very bits, that code makes them all.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""
Recipe = tuple[tuple[tuple[int, int], Box | None], ...]
"""Per crop: the (height, width) that the picture is resized to, and what is cut out of that."""

_BITS = 22
_REACH = 2.0
"""Of the cubic, in pixels of the smaller scale, to either side."""


@dataclass(frozen=True)
class Noted:
    """Stands for a Pillow picture in code that resizes and cuts it: does neither, but notes it."""

    size: tuple[int, int]
    """Width and height."""
    resized: tuple[int, int] | None = None
    box: Box | None = None
    mode: str = "RGB"

    @property
    def width(self) -> int:
        """As Pillow's."""
        return self.size[0]

    @property
    def height(self) -> int:
        """As Pillow's."""
        return self.size[1]

    def resize(self, size: tuple[int, int]) -> "Noted":
        """Note a resize; raises ValueError for a second one."""
        if self.resized is not None or self.box is not None:
            raise ValueError("a picture that is resized or cut already")
        return Noted(size, size)

    def crop(self, box: Box) -> "Noted":
        """Note a cut; raises ValueError for a second one."""
        if self.box is not None:
            raise ValueError("a picture that is cut already")
        return Noted((box[2] - box[0], box[3] - box[1]), self.resized or self.size, box)

    @property
    def step(self) -> tuple[tuple[int, int], Box | None]:
        """What happened to it."""
        width, height = self.resized or self.size
        return (height, width), self.box


@dataclass(frozen=True)
class Run:
    """Pictures of one size, on the host and as uint8 `[B, H, W, 3]` on the device."""

    pictures: Sequence[Picture]
    pixels_BHWC: Tensor


def upload(pictures: Sequence[Picture], device: torch.device) -> list[Run]:
    """Bring pictures to the device, those of one size that stand together in one piece."""
    together = [list(run) for _, run in itertools.groupby(pictures, key=lambda picture: picture.shape)]
    return [Run(run, to_device(torch.from_numpy(np.stack(run)), device)) for run in together]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a host tensor on the device; the host goes on before it is there."""
    if device.type != "cuda":
        return tensor.to(device)
    # From pageable memory the copy would first wait for everything that the device still has to do.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


class Crops:
    """Makes crops of pictures as `own` does, `[T, h, w, 3]` of one picture.

    `recipe` says of a size (height, width) what `own` does, or None where nobody knows.
    """

    def __init__(
        self, own: Callable[[Picture], Picture], recipe: Callable[[tuple[int, int]], Recipe | None]
    ) -> None:
        self._own = own
        self._recipe = recipe
        self._rows_first: dict[tuple[int, ...], bool | None] = {}

    def make(self, runs: Sequence[Run], *, on_device: bool) -> Tensor:
        """Return uint8 `[B, T, h, w, 3]` on the device; without `on_device` by the checkpoint's own code."""
        return torch.cat([self._of(run, on_device=on_device) for run in runs])

    def _of(self, run: Run, *, on_device: bool) -> Tensor:
        size = run.pictures[0].shape[:2]
        recipe = self._recipe(size) if on_device else None
        if recipe is not None:
            rows_first = self._rows_first.get(size)
            if size not in self._rows_first:
                rows_first = self._order(run, size, recipe)
            if rows_first is not None:
                return crops(run.pixels_BHWC, recipe, rows_first=rows_first)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            made = np.stack(list(pool.map(self._own, run.pictures)))
        return to_device(torch.from_numpy(made), run.pixels_BHWC.device)

    def _order(self, run: Run, size: tuple[int, ...], recipe: Recipe) -> bool | None:
        """Return whether rows come first; None where neither order gives what `own` gives."""
        wanted = torch.from_numpy(self._own(run.pictures[0]))
        made = {
            first: crops(run.pixels_BHWC[:1], recipe, rows_first=first)[0].cpu() for first in (True, False)
        }
        fitting = [first for first, one in made.items() if torch.equal(one, wanted)]
        if len(fitting) != 2:  # where both fit, the picture is too plain to tell
            self._rows_first[size] = fitting[0] if fitting else None
        return fitting[0] if fitting else None


def crops(pictures_BHWC: Tensor, recipe: Recipe, *, rows_first: bool) -> Tensor:
    """Return `[B, T, h, w, C]`: each picture resized and cut."""
    resized = {size: resize_bicubic(pictures_BHWC, size, rows_first=rows_first) for size, _ in recipe}
    made = []
    for size, box in recipe:
        left, top, right, bottom = box or (0, 0, size[1], size[0])
        made.append(resized[size][:, top:bottom, left:right])
    return torch.stack(made, dim=1)


def resize_bicubic(pictures_BHWC: Tensor, size: tuple[int, int], *, rows_first: bool = True) -> Tensor:
    """Return uint8 `[B, height, width, C]`, along rows first as `PIL.Image.resize` mostly does."""
    for dim in (2, 1) if rows_first else (1, 2):
        pictures_BHWC = _along(pictures_BHWC, dim, size[dim - 1])
    return pictures_BHWC


def _along(pictures: Tensor, dim: int, n_out: int) -> Tensor:
    n_in = pictures.shape[dim]
    if n_in == n_out:
        return pictures
    places_KO, weights_KO = _taps(n_in, n_out, pictures.device)
    shape = [1] * pictures.dim()
    shape[dim] = n_out
    half = torch.full(shape, 1 << (_BITS - 1), dtype=torch.int32, device=pictures.device)
    total = half.expand([n_out if d == dim else n for d, n in enumerate(pictures.shape)]).clone()
    for places_O, weights_O in zip(places_KO, weights_KO, strict=True):
        total.addcmul_(pictures.index_select(dim, places_O), weights_O.view(shape))
    return total.bitwise_right_shift_(_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(n_in: int, n_out: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which pixels `[K, O]` each of O pixels is made of, and their int32 weights."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    centre_O = (np.arange(n_out) + 0.5) * scale
    first_O = np.maximum((centre_O - _REACH * stretch + 0.5).astype(np.int64), 0)
    behind_O = np.minimum((centre_O + _REACH * stretch + 0.5).astype(np.int64), n_in)
    places_KO = first_O + np.arange((behind_O - first_O).max())[:, None]
    shares_KO = np.where(places_KO < behind_O, _cubic((places_KO - centre_O + 0.5) * (1.0 / stretch)), 0.0)
    whole_O = np.zeros(n_out)
    for shares_O in shares_KO:  # one after the other, as Pillow adds them up
        whole_O += shares_O
    fixed_KO = shares_KO / whole_O * (1 << _BITS)
    weights_KO = np.trunc(fixed_KO + np.where(fixed_KO < 0, -0.5, 0.5)).astype(np.int32)
    places = torch.from_numpy(np.minimum(places_KO, n_in - 1)).to(device)
    return places, torch.from_numpy(weights_KO).to(device)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < _REACH, far, 0.0))
