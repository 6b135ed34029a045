"""From URIs to stores."""

from pathlib import Path

import pytest

from job.errors import SpecError
from job.storage.local_store import LocalStore
from job.storage.s3 import S3Store
from job.storage.uris import is_remote, open_store, parent_and_name, split_s3


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b/", "my.bucket-1", "a/b"),
        ("s3://bucket/a b/#1?x=%20", "bucket", "a b/#1?x=%20"),
    ],
)
def test_a_uri_has_a_bucket_and_a_key(uri: str, bucket: str, key: str) -> None:
    """The key is taken as it stands: nothing in it is a query, a fragment or an escape."""
    assert split_s3(uri) == (bucket, key)
    assert open_store(uri) == S3Store(bucket, key)
    assert open_store(uri).uri == f"s3://{bucket}/{key}".rstrip("/")
    assert is_remote(uri)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///a", "s3://UPPER/a", "s3://a", "s3://b_/x", "s3://ä-b/x", "bucket/a"]
)
def test_no_bucket_is_called_so(uri: str) -> None:
    """The name is refused where it is written, before anybody is asked."""
    with pytest.raises(SpecError) as caught:
        split_s3(uri)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("uri", ["s3://AKIACANARY:canary-secret@bucket/a", "s3://canary-secret@bucket"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    """They belong into the environment."""
    with pytest.raises(SpecError) as caught:
        open_store(uri)
    assert "canary" not in f"{caught.value} {caught.value.advice}".lower()
    assert "environment" in caught.value.advice


def test_paths_are_stores_too(tmp_path: Path) -> None:
    """Plain and as file:// URIs."""
    assert open_store(str(tmp_path)) == open_store(f"file://{tmp_path}") == LocalStore(tmp_path.resolve())
    assert not is_remote(str(tmp_path))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/runs/x.json", ("s3://bucket/runs", "x.json")),
        ("s3://bucket/x.json", ("s3://bucket", "x.json")),
        ("s3://bucket", ("s3://bucket", "")),
        ("/a/b", ("/a", "b")),
        ("file:///a/b", ("/a", "b")),
    ],
)
def test_the_last_part_of_a_uri(uri: str, expected: tuple[str, str]) -> None:
    """Of a bucket there is none."""
    assert parent_and_name(uri) == expected


@pytest.mark.parametrize("prefix", ["a", "/a", "a/", "/a/", "a/b", "ä/ b"])
def test_below_a_bucket(prefix: str) -> None:
    """Slashes around a prefix do not count; those in it do."""
    inner = prefix.strip("/")
    assert S3Store("bucket").at(prefix) == S3Store("bucket", inner)
    assert S3Store("bucket", "x").at(prefix) == S3Store("bucket", f"x/{inner}")
    assert S3Store("bucket", "x", conditional=False).at(prefix).conditional is False
    assert S3Store("bucket").at(prefix).at("y").name_of("k") == f"s3://bucket/{inner}/y/k"


@pytest.mark.parametrize("prefix", ["", "/"])
def test_below_nothing_is_the_same_place(prefix: str) -> None:
    """So that a path which may be empty needs no question."""
    assert S3Store("bucket", "x").at(prefix) == S3Store("bucket", "x")
