"""How often a JPEG paints its picture: a progressive one of few bytes can have a decoder do so for hours."""

import mmap
import re
from pathlib import Path

MOST_SCANS = 100
"""What libtiff allows JPEGs in its files, too (`TIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER`); encoders make about 10.

At the pixel cap a scan of 12 bytes takes 0.05 s.
"""
_SCAN, _END, _WITHOUT_LENGTH = 0xDA, 0xD9, (0x01, 0xD8)
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""In compressed data 0xFF stands before 0, no marker, or before a restart, no scan (ITU T.81, B.1)."""


def has_too_many_scans(path: Path, most: int = MOST_SCANS) -> bool:
    """Return whether the JPEG has more than `most` scans; what is behind its end does not count."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        n_scans, at = 0, 0
        while n_scans <= most and (found := _MARKER.search(data, at)) is not None:
            marker, at = found[1][0], found.end()
            if marker == _END:
                break
            n_scans += marker == _SCAN
            if marker not in _WITHOUT_LENGTH:
                at += int.from_bytes(data[at : at + 2], "big")
    return n_scans > most
