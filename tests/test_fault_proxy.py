"""Every fault of the proxy as boto3 sees it, against the real server."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from tests.fault_proxy import (
    ACCESS_DENIED,
    BAD_REQUEST,
    CLOCK_SKEW,
    INTERNAL_ERROR,
    SLOW_DOWN,
    WRONG_REGION,
    CutAnswer,
    CutRequest,
    Delay,
    Fault,
    FaultProxy,
    FlipBit,
    Hold,
    IgnoreConditions,
    PretendToStore,
    Refuse,
    StaleList,
    open_proxy,
)
from tests.s3_server import BUCKET, Server

DATA = bytes(range(256)) * 1000  # several blocks


@pytest.fixture
def prefix(s3_prefix: str) -> str:
    return s3_prefix.removeprefix(f"s3://{BUCKET}/")


@pytest.fixture
def stored(s3_server: Server, prefix: str) -> str:
    """The key of an object that holds DATA."""
    s3_server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/a b%é", Body=DATA)
    return f"{prefix}/a b%é"


def read(server: Server, proxy: FaultProxy, key: str, attempts: int = 1) -> bytes:
    client = server.client(proxy.endpoint, attempts=attempts)
    return bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def test_healthy_proxy_changes_nothing(
    s3_server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed requests, an upload in parts and a listing pass with boto3's own settings, and all are seen."""
    with open_proxy(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        client = boto3.session.Session().client("s3")
        key = f"{prefix}/odd key+%/é"
        client.put_object(Bucket=BUCKET, Key=key, Body=DATA)
        assert client.get_object(Bucket=BUCKET, Key=key, Range="bytes=10-19")["Body"].read() == DATA[10:20]
        assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(DATA)
        multipart = {"Bucket": BUCKET, "Key": f"{prefix}/parts"}
        upload = client.create_multipart_upload(**multipart)["UploadId"]
        tag = client.upload_part(**multipart, UploadId=upload, PartNumber=1, Body=DATA)["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
        client.complete_multipart_upload(**multipart, UploadId=upload, MultipartUpload=parts)
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]
        assert [entry["Key"] for entry in listed] == [key, f"{prefix}/parts"]
        client.delete_object(Bucket=BUCKET, Key=key)
        client.close()
    assert [seen.operation for seen in proxy.seen] == [
        "PutObject", "GetObject", "HeadObject",
        "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "ListObjectsV2", "DeleteObject",
    ]  # fmt: skip
    assert [seen.status for seen in proxy.seen] == [200, 206, 200, 200, 200, 200, 200, 204]
    assert proxy.seen[0].key == key
    assert proxy.seen[1].answer_bytes == 10


REFUSALS = [SLOW_DOWN, INTERNAL_ERROR, ACCESS_DENIED, CLOCK_SKEW, BAD_REQUEST]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_refusal_comes_as_often_as_asked(refusal: Refuse, s3_server: Server, stored: str) -> None:
    """The first request passes, the second is refused with status and code, the third passes."""
    with open_proxy(s3_server, Fault(refusal, "GetObject", "*/a b*", times=1, skip=1)) as proxy:
        assert read(s3_server, proxy, stored) == DATA
        with pytest.raises(ClientError) as caught:
            read(s3_server, proxy, stored)
        assert read(s3_server, proxy, stored) == DATA
    error = caught.value.response
    assert error["Error"]["Code"] == refusal.code
    assert error["ResponseMetadata"]["HTTPStatusCode"] == refusal.status


def test_wrong_region_is_told_with_the_right_one(s3_server: Server, stored: str) -> None:
    """botocore follows one redirect to the region that the answer names; a second one reaches the caller."""
    with open_proxy(s3_server, Fault(WRONG_REGION, "GetObject")) as proxy:
        assert read(s3_server, proxy, stored) == DATA
    assert [seen.status for seen in proxy.seen] == [301, 200]
    with (
        open_proxy(s3_server, Fault(WRONG_REGION, times=None)) as proxy,
        pytest.raises(ClientError, match="PermanentRedirect") as caught,
    ):
        read(s3_server, proxy, stored)
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "eu-central-1"


def test_boto3_retries_a_busy_store(s3_server: Server, stored: str) -> None:
    """A transient refusal is over for a client that tries again; other operations and keys are not hit."""
    elsewhere = [Fault(SLOW_DOWN, "PutObject", times=None), Fault(SLOW_DOWN, key="other/*", times=None)]
    with open_proxy(s3_server, *elsewhere, Fault(SLOW_DOWN, "GetObject")) as proxy:
        assert read(s3_server, proxy, stored, attempts=2) == DATA
    assert [seen.status for seen in proxy.seen] == [503, 200]
    assert proxy.count("Get*", "*/a b*") == 2


def test_answer_is_cut(s3_server: Server, stored: str) -> None:
    """The connection ends after exactly the bytes asked for, of more than one block."""
    with open_proxy(s3_server, Fault(CutAnswer(100_000))) as proxy:
        with pytest.raises((IncompleteReadError, ResponseStreamingError)):
            read(s3_server, proxy, stored)
        assert read(s3_server, proxy, stored) == DATA
    assert [seen.answer_bytes for seen in proxy.seen] == [100_000, len(DATA)]


def test_upload_is_cut(s3_server: Server, prefix: str) -> None:
    """An upload cut in its middle is an error for the client, and the real server keeps nothing of it."""
    with (
        open_proxy(s3_server, Fault(CutRequest(70_000))) as proxy,
        pytest.raises(BotoCoreError, match="onnection"),  # closed or reset: the kernel decides
    ):
        s3_server.client(proxy.endpoint).put_object(Bucket=BUCKET, Key=f"{prefix}/cut", Body=DATA)
    assert [seen.status for seen in proxy.seen] == [0]
    assert "Contents" not in s3_server.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)


@pytest.mark.parametrize("at_byte", [0, 65_536, len(DATA) - 1])
def test_one_bit_is_flipped(at_byte: int, s3_server: Server, stored: str) -> None:
    """The answer is well-formed and differs in one bit."""
    with open_proxy(s3_server, Fault(FlipBit(at_byte))) as proxy:
        got = read(s3_server, proxy, stored)
    assert [(i, a ^ b) for i, (a, b) in enumerate(zip(got, DATA, strict=True)) if a != b] == [(at_byte, 1)]


def test_delay_holds_a_request_back(s3_server: Server, stored: str) -> None:
    """A delayed answer is right, and late."""
    with open_proxy(s3_server, Fault(Delay(0.3))) as proxy:
        began = time.monotonic()
        assert read(s3_server, proxy, stored) == DATA
        assert time.monotonic() - began >= 0.3


def test_a_held_request_passes_when_it_is_released(s3_server: Server, stored: str) -> None:
    """It waits as long as the test wants, others pass, and then its answer is right."""
    with open_proxy(s3_server, Fault(Hold())) as proxy, ThreadPoolExecutor() as pool:
        held = pool.submit(read, s3_server, proxy, stored)
        deadline = time.monotonic() + 60
        while proxy.faults[0].times:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert read(s3_server, proxy, stored) == DATA
        assert not held.done()
        proxy.released.set()
        assert held.result() == DATA


@pytest.mark.parametrize("keep_bytes", [None, 0, 1000])
def test_upload_is_lied_about(keep_bytes: int | None, s3_server: Server, prefix: str) -> None:
    """The client is told that all is well, with the right ETag; the store holds nothing, or the beginning."""
    key = f"{prefix}/lie"
    with open_proxy(s3_server, Fault(PretendToStore(keep_bytes), "PutObject")) as proxy:
        answer = s3_server.client(proxy.endpoint).put_object(
            Bucket=BUCKET, Key=key, Body=DATA, Metadata={"note": "kept"}, ChecksumAlgorithm="SHA256"
        )
    assert answer["ETag"] == f'"{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"'
    if keep_bytes is None:
        assert "Contents" not in s3_server.client().list_objects_v2(Bucket=BUCKET, Prefix=key)
    else:
        real = s3_server.client().get_object(Bucket=BUCKET, Key=key)
        assert real["Body"].read() == DATA[:keep_bytes]
        assert real["Metadata"] == {"note": "kept"}


@pytest.mark.parametrize("condition", [{"IfNoneMatch": "*"}, {"IfMatch": '"0123"'}], ids=str)
def test_conditions_are_ignored(condition: dict[str, str], s3_server: Server, stored: str) -> None:
    """A write that the real server refuses goes through, as in a store that does not know the header."""
    with open_proxy(s3_server, Fault(IgnoreConditions(), "PutObject")) as proxy:
        client = s3_server.client(proxy.endpoint)
        client.put_object(Bucket=BUCKET, Key=stored, Body=b"overwritten", **condition)
        assert read(s3_server, proxy, stored) == b"overwritten"
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(Bucket=BUCKET, Key=stored, Body=b"again", **condition)


def test_listing_is_stale(s3_server: Server, prefix: str) -> None:
    """A stale listing lacks what was stored since the last one; the next is true again."""
    with open_proxy(s3_server, Fault(StaleList(), skip=1)) as proxy:
        client = s3_server.client(proxy.endpoint)
        counts = [client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["KeyCount"]]
        s3_server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/new", Body=b"x")
        counts += [client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["KeyCount"] for _ in range(2)]
    assert counts == [0, 0, 1]


def test_closing_does_not_wait_for_a_delayed_request(s3_server: Server) -> None:
    """A proxy with an open connection and a long delay closes at once."""
    impatient = Config(read_timeout=0.1, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    began = time.monotonic()
    with open_proxy(s3_server, Fault(Delay(60.0))) as proxy:
        client = s3_server.client(proxy.endpoint, config=impatient)
        with pytest.raises(ReadTimeoutError):
            client.head_bucket(Bucket=BUCKET)
    assert time.monotonic() - began < 30
