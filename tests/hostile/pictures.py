"""Hostile pictures, and data sets that hold them."""

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.hostile import valid
from tests.hostile.making import Make, Touch, deep, file, of, written


def _npy(folder: Path, marker: Path) -> Path:
    np.save(folder / "a.npy", np.array([Touch(marker)], dtype=object), allow_pickle=True)
    return (folder / "a.npy").rename(folder / "a.png")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes, rows: bytes | None = None) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(bytes((1 + 3 * width) * height) if rows is None else rows, 9))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body + _chunk(b"IEND", b"")


_ZEROS = zlib.compress(bytes(64 << 20), 9)


def _tiff(*directories: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """Return a TIFF of directories of (tag, type, count, value); after the last comes offset `following`."""
    out, at = b"", 8
    for number, entries in enumerate(directories):
        body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        at += len(body) + 4
        out += body + struct.pack("<I", following if number == len(directories) - 1 else at)
    return b"II*\0" + struct.pack("<I", 8) + out


def _tiff_size(width: int, height: int) -> list[tuple[int, int, int, int]]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 16)]  # fmt: skip


def _gif(width: int, height: int, frames: int = 1) -> bytes:
    frame = b"\x2c\0\0\0\0" + struct.pack("<HH", width, height) + b"\0\x02\x02\x4c\x01\0"
    return (
        b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"
    )


def _dataset(write: Callable[[Path], object]) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        write(valid.dataset(folder / "data"))
        return folder / "data"

    return make


def _listing(*entries: object) -> Make:
    return _dataset(lambda folder: (folder / "annotations.json").write_text(json.dumps(list(entries))))


def _annotations(data: bytes) -> Make:
    return _dataset(lambda folder: (folder / "annotations.json").write_bytes(data))


def _link_out(folder: Path) -> None:
    (folder / "images" / "a.png").unlink()
    (folder / "images" / "a.png").symlink_to("/etc/hostname")


def _named_pipe(folder: Path, marker: Path) -> Path:
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


def _pipe(folder: Path) -> None:
    (folder / "images" / "a.png").unlink()
    os.mkfifo(folder / "images" / "a.png")


PICTURES = (
    *of(
        "picture",
        3,
        {
            "picture of 60,000 x 60,000": (file("a.png", _png(60_000, 60_000, rows=b"")), "a.png"),
            "picture of 2^31 pixels a side": (file("a.png", _png(2**31 - 1, 2**31 - 1, rows=b"")), "a.png"),
            "picture with a compressed text of 64 MiB": file(
                "a.png", _png(1, 1, _chunk(b"zTXt", b"a\0\0" + _ZEROS))
            ),
            "picture with a colour profile of 64 MiB": file(
                "a.png", _png(1, 1, _chunk(b"iCCP", b"a\0\0" + _ZEROS))
            ),
            "picture with an international text of 64 MiB": file(
                "a.png", _png(1, 1, _chunk(b"iTXt", b"a\0\1\0\0\0" + _ZEROS))
            ),
            "picture with its rows missing": file("a.png", _png(5_000, 5_000, rows=b"")),
            "picture that is a web page": file("a.png", b"<html><script>alert(1)</script></html>"),
            "picture that is an SVG": file(
                "a.png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
            ),
            "picture that is PostScript": lambda folder, marker: written(
                folder / "a.png",
                b"%%!PS-Adobe-3.0 EPSF-3.0\n%%%%BoundingBox: 0 0 9 9\n(%b) (w) file\n" % str(marker).encode(),
            ),
            "picture that is a PDF": file(
                "a.png", b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript>>>>endobj"
            ),
            "picture that is an animation of FLI": file(
                "a.png", struct.pack("<IHHHHHH", 128, 0xAF12, 1, 9, 9, 8, 3).ljust(200, b"\0")
            ),
            "picture that is a Windows metafile": file("a.png", b"\xd7\xcd\xc6\x9a".ljust(200, b"\0")),
            "picture that is an icon": file("a.png", b"\0\0\1\0\1\0" + b"\xff" * 64),
            "picture that is a pickled array": _npy,
            "picture that is a pipe": _named_pipe,
            "TIFF of directories in a circle": file("a.tif", _tiff([], following=8)),
            "TIFF of 10^9 pixels": file("a.tif", _tiff(_tiff_size(31_623, 31_623))),
            "TIFF with a tag of 4 GiB": file("a.tif", _tiff([*_tiff_size(4, 4)[:2], (270, 2, 2**32 - 1, 8)])),
            "TIFF with compressed rows that are none": file(
                "a.tif",
                _tiff(
                    [
                        (256, 4, 1, 64),
                        (257, 4, 1, 64),
                        (258, 3, 1, 8),
                        (259, 3, 1, 8),
                        (262, 3, 1, 1),
                        (273, 4, 1, 8),
                        (277, 3, 1, 1),
                        (279, 4, 1, 16),
                    ]
                ),
            ),
            "GIF of 65,535 x 65,535": file("a.gif", _gif(65_535, 65_535)),
            "JPEG of 100,000 scans": file("a.jpg", valid.scans(100_000)),
            "JPEG cut short": file("a.jpg", valid.picture((256, 256), kind="JPEG")[:700]),
            "BMP of negative sizes": file(
                "a.bmp",
                b"BM"
                + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, -9, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
            ),
            "PPM of 10^12 pixels": file("a.ppm", b"P6 1000000 1000000 255\n"),
            "PPM with a number of 10^6 digits": file("a.ppm", b"P6 " + b"9" * 10**6),
        },
    ),
    *of(
        "dataset",
        3,
        {
            "data set whose images lie elsewhere": (
                _listing({"image": "../../etc/passwd"}),
                "../../etc/passwd",
            ),
            "data set with an absolute image": (_listing({"image": "/etc/passwd"}), "/etc/passwd"),
            "data set with a NUL in a name": (_listing({"image": "images/a\0.png"}), "annotations.json[0]"),
            "data set with a newline in a name": (
                _listing({"image": "images/a\n.png"}),
                "annotations.json[0]",
            ),
            "data set with a link out of it": (_dataset(_link_out), "images/a.png"),
            "data set with a pipe for an image": (_dataset(_pipe), "images/a.png"),
            "data set with deep annotations": (_annotations(deep()), "annotations.json"),
            "data set with pickled annotations": (_annotations(pickle.dumps([])), "annotations.json"),
            "data set with annotations of empty lists": (
                _annotations(b"[" + b"[]," * 6_000_000 + b"[]]"),
                "annotations.json",
            ),
            "data set with polygons that are not finite": (
                _annotations(b'[{"image":"images/a.png","mask":[[[0,0,1e999,0,1,1]]],"text":["a"]}]'),
                "annotations.json[0]",
            ),
            "data set with a picture that is a bomb": (
                _dataset(
                    lambda folder: (folder / "images" / "a.png").write_bytes(_png(60_000, 60_000, rows=b""))
                ),
                "images/a.png",
            ),
        },
    ),
)
