"""From a URI to the place it names: a path on this machine or a store behind an S3 API."""

import re

from job.errors import SpecError
from job.storage.local import local_path
from job.storage.local_store import LocalStore
from job.storage.store import ObjectStore

S3 = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", re.ASCII)


def is_remote(uri: str) -> bool:
    """Return whether a URI names a place in a store rather than on this machine."""
    return uri.startswith(S3)


def split_s3(uri: str) -> tuple[str, str]:
    """Return bucket and key (without slashes around it) of an `s3://` URI; raises `SpecError`."""
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not uri.startswith(S3) or not _BUCKET.fullmatch(bucket):
        hint = "; credentials belong into the environment" if "@" in bucket or ":" in bucket else ""
        shown = "***" if hint else repr(bucket)
        raise SpecError(
            f"an s3:// URI names the bucket {shown}, which no bucket can be called",
            advice=f"write s3://BUCKET/PREFIX{hint}",
        )
    key = key.strip("/")
    if key and any(part in ("", ".", "..") for part in key.split("/")):
        raise SpecError(
            f"{uri!r}: a part of the key is empty, `.` or `..`, which stores read in different ways",
            advice="write single slashes, and the place itself",
        )
    return bucket, key


def open_store(uri: str, *, conditional: bool = True) -> ObjectStore:
    """Return the store that a URI names: a path, `file://` or `s3://`. Talks to nobody yet.

    Without `conditional` the store is not trusted to honour If-None-Match and If-Match.
    """
    if is_remote(uri):
        from job.storage.s3 import S3Store  # boto3 takes a moment, and local runs have no use for it

        return S3Store(*split_s3(uri), conditional=conditional)
    return LocalStore(local_path(uri).resolve())


def parent_and_name(uri: str) -> tuple[str, str]:
    """Split the last part off a URI: `s3://b/runs/x.json` becomes `s3://b/runs` and `x.json`."""
    if is_remote(uri):
        bucket, key = split_s3(uri)
        folder, _, name = key.rpartition("/")
        return f"{S3}{bucket}/{folder}".rstrip("/"), name
    path = local_path(uri)
    return str(path.parent), path.name
