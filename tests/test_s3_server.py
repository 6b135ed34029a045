"""The S3 server of the tests: real, shared, and gone with its last user."""

import base64
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.s3_server import HOST, Server, serve

ROOT = Path(__file__).parent.parent
USER = """
import sys
from pathlib import Path
from tests.s3_server import serve
with serve(Path(sys.argv[1])) as server:
    print(server.port, server.folder, flush=True)
    sys.stdin.read()
"""


def refused(call: Callable[..., object], **arguments: object) -> tuple[int, str]:
    """The status and the code with which the server refuses a call."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_environment_leads_boto3_to_the_server(s3_prefix: str) -> None:
    """With the fixture's environment alone, boto3 stores, reads and lists under the test's own prefix."""
    bucket, _, prefix = s3_prefix.removeprefix("s3://").partition("/")
    client = boto3.session.Session().client("s3")
    client.put_object(Bucket=bucket, Key=f"{prefix}/b", Body=b"two")
    client.put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"one")
    assert client.get_object(Bucket=bucket, Key=f"{prefix}/a")["Body"].read() == b"one"
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [(f"{prefix}/a", 3), (f"{prefix}/b", 3)]


@pytest.mark.parametrize("odd", ["a b/c%d", "../x"])
def test_prefix_is_a_plain_word_whatever_the_test_is_called(odd: str, s3_prefix: str) -> None:
    """A prefix holds no character that a URI or a store could read in another way."""
    assert odd not in s3_prefix
    assert set(s3_prefix.removeprefix("s3://test-bucket/")) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
    )


def test_developers_credentials_are_out_of_reach(s3_prefix: str) -> None:
    """The server's made-up key is the only one that boto3 finds."""
    credentials = boto3.session.Session().get_credentials()
    assert credentials is not None
    assert credentials.access_key.startswith("test-")
    assert credentials.token is None
    assert boto3.session.Session().available_profiles == []


def test_conditional_writes_are_real(s3_server: Server, s3_prefix: str) -> None:
    """If-None-Match refuses what exists, If-Match what has changed or is missing, both with 412."""
    client, bucket, key = s3_server.client(), s3_server.bucket, s3_prefix.rpartition("/")[2]
    etag = client.put_object(Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*")["ETag"]
    changed = (412, "PreconditionFailed")
    assert refused(client.put_object, Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*") == changed
    client.put_object(Bucket=bucket, Key=key, Body=b"3", IfMatch=etag)
    assert refused(client.put_object, Bucket=bucket, Key=key, Body=b"4", IfMatch=etag) == changed
    assert refused(client.put_object, Bucket=bucket, Key=f"{key}-not", Body=b"5", IfMatch=etag) == changed
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"3"


def test_wrong_checksum_stores_nothing(s3_server: Server, s3_prefix: str) -> None:
    """An upload that does not match its x-amz-checksum-sha256 is refused."""
    client, bucket, key = s3_server.client(), s3_server.bucket, s3_prefix.rpartition("/")[2]
    other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    answer = refused(client.put_object, Bucket=bucket, Key=key, Body=b"data", ChecksumSHA256=other)
    assert answer == (400, "BadDigest")
    assert refused(client.get_object, Bucket=bucket, Key=key) == (404, "NoSuchKey")


def test_strangers_are_refused(s3_server: Server) -> None:
    """A wrong key, a wrong secret and a missing bucket are told apart."""
    here = {"Bucket": s3_server.bucket, "Key": "any"}
    stranger = s3_server.client(aws_access_key_id="stranger")
    assert refused(stranger.get_object, **here) == (403, "InvalidAccessKeyId")
    forger = s3_server.client(aws_secret_access_key="guessed")  # noqa: S106
    assert refused(forger.get_object, **here) == (403, "SignatureDoesNotMatch")
    assert refused(s3_server.client().put_object, Bucket="no-such-bucket", Key="any") == (404, "NoSuchBucket")


def test_processes_share_a_server_that_outlives_its_starter(tmp_path: Path) -> None:
    """A second process joins the first one's server, keeps it when the first is killed, and takes it down."""
    with user(tmp_path) as (first, port, folder):
        with serve(tmp_path) as server:
            assert (server.port, server.folder) == (port, folder)
            first.send_signal(signal.SIGKILL)
            first.wait()
            server.client().put_object(Bucket=server.bucket, Key="a", Body=b"b")
        assert not listens(port)
        assert not Path(folder).exists()


def test_server_ends_when_its_only_user_is_killed(tmp_path: Path) -> None:
    """A killed test process leaves neither a server nor its data behind."""
    with user(tmp_path) as (only, port, folder):
        assert listens(port)
        only.send_signal(signal.SIGKILL)
        only.wait()
        wait_until(lambda: not listens(port) and not Path(folder).exists())


def test_start_that_fails_shows_the_servers_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binary that ends at once is reported at once, with what it said."""
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho cannot do this\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("tests.s3_server.find_weed", lambda: str(broken))
    with pytest.raises(RuntimeError, match=r"cannot do this\n.*exit status 3"), serve(tmp_path / "server"):
        pass


@contextlib.contextmanager
def user(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Another process that uses the server of `folder` until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, folder], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            port, place = process.stdout.readline().split()
            yield process, int(port), place
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def wait_until(met: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)
