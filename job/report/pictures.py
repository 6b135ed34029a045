"""Pictures of test images: photograph, masks, and where a mask and the truth differ."""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGE_PX = 420
THUMBNAIL_PX = 88
THUMBNAIL_BUDGET_BYTES = 2_600_000
"""Of encoded thumbnails in one page, so that the page can be mailed; the worst images come first."""

# Orange and sky blue after Okabe and Ito (2008) stay apart for every kind of colour blindness, and by
# lightness alone; what was found is grey, so that errors stand out.
BACKGROUND = (14, 17, 22)
MARKED = (238, 240, 242)
HIT = (105, 112, 120)
MISSED = (255, 184, 40)
EXTRA = (64, 164, 245)

Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """A test image `[H, W, 3]` with its truth and the masks `[H, W]` of the no-op and of what ships.

    Raises ValueError for other shapes or types.
    """

    name: str
    patient: str
    image_HWC: Picture
    truth_HW: Mask
    before_HW: Mask
    after_HW: Mask

    def __post_init__(self) -> None:
        if self.image_HWC.ndim != 3 or self.image_HWC.shape[2] != 3 or self.image_HWC.dtype != np.uint8:
            raise ValueError(f"{self.name}: image must be uint8 [H, W, 3], got {self.image_HWC.shape}")
        for mask_HW in (self.truth_HW, self.before_HW, self.after_HW):
            if mask_HW.shape != self.image_HWC.shape[:2] or mask_HW.dtype != np.bool_:
                raise ValueError(
                    f"{self.name}: masks must be bool {self.image_HWC.shape[:2]}, got {mask_HW.dtype}"
                    f" {mask_HW.shape}"
                )


@dataclass(frozen=True)
class Tile:
    """An encoded picture: a data URI, its size in pixels, and the text that stands for it."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str
    is_enlarged: bool
    """Shown larger than it is: pixels should stay sharp."""


@dataclass(frozen=True)
class Thumbnails:
    """A photograph and the errors before and after, small."""

    photo: Tile
    before: Tile
    after: Tile


def overlay(panel: Panel) -> list[Tile]:
    """Return photograph, truth, before, after, and the errors of both, to look at."""
    name, truth_HW = panel.name, panel.truth_HW
    errors_before_HWC = error_map(panel.before_HW, truth_HW)
    errors_after_HWC = error_map(panel.after_HW, truth_HW)
    words_before = error_words(panel.before_HW, truth_HW)
    words_after = error_words(panel.after_HW, truth_HW)
    return [
        _tile(panel.image_HWC, LARGE_PX, f"Photograph of {name}", "Image", lossy=True),
        _tile(_white(truth_HW), LARGE_PX, f"True mask of {name}", "Truth"),
        _tile(_white(panel.before_HW), LARGE_PX, f"Mask of {name} before", "Before"),
        _tile(_white(panel.after_HW), LARGE_PX, f"Mask of {name} after", "After"),
        _tile(errors_before_HWC, LARGE_PX, f"Errors of {name} before: {words_before}", "Errors before"),
        _tile(errors_after_HWC, LARGE_PX, f"Errors of {name} after: {words_after}", "Errors after"),
    ]


def thumbnails(panels: Iterable[Panel]) -> Mapping[str, Thumbnails]:
    """Return small pictures by image name, in the order given until the budget is spent."""
    small: dict[str, Thumbnails] = {}
    spent = 0
    for panel in panels:
        pictures = _thumbnails(panel)
        spent += sum(len(tile.uri) for tile in (pictures.photo, pictures.before, pictures.after))
        if spent > THUMBNAIL_BUDGET_BYTES:
            break
        small[panel.name] = pictures
    return small


def error_map(mask_HW: Mask, truth_HW: Mask) -> Picture:
    """Colour found, missed and extra pixels: uint8 `[H, W, 3]`."""
    colours_HWC = np.empty((*mask_HW.shape, 3), dtype=np.uint8)
    colours_HWC[:] = BACKGROUND
    colours_HWC[mask_HW & truth_HW] = HIT
    colours_HWC[~mask_HW & truth_HW] = MISSED
    colours_HWC[mask_HW & ~truth_HW] = EXTRA
    return colours_HWC


def error_words(mask_HW: Mask, truth_HW: Mask) -> str:
    """Say what an error map shows, for those who do not see it."""
    n_true, n_marked = int(truth_HW.sum()), int(mask_HW.sum())
    n_found = int((truth_HW & mask_HW).sum())
    missed = f"{(n_true - n_found) / n_true:.0%} of the true pixels missed" if n_true else "no true pixels"
    extra = f"{(n_marked - n_found) / n_marked:.0%} of the marked pixels extra" if n_marked else "none marked"
    return f"{missed}, {extra}"


def _thumbnails(panel: Panel) -> Thumbnails:
    before_HWC = error_map(panel.before_HW, panel.truth_HW)
    after_HWC = error_map(panel.after_HW, panel.truth_HW)
    return Thumbnails(
        _tile(panel.image_HWC, THUMBNAIL_PX, f"Photograph of {panel.name}", "Image", lossy=True),
        _tile(before_HWC, THUMBNAIL_PX, f"Errors of {panel.name} before", "Before"),
        _tile(after_HWC, THUMBNAIL_PX, f"Errors of {panel.name} after", "After"),
    )


def _tile(pixels_HWC: Picture, edge_px: int, alt: str, caption: str, *, lossy: bool = False) -> Tile:
    image = Image.fromarray(pixels_HWC)
    image.thumbnail((edge_px, edge_px), Image.Resampling.BOX)
    buffer = io.BytesIO()
    # Lossy WebP halves the resolution of colours, which would wash thin lines out.
    image.save(buffer, "WEBP", lossless=not lossy, quality=78 if lossy else 60, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Tile(uri, image.width, image.height, alt, caption, is_enlarged=max(image.size) < 200)


def _white(mask_HW: Mask) -> Picture:
    return np.where(mask_HW[..., None], MARKED, BACKGROUND).astype(np.uint8)
