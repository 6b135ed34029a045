"""Decoding, resizing and writing of images and masks."""

import errno
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from job.data.jpeg_scans import MOST_SCANS, has_too_many_scans
from job.data.names import printable
from job.errors import InputError, TryAgain

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "PPM", "BMP")
"""What is decoded, told by content."""
MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded; below the size at which Pillow warns of a bomb."""
_HALF = 0.5 - 1e-6
_FAILURES = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Failures of the machine, of which no picture is guilty."""

Image8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]
T = TypeVar("T")


def read_image(path: Path) -> Image8:
    """Decode a picture to upright RGB, uint8 `[H, W, 3]`; raises `InputError`, which names the file.

    EXIF orientation is applied. Grey is repeated over the channels; 16-bit levels map linearly from 0..65535
    to 0..255; palettes are looked up; transparent pixels are laid over black; only the first frame counts.
    """
    return _decoded(path, _to_rgb)


def read_mask(path: Path) -> Mask:
    """Decode a mask, bool `[H, W]`: foreground is what exceeds half of the highest level in the file.

    So 1-bit, 0/1 and 0/255 masks of any depth mean the same. A pixel's level is its brightest channel, after
    palette and transparency; a file of zeros is an empty mask. Raises `InputError`, which names the file.
    """
    return is_foreground(read_levels(path))


def read_levels(path: Path) -> NDArray[np.float64]:
    """Decode a mask's grey levels `[H, W]` as they are in the file: 0/1, 0..255, 0..65535 or numbers."""
    return _decoded(path, _to_levels)


def is_foreground(levels: NDArray[np.float64]) -> Mask:
    """Return what exceeds half of the highest level; of zeros nothing does."""
    mask: Mask = (levels > 0) & (levels > levels.max() / 2)
    return mask


def grey_share(levels: NDArray[np.float64]) -> float:
    """Return the share of a mask's pixels that are neither dark nor bright: what JPEG and smoothing leave."""
    half = levels.max() / 2
    return float((np.abs(levels - half) < half / 2).mean())


def stored_pixels(path: Path) -> int:
    """Return how many pixels a picture says it has; 0 where it says nothing: who decodes it says why."""
    try:
        if path.is_file():  # a pipe would be waited for, for ever
            with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
                return image.width * image.height
    except Exception:
        return 0
    return 0


def resize_image(image: Image8, width: int | None) -> Image8:
    """Resize `[H, W, 3]` to `width`, aspect kept: by area averages when shrinking, bicubic when enlarging.

    None, or the width that it has, returns the image itself.
    """
    if width is None or width == image.shape[1]:
        return image
    method = Image.Resampling.BOX if width < image.shape[1] else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(image).resize(_size(image.shape, width), method))


def resize_mask(mask: Mask, width: int | None) -> Mask:
    """Resize `[H, W]` to `width`, aspect kept: foreground where at least half of the area was.

    None, or the width that it has, returns the mask itself.
    """
    if width is None or width == mask.shape[1]:
        return mask
    share = Image.fromarray(mask.astype(np.float32)).resize(_size(mask.shape, width), Image.Resampling.BOX)
    return np.array(np.asarray(share) >= _HALF)


def working_size(height: int, width: int, to_width: int | None) -> tuple[int, int]:
    """Return (height, width) of a picture resized to a width, aspect kept; None keeps its own."""
    return (height, width) if to_width is None else (max(1, round(height * to_width / width)), to_width)


def pixel_digest(image: NDArray[np.generic]) -> str:
    """Return a sha256 over dtype, shape and pixels: equal pixels, equal digest, whatever the file format."""
    digest = hashlib.sha256(f"{image.dtype.str}{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).reshape(-1).data)
    return digest.hexdigest()


def write_image(path: Path, image: Image8) -> None:
    """Write uint8 `[H, W, 3]` or `[H, W]`; the suffix names the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_mask(path: Path, mask: Mask) -> None:
    """Write bool `[H, W]` as a 1-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path, format="PNG", bits=1)


def _size(shape: tuple[int, ...], width: int) -> tuple[int, int]:
    return working_size(shape[0], shape[1], width)[::-1]


def _decoded(path: Path, convert: Callable[[Image.Image], T]) -> T:
    try:
        with warnings.catch_warnings():
            # Odd metadata is not worth a line a file; a bomb is never decoded.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if path.exists() and not path.is_file():
                raise ValueError("it is no plain file")  # noqa: TRY301  (a pipe would be waited for, for ever)
            with Image.open(path, formats=FORMATS) as image:
                _refuse_huge(image)
                _refuse_endless(path, image)
                return convert(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{printable(path)}: the picture is too large: {error}",
            advice=f"at most {MAX_PIXELS:,} pixels are read: shrink it",
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{printable(path)}: there is no such file") from error
    except PermissionError as error:
        raise InputError(
            f"{printable(path)}: may not be read", advice="grant this user read permission"
        ) from error
    except MemoryError:  # says nothing about the picture
        raise
    # Decoders meet hostile bytes here, and what they raise is not limited to OSError.
    except Exception as error:
        if getattr(error, "errno", None) in _FAILURES:
            raise TryAgain(
                f"{printable(path)}: {error}",
                advice="look after the disk or the mount, then run the same command",
            ) from error
        raise InputError(
            f"{printable(path)}: cannot be decoded as {', '.join(FORMATS)}: {_why(error, path)}",
            advice="open it in a viewer: if it is whole, save it as PNG; if it is cut short, copy it again",
        ) from error


def _why(error: Exception, path: Path) -> str:
    # Pillow's own words repeat the path, where a person looks for a reason.
    if isinstance(error, UnidentifiedImageError):
        return "its content is of no such format" if path.stat().st_size else "the file is empty"
    return str(error) or type(error).__name__


def _refuse_huge(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")


def _refuse_endless(path: Path, image: Image.Image) -> None:
    # Of all formats' decoding times these alone are bounded neither by the pixels nor by the bytes.
    if image.format in ("JPEG", "MPO") and has_too_many_scans(path):
        raise ValueError(f"it has more than {MOST_SCANS} scans, which would be decoded for very long")


def _to_rgb(image: Image.Image) -> Image8:
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"its levels span {levels.min()} to {levels.max()}, 0 to 65535 are understood")
        grey = ((levels * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


def _to_levels(image: Image.Image) -> NDArray[np.float64]:
    if image.mode != "F" and not image.mode.startswith("I"):
        red, green, blue = np.moveaxis(_to_rgb(image), 2, 0)
        # Ten times as fast as max(axis=2).
        brightest: NDArray[np.uint8] = np.maximum(np.maximum(red, green), blue)
        return brightest.astype(np.float64)
    levels: NDArray[np.float64] = np.asarray(image).astype(np.float64)
    if not np.isfinite(levels).all():
        raise ValueError("its levels are not finite numbers")
    return levels
