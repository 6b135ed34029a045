"""From outlines to pixels."""

import numpy as np
from numpy.typing import NDArray

from job.data.samples import Polygons


def rasterise(polygons: Polygons, height: int, width: int) -> NDArray[np.bool_]:
    """Return the union of the rings as a mask `[height, width]`.

    A pixel belongs to a ring when its centre lies inside by the even-odd rule; pixel (0, 0) covers the square
    from (0, 0) to (1, 1), as in COCO. Parts outside the picture are cut off.
    """
    mask = np.zeros((height, width), bool)
    for ring in polygons.rings:
        mask |= _inside(np.asarray(ring, np.float64).reshape(-1, 2), height, width)
    return mask


def _inside(ring_V2: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Toggle every row of centres where an edge crosses it; the running parity is the inside."""
    toggles = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(ring_V2, np.roll(ring_V2, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        # Half-open in y: a vertex on a row of centres is counted by one of its two edges.
        top, bottom = np.clip(np.ceil(np.array([min(y0, y1), max(y0, y1)]) - 0.5), 0, height).astype(int)
        rows = np.arange(top, bottom)
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        toggles[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] += 1
    return (np.cumsum(toggles, axis=1)[:, :width] & 1).astype(bool)
