"""What a dataset folder lists: annotations.json in both formats, or folders of images and masks."""

import difflib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from job.data.folders import Entry, Listing, list_by_stems, pictures, place, samples_of, usable, why_not_plain
from job.data.names import is_utf8, printable
from job.data.samples import SIDES, SPLITS, UNLABELLED, Polygons, Sample

ANNOTATIONS = "annotations.json"
KEYS = ("image", "mask", "fov", "patient", "split", "text")
MOST_BYTES = 256 << 20
MOST_ENTRIES = 1_000_000
MOST_CONTAINERS = 5_000_000
"""Lists and objects of annotations.json: an empty one takes three bytes there, thirty times as many here."""
_POINTS_OF_A_RING = 3
_SHOWN_CHARACTERS = 100


def list_folder(root: Path) -> Listing:
    """List the samples of a dataset folder without decoding a picture; mistakes are noted, not raised."""
    root = root.resolve()
    listing = Listing()
    try:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            listing.error(printable(root), what, "name a folder with images/, masks/ and annotations.json")
        elif (root / ANNOTATIONS).exists() or (root / ANNOTATIONS).is_symlink():
            _from_annotations(root, listing)
        else:
            list_by_stems(root, listing)
    except PermissionError as error:  # of a folder: files are opened later
        where = printable(error.filename or root)
        listing.error(where, "may not be read", "grant this user permission to read it")
    return listing


def not_listed(root: Path, samples: Sequence[Sample]) -> list[Path]:
    """Return the pictures below `images/` that are no sample's image; none where that may not be read."""
    known = {sample.image for sample in samples}
    root = root.resolve()
    try:
        return [path for path in pictures(root / "images", root) if path not in known]
    except PermissionError:
        return []


def _from_annotations(root: Path, listing: Listing) -> None:
    path = root / ANNOTATIONS
    problem = why_not_plain(path)
    if problem is not None:
        listing.error(ANNOTATIONS, problem, "put a file of JSON there, or remove it")
        return
    if not usable(root, path, listing):
        return
    entries = _parsed(path, listing)
    if not entries and not listing.findings:
        listing.error(ANNOTATIONS, "lists no image", "add an entry for each image, or remove the file")
    known = []
    for i, value in enumerate(entries):
        entry = _entry(root, f"{ANNOTATIONS}[{i}]", value, listing)
        if entry is not None:
            known.append(entry)
        if listing.is_hopeless:
            listing.error(f"{ANNOTATIONS}[{i}]", "is the last entry that was looked at", "mend those before")
            return
    for image, count in Counter(entry.image for entry in known).items():
        if count > 1:
            listing.error(
                place(root, image),
                f"is listed {count} times",
                "list each image once, with all its masks and texts",
            )
    listing.samples = samples_of(root, known)


def _parsed(path: Path, listing: Listing) -> list[Any]:
    twins: list[str] = []

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and not twins:
            twins.append(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
        return found

    try:
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
        if not content and path.stat().st_size:
            listing.error(path.name, f"has more than {MOST_BYTES:,} bytes", "split the data set")
            return []
        if content.count(b"{") + content.count(b"[") > MOST_CONTAINERS:
            what = f"holds more than {MOST_CONTAINERS:,} lists and objects"
            listing.error(
                path.name, what, "split the data set, or give masks as pictures instead of polygons"
            )
            return []
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=without_twins)
    except PermissionError:
        listing.error(path.name, "may not be read", "grant this user permission to read it")
    except json.JSONDecodeError as error:
        listing.error(f"{path.name}:{error.lineno}:{error.colno}", f"is not JSON: {error.msg}")
    except UnicodeDecodeError as error:
        listing.error(path.name, f"is not UTF-8 at byte {error.start}", "save it as UTF-8")
    except RecursionError:
        listing.error(path.name, "nests lists or objects too deep", "write a list of entries")
    except OSError as error:
        listing.error(path.name, f"cannot be read: {error.strerror}")
    except ValueError:  # Python refuses to convert integers of thousands of digits
        listing.error(
            path.name, "holds a number of too many digits", "write a name that consists of digits in quotes"
        )
    else:
        if twins:
            listing.error(path.name, f"an entry has the key {_short(twins[0])} twice", "write each key once")
        if isinstance(document, list) and len(document) > MOST_ENTRIES:
            what = f"lists {len(document):,} entries, more than {MOST_ENTRIES:,}"
            listing.error(path.name, what, "split the data set")
        elif isinstance(document, list):
            return document
        else:
            what = f"must be a list of entries, is {_kind(document)}"
            listing.error(path.name, what, 'write [{"image": "images/a.png", ...}]')
    return []


def _entry(root: Path, where: str, value: Any, listing: Listing) -> Entry | None:
    """Read one entry; a mask that is a list of lists is Sa2VA's fine-tuning format, a path is ours."""
    before = len(listing.findings)
    if not isinstance(value, dict):
        listing.error(where, f"must be an object, is {_kind(value)}")
        return None
    for key in value.keys() - set(KEYS):
        meant = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75)
        if meant:
            listing.error(where, f"unknown key {_short(key)}", f"did you mean {meant[0]!r}?")
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
    return Entry(image, mask, fov, patient, split)


def _file(root: Path, where: str, value: Any, listing: Listing, folder: str | None = None) -> Path | None:
    """Return the file that an entry names, below `root`; Sa2VA's names are looked up in `folder` first."""
    if not isinstance(value, str) or not value:
        missing = "is missing" if value is None else f"must be a path, is {_kind(value)}"
        listing.error(where, missing, "write the path from the dataset folder, as images/a.png")
        return None
    windows, posix = PureWindowsPath(value), PurePosixPath(value)
    if windows.drive or windows.root or posix.is_absolute() or ".." in windows.parts or "\0" in value:
        what = f"{_short(value)} leaves the dataset folder"
        listing.error(where, what, "write the path from the dataset folder")
        return None
    places = [root / folder / value, root / value] if folder else [root / value]
    problems = {place: why_not_plain(place) for place in places}
    path = next((place for place, problem in problems.items() if problem is None), None)
    if path is None:
        beside = root / "images" / value
        advice = (
            f"write images/{printable(value)}"
            if why_not_plain(beside) is None
            else "copy the file there, or correct the path"
        )
        listing.error(where, f"{_short(value)} {problems[places[-1]]}", advice)
        return None
    return path if usable(root, path, listing) else None


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
            "give every polygon at least three points, in pixels: numbers within a billion of 0",
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
        listing.error(where, f"{_short(value)} holds half a character", "write the name without it")
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
    listing.error(where, f"unknown split {_short(value)}", advice)
    return None


def _any_of(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words[:-1]) + f" or {words[-1]!r}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    """Return a value as text on one line; only its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
