"""Reading files of probabilities: nothing is unpickled, and nothing is taken on the word of a header."""

import errno
import warnings
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from job.data.images import MAX_PIXELS
from job.errors import IntegrityError, TryAgain
from job.storage.documents import open_plain

NAME = "probabilities"
"""Of the array in an .npz, where there are several."""
_TOLERANCE = 1e-3
"""Softmax in float16 leaves the range by rounding."""
_HIGHEST = {"uint8": 255, "uint16": 65535}
_BITS = {"1": 1, "L": 255, "I;16": 65535, "I": 65535}
_MOST_BYTES = MAX_PIXELS * 8 + (1 << 16)
_FAILURES = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def read_probabilities(path: Path) -> NDArray[np.float32]:
    """Return float32 `[h, w]` between 0 and 1 of an .npz (floats; uint8 and uint16 by their range) or a PNG.

    Raises `IntegrityError` for what is damaged, too large, no map of probabilities, or needs unpickling.
    """
    try:
        levels = _npz(path) if path.suffix == ".npz" else _png(path)
    except (IntegrityError, FileNotFoundError, MemoryError):
        raise
    # Decoders meet hostile bytes here, and what they raise is not limited to OSError.
    except Exception as error:
        if getattr(error, "errno", None) in _FAILURES:
            raise TryAgain(f"{path}: {error}", advice="look after the disk, then run again") from error
        raise _refused(path, str(error) or type(error).__name__) from error
    if levels.ndim != 2 or not levels.size:
        raise _refused(path, f"its array has shape {levels.shape}, not [height, width]")
    least, greatest = float(levels.min()), float(levels.max())
    if n_missing := int(np.isnan(levels).sum()):
        raise _refused(path, f"{n_missing:,} of its {levels.size:,} values are NaN, not probabilities")
    if not (least >= -_TOLERANCE and greatest <= 1 + _TOLERANCE):
        raise _refused(path, f"it holds {least:g} to {greatest:g}: probabilities go from 0 to 1")
    return np.clip(levels, 0.0, 1.0)


def _npz(path: Path) -> NDArray[np.float32]:
    with open_plain(path) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        chosen = f"{NAME}.npy" if f"{NAME}.npy" in names else names[0] if len(names) == 1 else None
        if chosen is None:
            raise _refused(path, f"it holds {len(names)} arrays, and none is called {NAME}")
        if archive.getinfo(chosen).file_size > _MOST_BYTES:
            raise _refused(path, f"it unpacks to more than {_MOST_BYTES:,} bytes")
        with archive.open(chosen) as entry:
            _require_small_plain(path, entry)
        with archive.open(chosen) as entry:
            values = npy.read_array(entry, allow_pickle=False)
    levels: NDArray[np.float32] = values.astype(np.float32)
    return levels / np.float32(_HIGHEST.get(values.dtype.name, 1))


def _require_small_plain(path: Path, entry: IO[bytes]) -> None:
    version = npy.read_magic(entry)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(entry)
    if dtype not in (np.bool_, np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise _refused(path, f"its array is {dtype}; floats, uint8, uint16 and bool are read")
    if len(shape) != 2 or shape[0] * shape[1] > MAX_PIXELS:
        raise _refused(path, f"its array has shape {shape}, not [height, width] of {MAX_PIXELS:,} at most")


def _png(path: Path) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with open_plain(path) as file, Image.open(file, formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _refused(path, f"it has more than {MAX_PIXELS:,} pixels")
            if image.mode not in _BITS:
                raise _refused(
                    path, f"it is a picture of mode {image.mode}, and grey of 8 or 16 bits is read"
                )
            return np.asarray(image).astype(np.float32) / np.float32(_BITS[image.mode])


def _refused(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path}: no file of probabilities: {why}", advice="write it anew (docs/segmenters.md has the format)"
    )
