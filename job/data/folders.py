"""What lies in a dataset folder: plain files below it, and images paired with masks by their stems."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from job.data.names import is_utf8, printable, unique_names
from job.data.samples import Finding, Polygons, Sample

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".bmp"})
MASK_ENDINGS = ("", "_mask", "_1stho", "_manual1", "_gt", "_label", "_vessels", ".ah", ".vk")
"""What may follow an image's stem in the name of its mask, case aside."""
FOV_ENDINGS = ("", "_mask", "_fov")
MOST_ERRORS = 1000
"""A folder with more mistakes than this was never meant to be one: looking at the rest helps nobody."""


@dataclass
class Listing:
    """The samples of a folder, and everything wrong with how it lists them."""

    samples: list[Sample] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def error(self, where: str, what: str, advice: str = "") -> None:
        """Note a mistake that makes the folder unusable."""
        self.findings.append(Finding("error", where, what, advice))

    @property
    def is_hopeless(self) -> bool:
        """True once there are so many mistakes that it is not worth looking for more."""
        return len(self.findings) >= MOST_ERRORS


@dataclass(frozen=True)
class Entry:
    """An image with what belongs to it, not named yet."""

    image: Path
    mask: Path | Polygons | None
    fov: Path | None
    patient: str | None
    split: str | None


def list_by_stems(root: Path, listing: Listing) -> None:
    """Pair images/ with masks/ and fov/ by their stems; pictures in the folder itself are unlabelled."""
    folder = root / "images"
    images = list(pictures(folder, root, listing) if folder.is_dir() else _beside(root, listing))
    if not images:
        if not listing.findings:
            listing.error(
                printable(root), "holds no image", "put pictures into images/, or write annotations.json"
            )
        return
    masks = _paired(root, "masks", images, MASK_ENDINGS, listing)
    fovs = _paired(root, "fov", images, FOV_ENDINGS, listing)
    entries = [Entry(i, masks.get(i), fovs.get(i), None, None) for i in images if usable(root, i, listing)]
    listing.samples = samples_of(root, entries)


def samples_of(root: Path, entries: Sequence[Entry]) -> list[Sample]:
    """Return the samples of entries, under names unique in the folder."""
    names = unique_names([entry.image.relative_to(root) for entry in entries])
    # Not the unique name: that changes when an image of the same stem comes, and the hash split must not.
    return [
        Sample(name, entry.patient or entry.image.stem, entry.split, entry.image, entry.mask, entry.fov)
        for name, entry in zip(names, entries, strict=True)
    ]


def usable(root: Path, path: Path, listing: Listing) -> bool:
    """Tell whether a file can be used: it lies in the folder, under a name that can be written."""
    if not path.resolve().is_relative_to(root):
        listing.error(
            place(root, path), "is a link out of the dataset folder", "copy the file into the folder"
        )
    elif not is_utf8(path.relative_to(root).as_posix()):
        listing.error(place(root, path), "has a name that is not UTF-8", "rename the file or its folder")
    else:
        return True
    return False


def place(root: Path, path: Path) -> str:
    """Return a path below the folder as findings name it."""
    return printable(path.relative_to(root).as_posix())


def why_not_plain(path: Path) -> str | None:
    """Say why something is no file that can be read to its end, None where it is one.

    A pipe or a device may block whoever opens it, or never end. Raises PermissionError where the folder may
    not be looked into.
    """
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise
    except ValueError:  # half a character, which no name has
        return "is not there"
    except OSError:  # nothing there, a link that leads nowhere or to itself, a name longer than disks allow
        return "is a link that leads nowhere" if os.path.islink(path) else "is not there"  # noqa: PTH114 - no error
    if stat.S_ISREG(mode):
        return None
    return "is a folder" if stat.S_ISDIR(mode) else "is no file but a pipe, a socket or a device"


def pictures(folder: Path, root: Path, listing: Listing | None = None) -> Iterator[Path]:
    """Yield the pictures below a folder in order of their paths; what hides one is a mistake in `listing`.

    Raises PermissionError for a folder that may not be read, which `Path.rglob` would pass over.
    """
    found: list[Path] = []
    for at, subfolders, names in os.walk(folder, onerror=_raise_denied):
        here = Path(at)
        for name in subfolders:
            if (here / name).is_symlink() and listing is not None:
                what = "is a link to a folder, which is not followed"
                listing.error(place(root, here / name), what, "copy the folder")
        found += (here / name for name in names if _looks_like_picture(name))
    yield from _plain(sorted(found), root, listing)


def _beside(root: Path, listing: Listing) -> Iterator[Path]:
    names = (path for path in root.iterdir() if _looks_like_picture(path.name) and not path.is_dir())
    return _plain(sorted(names), root, listing)


def _plain(paths: Iterable[Path], root: Path, listing: Listing | None) -> Iterator[Path]:
    for path in paths:
        problem = why_not_plain(path)
        if problem is None:
            yield path
        elif listing is not None:
            listing.error(place(root, path), problem, "put a picture in its place, or remove it")


def _looks_like_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _raise_denied(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error


def _paired(
    root: Path, name: str, images: Sequence[Path], endings: Sequence[str], listing: Listing
) -> dict[Path, Path]:
    """Return each image's partner in the folder `name`; strays and doubles are mistakes."""
    stems: dict[str, list[Path]] = {}
    for image in images:
        stems.setdefault(_key(image, root / "images"), []).append(image)
    partners: dict[Path, list[Path]] = {}
    for path in pictures(root / name, root, listing):
        if not usable(root, path, listing):
            continue
        key = _key(path, root / name)
        wanted = [key.removesuffix(ending) for ending in endings if key.endswith(ending)]
        owners = next((stems[stem] for stem in wanted if stem in stems), [])
        if len(owners) == 1:
            partners.setdefault(owners[0], []).append(path)
        elif owners:
            names = ", ".join(place(root, image) for image in owners)
            advice = "rename one of these images with its mask, or write annotations.json"
            listing.error(place(root, path), f"belongs to several images: {names}", advice)
        else:
            advice = "name it like its image, or write annotations.json"
            listing.error(place(root, path), "belongs to no image", advice)
    for image, several in partners.items():
        if len(several) > 1:
            names = ", ".join(place(root, path) for path in several)
            advice = "keep one of them, or write annotations.json"
            listing.error(place(root, image), f"has several partners: {names}", advice)
    return {image: several[0] for image, several in partners.items()}


def _key(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    return relative.with_suffix("").as_posix().lower()
