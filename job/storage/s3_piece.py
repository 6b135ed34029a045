"""A piece of an object, brought to its place in a file: by this process or by one of its own (`porter`).

Whatever this imports, such a process waits for before it begins.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import S3Store

from job.storage.store import Advance, Changed

if TYPE_CHECKING:
    from obstore.store import S3Credential

WHOLE = 2 << 20
"""Bytes: a body up to this size is taken as it is, of which the blocks would cost more than its bytes."""
BLOCK = 256 << 10
RETRIES = 8


class BrokenBody(Exception):
    """A body ended before, or went on after, the length that the store had promised."""


@dataclass(frozen=True)
class Place:
    """Where a bucket is, and how it is talked to."""

    bucket: str
    endpoint: str
    by_host: bool
    """Whether the bucket is part of the host's name."""
    region: str
    connections: dict[str, Any]
    """obstore's options of a connection, but for `certificates`."""
    certificates: str | None
    """The file of the authorities that are trusted; None where nothing is encrypted."""
    first_pause_s: float
    """Before what failed is tried again."""


@dataclass(frozen=True)
class Piece:
    """The bytes from `start` to `end` of an object of `size` bytes, and the file that they belong in."""

    key: str
    etag: str
    start: int
    end: int
    size: int
    file: str
    becomes: str | None
    """The path that the file gets once the piece is there; None where others are still to come."""
    is_digested: bool
    """Whether its sha256 is taken as it comes."""


def open_bucket(
    place: Place, credentials: "Callable[[], S3Credential]", *, retries: int = RETRIES
) -> S3Store:
    """Return a client, which asks for credentials when it needs some, and tries a request again so often."""
    options = dict(place.connections)
    if place.certificates is not None:
        options["root_certificate"] = Path(place.certificates).read_bytes()
    return S3Store(
        place.bucket,
        endpoint=place.endpoint,
        virtual_hosted_style_request=place.by_host,
        region=place.region,
        credential_provider=credentials,
        skip_signature=False,
        s3_express=False,
        request_payer=False,
        unsigned_payload=True,  # what was written is read back where it matters
        client_options=options,  # type: ignore[arg-type]
        retry_config={
            "max_retries": retries,
            "retry_timeout": timedelta(minutes=2),
            "backoff": {
                "init_backoff": timedelta(seconds=place.first_pause_s),
                "max_backoff": timedelta(seconds=20),
                "base": 2,
            },
        },
    )


def bring(
    client: S3Store,
    piece: Piece,
    advance: Advance,
    persistently: Callable[[Callable[[], str | None]], str | None],
) -> str | None:
    """Bring a piece to its file, and give that its name; returns the sha256 where one is asked for.

    `persistently` calls the function that it is given until the bytes are there: which raises `Changed` for
    another version of the object, `BrokenBody`, and what obstore raises.
    """
    path = Path(piece.file)
    with opened(path, empty=piece.becomes is not None) as file:
        try:
            digest = persistently(lambda: _fetch(client, piece, file, advance))
        except BaseException:
            if piece.becomes is not None:
                path.unlink()
            raise
    if piece.becomes is not None:
        path.replace(piece.becomes)
    return digest


def _fetch(client: S3Store, piece: Piece, file: int, advance: Advance) -> str | None:
    options: Any = {"if_match": piece.etag}
    if piece.end - piece.start < piece.size:
        options["range"] = (piece.start, piece.end)
    answer = obstore.get(client, piece.key, options=options)
    etag = answer.meta["e_tag"]
    if etag is not None and etag.strip('"') != piece.etag.strip('"'):
        raise Changed(piece.key)  # not every store honours If-Match
    digest = hashlib.sha256() if piece.is_digested else None
    position = piece.start
    is_short = piece.end - piece.start <= WHOLE
    for body in [answer.bytes()] if is_short else answer.stream(min_chunk_size=BLOCK):
        block = memoryview(body)
        advance(0)
        if position + len(block) > piece.end:
            raise BrokenBody
        if digest is not None:
            digest.update(block)
        _write_whole(file, block, position)
        position += len(block)
    if position != piece.end:
        raise BrokenBody
    return digest.hexdigest() if digest is not None else None


@contextmanager
def opened(path: Path, *, empty: bool = False) -> Iterator[int]:
    """Lend a file for reading and writing, which is made where it is not there yet, and may be emptied."""
    how = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if empty else 0)
    try:
        file = os.open(path, how, 0o644)
    except FileNotFoundError:  # asked for as seldom as can be: there may be thousands of files
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, how, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _write_whole(file: int, rest: memoryview, position: int) -> None:
    # A disk that becomes full takes a part of a block and says so by the count alone.
    while rest:
        written = os.pwrite(file, rest, position)
        rest, position = rest[written:], position + written
