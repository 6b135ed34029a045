"""What a dataset folder lists: annotations.json in both formats, or folders of images and masks."""

import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from job.data.names import is_utf8, printable, unique_names
from job.data.samples import SIDES, SPLITS, UNLABELLED, Finding, Polygons, Sample

ANNOTATIONS = "annotations.json"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".bmp"})
MASK_ENDINGS = ("", "_mask", "_1stho", "_manual1", "_gt", "_label", "_vessels", ".ah", ".vk")
"""What may follow an image's stem in the name of its mask, case aside."""
FOV_ENDINGS = ("", "_mask", "_fov")
KEYS = ("image", "mask", "fov", "patient", "split", "text")
_POINTS_OF_A_RING = 3


@dataclass
class Listing:
    """The samples of a folder, and everything wrong with how it lists them."""

    samples: list[Sample] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def error(self, where: str, what: str, advice: str = "") -> None:
        """Note a mistake that makes the folder unusable."""
        self.findings.append(Finding("error", where, what, advice))


def list_folder(root: Path) -> Listing:
    """List the samples of a dataset folder without decoding a picture; mistakes are noted, not raised."""
    root = root.resolve()
    listing = Listing()
    try:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            listing.error(printable(root), what, "name a folder with images/, masks/ and annotations.json")
        elif (root / ANNOTATIONS).exists():
            _from_annotations(root, listing)
        else:
            _from_folders(root, listing)
    except PermissionError as error:  # of a folder: files are opened later
        where = printable(error.filename or root)
        listing.error(where, "may not be read", "grant this user permission to read it")
    return listing


def not_listed(root: Path, samples: Sequence[Sample]) -> list[Path]:
    """Return the pictures below `images/` that are no sample's image; none where that may not be read."""
    known = {sample.image for sample in samples}
    try:
        pictures = _pictures(root.resolve() / "images")
    except PermissionError:
        return []
    return [path for path in pictures if path not in known]


@dataclass(frozen=True)
class _Entry:
    image: Path
    mask: Path | Polygons | None
    fov: Path | None
    patient: str | None
    split: str | None


def _from_annotations(root: Path, listing: Listing) -> None:
    entries = _parsed(root / ANNOTATIONS, listing)
    if not entries and not listing.findings:
        listing.error(ANNOTATIONS, "lists no image", "add an entry for each image, or remove the file")
    read = [_entry(root, f"{ANNOTATIONS}[{i}]", value, listing) for i, value in enumerate(entries)]
    known = [entry for entry in read if entry is not None]
    for image, count in Counter(entry.image for entry in known).items():
        if count > 1:
            listing.error(
                _place(root, image),
                f"is listed {count} times",
                "list each image once, with all its masks and texts",
            )
    listing.samples = _samples(root, known)


def _parsed(path: Path, listing: Listing) -> list[Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        listing.error(f"{path.name}:{error.lineno}:{error.colno}", f"is not JSON: {error.msg}")
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        listing.error(path.name, f"cannot be read: {error}")
    except ValueError:  # Python refuses to convert integers of thousands of digits
        listing.error(
            path.name, "holds a number of too many digits", "write a name that consists of digits in quotes"
        )
    else:
        if isinstance(document, list):
            return document
        listing.error(
            path.name,
            f"must be a list of entries, is {_kind(document)}",
            'write [{"image": "images/a.png", ...}]',
        )
    return []


def _entry(root: Path, where: str, value: Any, listing: Listing) -> _Entry | None:
    """Read one entry; a mask that is a list of lists is Sa2VA's fine-tuning format, a path is ours."""
    before = len(listing.findings)
    if not isinstance(value, dict):
        listing.error(where, f"must be an object, is {_kind(value)}")
        return None
    for key in value.keys() - set(KEYS):
        meant = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75)
        if meant:
            listing.error(where, f"unknown key {key!r}", f"did you mean {meant[0]!r}?")
    by_sa2va = isinstance(value.get("mask"), list) or "text" in value
    image = _file(root, f"{where}.image", value.get("image"), listing, folder="images" if by_sa2va else None)
    mask: Path | Polygons | None = None
    if isinstance(value.get("mask"), list):
        mask = _polygons(f"{where}.mask", value["mask"], value.get("text"), listing)
    elif value.get("mask") is not None:
        mask = _file(root, f"{where}.mask", value["mask"], listing)
    fov = None if value.get("fov") is None else _file(root, f"{where}.fov", value["fov"], listing)
    patient = _patient(f"{where}.patient", value.get("patient"), listing)
    split = _split(f"{where}.split", value.get("split"), mask is not None, listing)
    if len(listing.findings) > before or image is None:
        return None
    return _Entry(image, mask, fov, patient, split)


def _file(root: Path, where: str, value: Any, listing: Listing, folder: str | None = None) -> Path | None:
    """Return the file that an entry names, below `root`; Sa2VA's names are looked up in `folder` first."""
    if not isinstance(value, str) or not value:
        missing = "is missing" if value is None else f"must be a path, is {_kind(value)}"
        listing.error(where, missing, "write the path from the dataset folder, as images/a.png")
        return None
    windows, posix = PureWindowsPath(value), PurePosixPath(value)
    if windows.drive or windows.root or posix.is_absolute() or ".." in windows.parts or "\0" in value:
        listing.error(where, f"{value!r} leaves the dataset folder", "write the path from the dataset folder")
        return None
    places = [root / folder / value, root / value] if folder else [root / value]
    path = next((place for place in places if _is_file(place)), None)
    if path is None:
        beside = root / "images" / value
        advice = (
            f"write images/{printable(value)}"
            if _is_file(beside)
            else "copy the file there, or correct the path"
        )
        listing.error(where, f"{value!r} is not there", advice)
        return None
    return path if _refuse_unusable(root, [path], listing) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        raise
    except OSError:  # a name longer than the disk allows
        return False


def _refuse_unusable(root: Path, paths: Iterable[Path], listing: Listing) -> list[Path]:
    """Return the paths whose files can be used: they lie in the folder, under names that can be written."""
    usable = []
    for path in paths:
        if not path.resolve().is_relative_to(root):
            what = "is a link out of the dataset folder"
            listing.error(_place(root, path), what, "copy the file into the folder")
        elif not is_utf8(path.relative_to(root).as_posix()):
            listing.error(_place(root, path), "has a name that is not UTF-8", "rename the file or its folder")
        else:
            usable.append(path)
    return usable


def _place(root: Path, path: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def _polygons(where: str, masks: list[Any], texts: Any, listing: Listing) -> Polygons | None:
    """Read `mask[text][polygon]` = [x1, y1, x2, y2, ...]; an empty list is no annotation."""
    texts = [texts] if isinstance(texts, str) else texts or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        listing.error(where, "text must be a list of strings")
    elif texts and len(texts) != len(masks):
        listing.error(
            where, f"{len(masks)} masks for {len(texts)} texts", "give each text one list of polygons"
        )
    elif not all(isinstance(mask, list) and all(_is_ring(ring) for ring in mask) for mask in masks):
        listing.error(
            where,
            "must hold one list of polygons a text, each [x1, y1, x2, y2, x3, y3, ...]",
            "give every polygon at least three points, all finite numbers",
        )
    elif masks:
        return Polygons(tuple(tuple(float(x) for x in ring) for mask in masks for ring in mask), tuple(texts))
    return None


def _is_ring(ring: Any) -> bool:
    return (
        isinstance(ring, list)
        and len(ring) >= 2 * _POINTS_OF_A_RING
        and len(ring) % 2 == 0
        and all(type(x) in (int, float) and abs(x) < 1e9 and math.isfinite(x) for x in ring)
    )


def _patient(where: str, value: Any, listing: Listing) -> str | None:
    if isinstance(value, str) and not is_utf8(value):
        listing.error(where, f"{value!r} holds half a character", "write the name without it")
        return None
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    if type(value) is int:
        return str(value)
    listing.error(
        where, f"must be a name, is {_kind(value)}", "write a string, or null for one patient an image"
    )
    return None


def _split(where: str, value: Any, has_mask: bool, listing: Listing) -> str | None:
    if value is None or (value in SIDES if isinstance(value, str) else False):
        return value if value is None else str(value)
    if value == UNLABELLED:
        if has_mask:
            listing.error(
                where, "is 'unlabelled', yet there is a mask", f"remove the mask, or say {_any_of(SIDES)}"
            )
        return UNLABELLED
    meant = difflib.get_close_matches(value, SPLITS, n=1, cutoff=0.4) if isinstance(value, str) else []
    advice = f"did you mean {meant[0]!r}?" if meant else f"say {_any_of(SPLITS)}, or null"
    listing.error(where, f"unknown split {value!r}", advice)
    return None


def _from_folders(root: Path, listing: Listing) -> None:
    """Pair images/ with masks/ and fov/ by their stems; pictures in the folder itself are unlabelled."""
    folder = root / "images"
    images = _pictures(folder) if folder.is_dir() else _pictures(root, deep=False)
    if not images:
        listing.error(
            printable(root), "holds no image", "put pictures into images/, or write annotations.json"
        )
        return
    usable = _refuse_unusable(root, images, listing)
    masks = _paired(root, "masks", images, MASK_ENDINGS, listing)
    fovs = _paired(root, "fov", images, FOV_ENDINGS, listing)
    listing.samples = _samples(root, [_Entry(i, masks.get(i), fovs.get(i), None, None) for i in usable])


def _pictures(folder: Path, *, deep: bool = True) -> list[Path]:
    """Return the pictures of a folder; raises PermissionError, which `Path.rglob` would pass over."""
    found: list[Path] = []
    for place, subfolders, names in os.walk(folder, onerror=_raise_denied):
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
        if not deep:
            subfolders.clear()
    return sorted(found)


def _raise_denied(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error


def _paired(
    root: Path, name: str, images: Sequence[Path], endings: Sequence[str], listing: Listing
) -> dict[Path, Path]:
    """Return each image's partner in the folder `name`; strays and doubles are mistakes."""
    stems = {_key(image, root / "images"): image for image in images}
    partners: dict[Path, list[Path]] = {}
    paths = _pictures(root / name)
    for path in _refuse_unusable(root, paths, listing):
        key = _key(path, root / name)
        wanted = [key.removesuffix(ending) for ending in endings if key.endswith(ending)]
        image = next((stems[stem] for stem in wanted if stem in stems), None)
        if image is None:
            advice = "name it like its image, or write annotations.json"
            listing.error(_place(root, path), "belongs to no image", advice)
        else:
            partners.setdefault(image, []).append(path)
    for image, several in partners.items():
        if len(several) > 1:
            names = ", ".join(_place(root, path) for path in several)
            advice = "keep one of them, or write annotations.json"
            listing.error(_place(root, image), f"has several partners: {names}", advice)
    return {image: several[0] for image, several in partners.items()}


def _key(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    return relative.with_suffix("").as_posix().lower()


def _samples(root: Path, entries: Sequence[_Entry]) -> list[Sample]:
    names = unique_names([entry.image.relative_to(root) for entry in entries])
    # Not the unique name: that changes when an image of the same stem comes, and the hash split must not.
    return [
        Sample(name, entry.patient or entry.image.stem, entry.split, entry.image, entry.mask, entry.fov)
        for name, entry in zip(names, entries, strict=True)
    ]


def _any_of(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words[:-1]) + f" or {words[-1]!r}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
