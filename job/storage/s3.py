"""A store behind an S3 API: AWS, SeaweedFS, Ceph, R2, Garage and their like."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as boto

from job.errors import InputError, JobError, Missing, StoreFailure
from job.storage import s3_transfer, s3_upload
from job.storage.background import Background
from job.storage.documents import require_small
from job.storage.s3_client import client, explained, pause, status_and_code, translated
from job.storage.store import (
    Advance,
    Arrived,
    Changed,
    Download,
    Landed,
    Stat,
    Upload,
    no_advance,
    no_arrival,
)

DELETED_AT_ONCE = 1000
"""Keys that S3's DeleteObjects takes in one request."""
ATTEMPTS = 4
"""boto3 tries requests again, not bodies that break off."""
CONFLICT_ATTEMPTS = 5
NO_SUCH_RANGE = 416
CONFLICT = (409, 412)
"""S3's answers to a conditional write that has no luck."""


@dataclass(frozen=True)
class S3Store:
    """Objects of `bucket` below `prefix` (no slashes around it)."""

    bucket: str
    prefix: str = ""
    conditional: bool = True
    """Whether the store honours If-None-Match and If-Match. Without, a look before the write has to do."""

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def at(self, prefix: str) -> "S3Store":
        """Return the store below a prefix."""
        inner = prefix.strip("/")
        return replace(self, prefix=self.full_key(inner)) if inner else self

    def stat(self, key: str) -> Stat | None:
        """Return what HEAD says; its answers have no body, so that a missing bucket is a missing object."""
        place = {"Bucket": self.bucket, "Key": self.full_key(key)}
        try:
            with explained(self.name_of(key)):
                answer = client().head_object(**place)
        except Missing:
            return None
        except InputError:
            # Nor does a body say why HEAD was refused: GET needs the same right, and its answers have one.
            with explained(self.name_of(key)):
                client().get_object(**place, Range="bytes=0-0")["Body"].close()
            raise
        return Stat(key, int(answer["ContentLength"]), answer["ETag"], answer["LastModified"].timestamp())

    def entries(self, prefix: str = "") -> Iterator[Stat]:
        """Yield what ListObjectsV2 says, sorted here: not every store keeps to the order of S3."""
        start = len(self.prefix) + 1 if self.prefix else 0
        with explained(self.name_of(prefix)):
            lister = client().get_paginator("list_objects_v2")
            pages = lister.paginate(Bucket=self.bucket, Prefix=self.full_key(prefix))
            found = [
                Stat(one["Key"][start:], int(one["Size"]), one["ETag"], one["LastModified"].timestamp())
                for page in pages
                for one in page.get("Contents", ())
            ]
        yield from sorted(found, key=lambda stat: stat.key)

    def children(self) -> list[str]:
        """Return one page of ListObjectsV2 with a delimiter."""
        start = self.full_key("")
        with explained(self.uri):
            page = client().list_objects_v2(Bucket=self.bucket, Prefix=start, Delimiter="/")
        found = [one["Prefix"] for one in page.get("CommonPrefixes", ())]
        found += [one["Key"] for one in page.get("Contents", ())]
        return sorted(name.removeprefix(start) for name in found if name != start)

    def read(self, key: str) -> tuple[bytes, str]:
        """Return a small object."""
        for attempt in range(ATTEMPTS):
            try:
                with explained(self.name_of(key)):
                    answer = client().get_object(Bucket=self.bucket, Key=self.full_key(key))
                    require_small(self.name_of(key), answer["ContentLength"])
                    return answer["Body"].read(), str(answer["ETag"])
            except StoreFailure:
                if attempt == ATTEMPTS - 1:
                    raise
                pause(attempt)
        raise AssertionError("unreachable")

    def read_byte(self, key: str) -> bytes:
        """Return the first byte of an object, nothing of an empty one: enough to know that it may be read."""
        with explained(self.name_of(key)):
            try:
                first = {"Range": "bytes=0-0"}
                answer = client().get_object(Bucket=self.bucket, Key=self.full_key(key), **first)
            except boto.ClientError as error:
                if status_and_code(error)[0] == NO_SUCH_RANGE:
                    return b""
                raise
            return bytes(answer["Body"].read(1))

    def write(self, key: str, data: bytes) -> str:
        """Write a small object."""
        return self._put(key, data)

    def create(self, key: str, data: bytes) -> str:
        """Write a small object where there is none; `data` must be what no other writer would write."""
        if not self.conditional:
            if self.stat(key) is not None:
                raise Changed(key)
            return self._put(key, data)
        return self._surely(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Replace a version of a small object."""
        if not self.conditional:
            found = self.stat(key)
            if found is None or found.etag != etag:
                raise Changed(key)
            return self._put(key, data)
        try:
            return self._surely(key, data, IfMatch=etag)
        except Missing as error:
            if self.stat(key) is None:  # If-Match on nothing is a 404 in S3
                raise Changed(key) from error
            raise

    def download(
        self, items: Sequence[Download], advance: Advance = no_advance, arrived: Arrived = no_arrival
    ) -> list[str]:
        """Bring objects to the disk."""
        return s3_transfer.download(self, items, advance, arrived)

    def bring(self, items: Sequence[Download], advance: Advance, landed: Landed, digests: Background) -> None:
        """Bring objects to the disk, and their digests later."""
        s3_transfer.bring(self, items, advance, landed, digests)

    def upload(self, items: Sequence[Upload], advance: Advance = no_advance) -> list[str]:
        """Bring files to the store."""
        return s3_upload.upload(self, items, advance)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request."""
        everything = list(keys)
        for start in range(0, len(everything), DELETED_AT_ONCE):
            some = everything[start : start + DELETED_AT_ONCE]
            named = [{"Key": self.full_key(key)} for key in some]
            with explained(self.name_of(some[0])):
                answer = client().delete_objects(Bucket=self.bucket, Delete={"Objects": named, "Quiet": True})
            for refused in answer.get("Errors", ()):
                if refused.get("Code") != "NoSuchKey":
                    raise self._refused(refused)

    def now(self) -> float:
        """Return the Date of an answer, which counts whole seconds, plus half of one."""
        with explained(self.uri):
            answer = client().list_objects_v2(Bucket=self.bucket, Prefix=self.full_key(".none"), MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(date).timestamp() + 0.5 if date else time.time()

    def abort_stale_uploads(self, older_than_s: float) -> int:
        """Abort multipart uploads whose parts are kept, and paid for, though nobody will complete them."""
        stale_before = self.now() - older_than_s
        aborted = 0
        with explained(self.uri):
            lister = client().get_paginator("list_multipart_uploads")
            for page in lister.paginate(Bucket=self.bucket, Prefix=self.full_key("")):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"].timestamp() < stale_before:
                        aborted += self._abort(upload["Key"], upload["UploadId"])
        return aborted

    def full_key(self, key: str) -> str:
        """Return the key within the bucket."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def name_of(self, key: str) -> str:
        """Return the URI of a key, for messages."""
        return f"s3://{self.bucket}/{self.full_key(key)}"

    def _abort(self, full_key: str, upload_id: str) -> int:
        try:
            client().abort_multipart_upload(Bucket=self.bucket, Key=full_key, UploadId=upload_id)
        except boto.ClientError as error:
            if (
                status_and_code(error)[0] == 404
            ):  # completed, or aborted by somebody else, since it was listed
                return 0
            raise
        return 1

    def _put(self, key: str, data: bytes, **condition: str) -> str:
        with explained(self.name_of(key)):
            try:
                answer: dict[str, Any] = client().put_object(
                    Bucket=self.bucket, Key=self.full_key(key), Body=data, **condition
                )
            except boto.ClientError as error:
                if condition and status_and_code(error)[0] in CONFLICT:
                    raise Changed(key) from error
                raise
        return str(answer["ETag"])

    def _surely(self, key: str, data: bytes, **condition: str) -> str:
        """Write on a condition, and know whether it was we who wrote.

        An answer that is lost makes boto3 ask again, and the second request finds what the first one wrote:
        so a refusal is looked into before it is believed. S3 also refuses (409) while another writer is at
        it, who may not succeed either.
        """
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                return self._put(key, data, **condition)
            except Changed:
                found, etag = self._version_of(key)
                if found == data and etag is not None:
                    return etag
                if etag != condition.get("IfMatch"):
                    raise
                pause(attempt)
        raise Changed(key)

    def _version_of(self, key: str) -> tuple[bytes, str] | tuple[None, None]:
        try:
            return self.read(key)
        except Missing:
            return None, None

    def _refused(self, refused: dict[str, str]) -> JobError | Changed:
        error = boto.ClientError({"Error": {"Code": refused.get("Code", "")}}, "DeleteObjects")
        return translated(error, f"s3://{self.bucket}/{refused.get('Key', '')}")
