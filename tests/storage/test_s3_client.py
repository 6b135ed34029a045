"""How the two clients of the S3 store are set up: by the same variables and files, in the same way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest
from botocore.awsrequest import AWSResponse
from botocore.utils import parse_timestamp

from job.errors import Denied
from job.storage import s3_client, s3_listing
from job.storage.s3 import S3Store
from job.storage.s3_bulk import bucket_client
from job.storage.s3_client import client
from job.storage.store import Upload
from tests.fault_proxy import open_proxy
from tests.s3_server import HOST, Server
from tests.tls import make_authority

ELSEWHERE = "http://store.invalid:9000"


@pytest.fixture(autouse=True)
def _own_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-secret")
    s3_client.forget()
    yield
    s3_client.forget()


class Recorder(ThreadingHTTPServer):
    """Answers every request with an empty 200, and remembers it."""

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Recording)
        self.seen: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}"


class _Recording(BaseHTTPRequestHandler):
    server: Recorder

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, headers))
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def recorded() -> Iterator[Recorder]:
    with Recorder() as recorder:
        thread = threading.Thread(target=recorder.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield recorder
        finally:
            recorder.shutdown()
            thread.join()


def both_write(tmp_path: Path, bucket: str = "some-bucket") -> None:
    """Let boto3 and obstore write an object each."""
    store = S3Store(bucket)
    store.write("by-boto3", b"1")
    (tmp_path / "s").write_bytes(b"1")
    store.upload([Upload(tmp_path / "s", "by-obstore")])


def test_the_session_token_goes_with_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary credentials are three; both clients sign with them for the same region."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "some-token")
    monkeypatch.setenv("AWS_REGION", "eu-north-7")
    with recorded() as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", recorder.url)
        both_write(tmp_path)
    assert [path for path, _ in recorder.seen] == ["/some-bucket/by-boto3", "/some-bucket/by-obstore"]
    for _, headers in recorder.seen:
        assert headers["x-amz-security-token"] == "some-token"
        assert "Credential=some-key/" in headers["authorization"]
        assert "/eu-north-7/s3/aws4_request" in headers["authorization"]


def test_credentials_that_were_renewed_are_used_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bulk client asks boto3's session, which renews them; neither keeps a key of its own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", ELSEWHERE)
    provider: Any = bucket_client("some-bucket").credential_provider
    assert provider()["access_key_id"] == "some-key"
    held = s3_client.session().get_credentials()
    assert held is not None
    held.access_key, held.token = "renewed", "and-its-token"
    assert (provider()["access_key_id"], provider()["token"]) == ("renewed", "and-its-token")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://a:1"}, "http://a:1"),
        ({"AWS_ENDPOINT_URL_S3": "http://b:1"}, "http://b:1"),
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:1"}, "http://b:1"),
        ({"AWS_PROFILE": "lab"}, "http://profile:1"),
        ({"AWS_PROFILE": "lab", "AWS_ENDPOINT_URL": "http://a:1"}, "http://a:1"),
        ({"AWS_PROFILE": "lab-s3"}, "http://service:1"),
    ],
)
def test_the_endpoint_is_boto3_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """Variables, profiles and services sections count as boto3 counts them, for both."""
    (tmp_path / "config").write_text(
        "[profile lab]\nendpoint_url = http://profile:1\nregion = eu-1\n"
        "[profile lab-s3]\nservices = ours\n[services ours]\ns3 =\n  endpoint_url = http://service:1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config: Any = bucket_client("some-bucket").config
    assert client().meta.endpoint_url == config["endpoint"] == expected
    assert config["virtual_hosted_style_request"] == "false"
    assert client().meta.config.s3["addressing_style"] == "path"
    assert client().meta.config.request_checksum_calculation == "when_required"
    region = "eu-1" if variables.get("AWS_PROFILE") == "lab" else "us-east-1"
    assert client().meta.region_name == config["region"] == region


def test_variables_that_only_the_bulk_client_knows_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What boto3 ignores would lead the two to different places, or leave requests unsigned."""
    with recorded() as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", recorder.url)
        for name, value in {
            "AWS_ENDPOINT": ELSEWHERE, "AWS_ENDPOINT_URL": ELSEWHERE, "AWS_SKIP_SIGNATURE": "true",
            "AWS_BUCKET": "another", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
            "AWS_S3_EXPRESS": "true", "AWS_REQUEST_PAYER": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        both_write(tmp_path)
    assert [path for path, _ in recorder.seen] == ["/some-bucket/by-boto3", "/some-bucket/by-obstore"]
    assert all("authorization" in headers for _, headers in recorder.seen)


def answer_head_bucket(status: int, region: str | None) -> None:
    headers = {"x-amz-bucket-region": region} if region else {}

    class Raw:
        def stream(self) -> Iterator[bytes]:
            yield b""

    def answer(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, status, headers, Raw())

    client().meta.events.register("before-send.s3.HeadBucket", answer)


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize(
    ("bucket", "endpoint", "by_host"),
    [
        ("plain", "https://plain.s3.eu-central-1.amazonaws.com", "true"),
        ("with.dots", "https://s3.eu-central-1.amazonaws.com", "false"),
    ],
)
def test_on_aws_the_bulk_client_goes_where_the_bucket_is(
    status: int, bucket: str, endpoint: str, by_host: str
) -> None:
    """AWS tells the region even to those who may not look; dots do not fit into its certificate."""
    answer_head_bucket(status, "eu-central-1")
    config: Any = bucket_client(bucket).config
    assert (config["endpoint"], config["region"]) == (endpoint, "eu-central-1")
    assert config["virtual_hosted_style_request"] == by_host


def test_on_aws_a_refusal_that_tells_no_region_is_denied(tmp_path: Path) -> None:
    """Nothing is guessed."""
    answer_head_bucket(403, None)
    (tmp_path / "s").write_bytes(b"1")
    with pytest.raises(Denied, match="s3://plain/below: access denied"):
        S3Store("plain", "below").upload([Upload(tmp_path / "s", "a")])


def test_an_endpoint_of_aws_s_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a private network, say, instead of the public one of the region."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com")
    answer_head_bucket(200, "eu-west-1")
    config: Any = bucket_client("mine").config
    assert config["endpoint"] == "https://mine.bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com"


def test_a_proxy_is_used_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written with or without a scheme, for hosts that NO_PROXY does not name."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", ELSEWHERE)
    with recorded() as recorder:
        for written in (recorder.url, recorder.url.removeprefix("http://")):
            monkeypatch.setenv("HTTP_PROXY", written)
            monkeypatch.setenv("http_proxy", written)
            s3_client.forget()
            both_write(tmp_path)
    wanted = [f"{ELSEWHERE}/some-bucket/by-boto3", f"{ELSEWHERE}/some-bucket/by-obstore"]
    assert [path for path, _ in recorder.seen] == 2 * wanted


@pytest.mark.parametrize("exception", [HOST, f"{HOST}:{{port}}", "*"])
def test_a_proxy_is_left_out_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exception: str) -> None:
    """Each way of writing NO_PROXY that boto3 understands."""
    with recorded() as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", recorder.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, exception.format(port=recorder.server_port))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, ELSEWHERE)
        both_write(tmp_path)
    assert len(recorder.seen) == 2


@pytest.mark.parametrize("by", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "profile"])
def test_an_authority_is_trusted_by_both(
    s3_server: Server, s3_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """A store's own authority, named by a variable or in a profile, last in a file of several."""
    authority = make_authority(tmp_path)
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(s3_client.authorities().read_bytes() + b"\n" + authority.bundle.read_bytes())
    monkeypatch.setenv(by, str(bundle))
    if by == "profile":
        (tmp_path / "config").write_text(f"[default]\nca_bundle = {bundle}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with open_proxy(s3_server) as proxy:
        proxy.socket = authority.context.wrap_socket(proxy.socket, server_side=True)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://{HOST}:{proxy.server_port}")
        s3_client.forget()
        both_write(tmp_path, s3_server.bucket)
    assert proxy.count("PutObject", "by-*") == 2


def test_each_process_has_one_client_and_asks_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections and credentials are shared by every store of the process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://one:1")
    first, bulk = client(), bucket_client("some-bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://two:1")
    assert client() is first
    assert bucket_client("some-bucket") is bulk
    assert isinstance(bulk, obstore.store.S3Store)
    s3_client.forget()
    assert client().meta.endpoint_url == "http://two:1"
    assert bucket_client("some-bucket") is not bulk


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-29T23:30:01.123Z", "2026-11-29T23:30:01Z", "2026-11-29T25:30:01Z",
        "2026-11-29T23:30:01+01:00", "Sun, 29 Nov 2026 23:30:01 GMT", "1700000000", 1700000000, "20261129",
    ],
)  # fmt: skip
def test_times_are_read_as_botocore_reads_them(text: str | int) -> None:
    """Only quicker, where they are written as AWS does."""
    try:
        expected = parse_timestamp(text)
    except ValueError:
        with pytest.raises(ValueError, match="Invalid timestamp"):
            s3_listing.parse_time(text)
    else:
        assert s3_listing.parse_time(text) == expected


KEYS = ["a", "a b+c%20d", "\u00fc/\u65e5\u672c.png", "x/<&>\"'", "folder/", "tab\there"]


def test_listings_are_read_as_botocore_reads_them(s3_server: Server, s3_prefix: str) -> None:
    """Only quicker; also of several pages, of none, and with folders."""
    bucket, prefix = s3_server.bucket, s3_prefix.split("/", 3)[3]
    for key in KEYS:
        s3_server.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=key.encode())
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": f"{prefix}/"}
    # The test server's own client knows no events of ours.
    for more in ({}, {"MaxKeys": 2}, {"Delimiter": "/"}, {"Prefix": f"{prefix}/none"}):
        ours, theirs = (one.list_objects_v2(**asked | more) for one in (client(), s3_server.client()))
        for answer in (ours, theirs):
            del answer["ResponseMetadata"]
        if "Contents" in theirs:  # of which it reads more
            theirs["Contents"] = [
                {key: one[key] for key in ours["Contents"][0]} for one in theirs["Contents"]
            ]
        assert ours == theirs
    found = client().list_objects_v2(**asked)["Contents"]
    assert sorted(one["Key"] for one in found) == sorted(f"{prefix}/{key}" for key in KEYS)


@pytest.mark.parametrize(
    "body",
    [
        b"<ListBucketResult><Contents><Key>a</Key>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>none</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"",
    ],
)
def test_a_page_that_is_none_is_left_to_botocore(body: bytes) -> None:
    answer, read = {"status_code": 200, "body": body}, dict[str, Any]()
    s3_listing.read_objects(answer, read)
    assert (answer["body"], read) == (body, {})
