"""Ways to spoil a mask: the reward network must know every quality of mask, not only a segmenter's usual.

Each takes a bool mask `[H, W]` and a generator, and returns a new mask. Lengths grow with the image, so that
what breaks a vessel at 128 px breaks one at 512 px too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Mask = NDArray[np.bool_]
Corruption = Callable[[Mask, np.random.Generator], Mask]

_REFERENCE_SIDE_PX = 128
_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.bool_)


def corrupted(truth_HW: Mask, others: Sequence[Mask], rng: np.random.Generator) -> Mask:
    """Return all masks of `corruptions_of` at once: `[C, H, W]`."""
    found = corruptions_of(truth_HW, len(others), rng)
    return np.stack([swap(truth_HW, others[one]) if isinstance(one, int) else one for one in found])


def corruptions_of(truth_HW: Mask, n_others: int, rng: np.random.Generator) -> Iterator[Mask | int]:
    """Yield masks `[H, W]`: each corruption once, two at once, another image's, empty, full, the truth.

    Of the other image only its number below `n_others` is yielded: whoever has its truth, of any size, makes
    the mask with `swap`. Without other images there is none.
    """
    for corrupt in CORRUPTIONS.values():
        yield corrupt(truth_HW, rng)
    first, second = rng.choice(list(CORRUPTIONS), 2, replace=False)
    yield CORRUPTIONS[first](CORRUPTIONS[second](truth_HW, rng), rng)
    if n_others:
        yield int(rng.integers(n_others))
    yield from (np.zeros_like(truth_HW), np.ones_like(truth_HW), truth_HW)


def n_corruptions(n_others: int) -> int:
    """Return how many masks `corruptions_of` yields."""
    return len(CORRUPTIONS) + 4 + bool(n_others)


def drop_thin(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Drop a random share of the branches that are too thin to survive an opening."""
    thick = ndimage.binary_opening(mask_HW, _EIGHT_CONNECTED, iterations=unit_px(mask_HW))
    thick = ndimage.binary_dilation(thick, _EIGHT_CONNECTED) & mask_HW
    labels, n_branches = ndimage.label(mask_HW & ~thick, _EIGHT_CONNECTED)
    is_kept = rng.uniform(size=n_branches + 1) < rng.uniform(0.0, 0.8)
    is_kept[0] = False
    kept: Mask = thick | is_kept[labels]
    return kept


def break_vessels(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Cut gaps of a few pixels all along the vessels."""
    n_gaps = int(rng.integers(10, 80))
    gaps = disks_at(
        _some_pixels(mask_HW, n_gaps, rng), mask_HW.shape, rng.uniform(1.0, 4.0) * unit_px(mask_HW)
    )
    return mask_HW & ~gaps


def lose_region(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Miss everything in a part of the image."""
    return mask_HW & ~_region(mask_HW.shape, rng.uniform(0.1, 0.6), rng)


def dilate(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Widen vessels, everywhere or in a part of the image."""
    wide = ndimage.binary_dilation(mask_HW, _cross_or_square(rng), iterations=_few_px(mask_HW, rng))
    return np.where(_region(mask_HW.shape, rng.uniform(0.3, 1.2), rng), wide, mask_HW)


def erode(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Narrow vessels, everywhere or in a part of the image."""
    narrow = ndimage.binary_erosion(mask_HW, _cross_or_square(rng), border_value=1)
    return np.where(_region(mask_HW.shape, rng.uniform(0.2, 1.1), rng), narrow, mask_HW)


def add_islands(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Add specks that belong to no vessel."""
    n_islands = int(rng.integers(5, 150))
    places = np.stack([rng.integers(0, side, n_islands) for side in mask_HW.shape], axis=1)
    return mask_HW | disks_at(places, mask_HW.shape, rng.uniform(0.5, 2.5) * unit_px(mask_HW))


def add_rim(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Add a ring such as the rim of a field of view, which edge detectors take for a vessel."""
    height, width = mask_HW.shape
    y, x = np.ogrid[:height, :width]
    radius = rng.uniform(0.42, 0.52) * max(height, width)
    off_rim = np.abs(np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) - radius)
    on_rim: Mask = off_rim < rng.uniform(0.6, 3.0) * unit_px(mask_HW)
    return mask_HW | on_rim


def shift(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Move the mask by a few pixels; what leaves the image is lost."""
    distance, angle = rng.uniform(1.0, 8.0) * unit_px(mask_HW), rng.uniform(0, 2 * np.pi)
    height, width = mask_HW.shape
    # A tiny mask leaves the image altogether; a longer way would turn slices inside out.
    dy = int(np.clip(round(distance * np.sin(angle)), -height, height))
    dx = int(np.clip(round(distance * np.cos(angle)), -width, width))
    moved = np.zeros_like(mask_HW)
    moved[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = mask_HW[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return moved


def wobble_edges(mask_HW: Mask, rng: np.random.Generator) -> Mask:
    """Flip pixels next to the vessels' edges: the ragged outline of an unsure segmenter."""
    near = ndimage.binary_dilation(mask_HW, _EIGHT_CONNECTED)
    edge = near & ~ndimage.binary_erosion(mask_HW, _EIGHT_CONNECTED, border_value=1)
    return mask_HW ^ (edge & (rng.uniform(size=mask_HW.shape) < rng.uniform(0.05, 0.5)))


CORRUPTIONS: Mapping[str, Corruption] = {
    "drop_thin": drop_thin,
    "break_vessels": break_vessels,
    "lose_region": lose_region,
    "dilate": dilate,
    "erode": erode,
    "add_islands": add_islands,
    "add_rim": add_rim,
    "shift": shift,
    "wobble_edges": wobble_edges,
}


def swap(mask_HW: Mask, other_HW: Mask) -> Mask:
    """Return another image's mask at this one's size: plausible vessels in the wrong places."""
    if other_HW.shape == mask_HW.shape:
        return other_HW.copy()
    resized = Image.fromarray(other_HW).resize(mask_HW.shape[::-1], Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.bool_)


def unit_px(mask_HW: Mask) -> int:
    """Return the length in pixels that is one pixel of an image of 128: what lengths are counted in."""
    return max(1, round(int(max(mask_HW.shape)) / _REFERENCE_SIDE_PX))


def disks_at(places_N2: NDArray[np.integer], shape: tuple[int, ...], radius_px: float) -> Mask:
    """Return bool `[*shape]`: disks of a radius at places `[N, 2]` of row and column."""
    if not len(places_N2):
        return np.zeros(shape, dtype=np.bool_)
    off_centre = np.ones(shape, dtype=np.bool_)
    off_centre[tuple(places_N2.T)] = False
    return np.asarray(ndimage.distance_transform_edt(off_centre) <= radius_px)


def _few_px(mask_HW: Mask, rng: np.random.Generator) -> int:
    return int(rng.integers(1, 3)) * unit_px(mask_HW)


def _cross_or_square(rng: np.random.Generator) -> Mask:
    return ndimage.generate_binary_structure(2, int(rng.integers(1, 3)))


def _some_pixels(mask_HW: Mask, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    places = np.argwhere(mask_HW)
    return places[rng.integers(0, len(places), n)] if len(places) else places


def _region(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> Mask:
    """Return about `share` of the image as a few smooth blobs; everything for a share of 1 or more."""
    if share >= 1:
        return np.ones(shape, dtype=np.bool_)
    grid = Image.fromarray(rng.standard_normal((5, 5)).astype(np.float32))
    height, width = shape
    field = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return np.asarray(field <= np.quantile(field, share))
