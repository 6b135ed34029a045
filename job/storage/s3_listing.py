"""What answers of S3 say, read faster than botocore does: a listing may hold thousands of objects."""

from contextlib import suppress
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

from botocore.utils import parse_timestamp

_OK = 200
_FIELDS = ("Key", "Size", "ETag", "LastModified")


def parse_time(text: Any) -> datetime:
    """Return a time of an answer, which is written as AWS does or in any other way that botocore can read."""
    if isinstance(text, str) and "T" in text and text.endswith("Z"):
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    found: datetime = parse_timestamp(text)
    return found


def read_objects(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Read the objects of a page, for the event `before-parse.s3.ListObjectsV2`: the rest is botocore's.

    So is a page that is not as it should be: botocore's own reading says what is wrong with it.
    """
    if response_dict["status_code"] != _OK:
        return
    try:
        page = ElementTree.fromstring(response_dict["body"])  # noqa: S314 (as botocore does next)
        namespace = page.tag[: page.tag.find("}") + 1]
        entries = page.findall(f"{namespace}Contents")
        found = [_object(entry, namespace) for entry in entries]
    except (ElementTree.ParseError, KeyError, ValueError):
        return
    for entry in entries:
        page.remove(entry)
    response_dict["body"] = ElementTree.tostring(page)
    if found:
        customized_response_dict["Contents"] = found


def _object(entry: ElementTree.Element, namespace: str) -> dict[str, Any]:
    fields = {field.tag: field.text or "" for field in entry}
    key, size, etag, modified = (fields[f"{namespace}{name}"] for name in _FIELDS)
    return {"Key": key, "Size": int(size), "ETag": etag, "LastModified": parse_time(modified)}
