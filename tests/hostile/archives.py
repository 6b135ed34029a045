"""Hostile archives, digests and keys of a store."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.making import Make, deep, file, of, pickled, sparse


def _tar(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> Make:
    def make(folder: Path, marker: Path) -> Path:
        with tarfile.open(folder / "a.tar", mode) as tar:  # type: ignore[call-overload]
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                else:
                    info = tarfile.TarInfo(member[0])
                    info.size = len(member[1])
                    tar.addfile(info, io.BytesIO(member[1]))
        return folder / "a.tar"

    return make


def _member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _sized(size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a")
    info.size, info.type = size, kind
    return info


def _tar_of(*blocks: bytes) -> Make:
    return file(
        "a.tar", b"".join(block.ljust(-(-len(block) // 512) * 512, b"\0") for block in blocks) + bytes(1024)
    )


def _headers_in_headers(n: int) -> Iterator[bytes]:
    record = b"12 path=abc\n"
    for _ in range(n):
        yield _sized(len(record), tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
        yield record


def _negative() -> bytes:
    block = bytearray(_sized(0).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512 in base 256
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def _sparse_map(value: bytes) -> Make:
    record = b"GNU.sparse.map=" + value + b"\n"
    length = len(record) + len(str(len(record) + 4)) + 1
    record = str(length).encode() + b" " + record
    return _tar_of(
        _sized(len(record), tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT), record, _sized(0).tobuf()
    )


def _many(folder: Path, marker: Path) -> Path:
    block = _sized(0).tobuf(tarfile.USTAR_FORMAT)
    with (folder / "a.tar").open("wb") as file:
        for _ in range(300):
            file.write(block * 2000)
    return folder / "a.tar"


ARCHIVES = (
    *of(
        "archive",
        4,
        {
            "archive that climbs": (_tar(("../../evil", b"x")), "evil"),
            "archive with an absolute name": (_tar(("/var/evil", b"x")), "evil"),
            "archive with a link and a file through it": (
                _tar(_member("up", tarfile.SYMTYPE, "/var"), ("up/evil", b"x")),
                "'up'",
            ),
            "archive with a hard link": (_tar(_member("a", tarfile.LNKTYPE, "/etc/passwd")), "'a'"),
            "archive with a device": (_tar(_member("sda", tarfile.BLKTYPE)), "sda"),
            "archive with a pipe": (_tar(_member("pipe", tarfile.FIFOTYPE)), "pipe"),
            "archive with a name twice": (_tar(("a", b"x"), ("a", b"y")), "twice"),
            "archive with a name of newlines": (_tar(("a\nERROR: b", b"x")), "a\\nERROR"),
            "archive that is a bomb": (_tar(("a", bytes(64 << 20)), mode="w:gz"), "a.tar"),
            "archive that claims a terabyte": (_tar_of(_sized(1 << 40).tobuf(tarfile.GNU_FORMAT)), "a.tar"),
            "archive with a negative size": (_tar_of(_negative()), "a.tar"),
            "archive of headers about headers": (
                _tar_of(*_headers_in_headers(5000), _sized(0).tobuf()),
                "a.tar",
            ),
            "archive with a map of words": (_sparse_map(b"a,b,c"), "a.tar"),
            "archive with a long map": (_sparse_map(b"0,1," * 200_000 + b"0,1"), "a.tar"),
            "archive of 600,000 members": (_many, "a.tar"),
            "archive that is a pickle": pickled("a.tar"),
        },
    ),
    *of(
        "snapshot",
        4,
        {
            "snapshot without digests": (_tar(("a", b"x")), "a.tar"),
            "snapshot with deep digests": (_tar((".digests.json", deep())), "a.tar"),
        },
    ),
    *of(
        "sums",
        4,
        {
            "sums that are a pickle": pickled("SHA256SUMS"),
            "sums of a terabyte": sparse("SHA256SUMS", b"", 1 << 40),
            "sums with a short digest": file("SHA256SUMS", b"abc  a.png\n"),
            "data manifest nested deeply": file("manifest.json", deep()),
            "data manifest with a path twice": file(
                "manifest.json", b'{"a":"%b","a":"%b"}' % (b"0" * 64, b"1" * 64)
            ),
            "data manifest with a digest that is a list": file(
                "manifest.json", b'{"files":{"a":{"sha256":[]}}}'
            ),
        },
    ),
    *of(
        "keys",
        4,
        {
            "key that climbs": (file("keys", b"a/../../b"), "'a/../../b'"),
            "key with a NUL": (file("keys", b"a\0b"), "a\\x00b"),
            "key with a newline": (file("keys", b"a\nb"), "a\\nb"),
            "key with a slash in front": (file("keys", b"/etc/passwd"), "/etc/passwd"),
            "key with backslashes": (file("keys", b"..\\..\\b"), "b"),
        },
    ),
)
