"""A proxy before the S3 server that does what a healthy server cannot: refuse, cut, flip, delay and lie.

    with open_proxy(server, Fault(SLOW_DOWN, "GetObject", "runs/*", times=2)) as proxy:
        server.client(proxy.endpoint).get_object(...)
        proxy.seen  # every request that came, with its status and the bytes of its answer

Requests pass unchanged, the Host header too: the signature covers it, and SeaweedFS checks it against the
header that arrives. A request that a fault changes is signed anew with the server's own credentials.
"""

import contextlib
import dataclasses
import hashlib
import html
import http.client
import io
import socket
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any

from tests.s3_server import HOST, Answer, Server, operation_and_key

BLOCK = 64 * 1024
CONDITIONS = ("if-match", "if-none-match")
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect")  # RFC 9110, 7.6.1; never signed
RESIGNED = ("host", "authorization", "x-amz-date", "x-amz-content-sha256", "content-length", *HOP_BY_HOP)


class Effect:
    """What happens to a request that a fault hits."""


@dataclasses.dataclass(frozen=True)
class Refuse(Effect):
    """Answer with an S3 error; the server never hears of the request.

    Some stores repeat in it what they were asked, `echoes`: the Authorization header and all.
    """

    status: int
    code: str
    headers: tuple[tuple[str, str], ...] = ()
    echoes: bool = False


@dataclasses.dataclass(frozen=True)
class CutAnswer(Effect):
    """End the connection after so many bytes of the answer's body."""

    after_bytes: int


@dataclasses.dataclass(frozen=True)
class CutRequest(Effect):
    """End both connections after so many bytes of the request's body: the server too sees half an upload."""

    after_bytes: int


@dataclasses.dataclass(frozen=True)
class FlipBit(Effect):
    """Change the lowest bit of one byte of the answer's body."""

    at_byte: int = 0


@dataclasses.dataclass(frozen=True)
class Delay(Effect):
    """Wait before the request is passed on."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class Hold(Effect):
    """Pass the request on when the proxy's `released` is set, however long that takes."""


@dataclasses.dataclass(frozen=True)
class PretendToStore(Effect):
    """Answer 200 with the right ETag to an upload, of which only the first bytes, or nothing, is stored."""

    keep_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class IgnoreConditions(Effect):
    """Drop If-Match and If-None-Match, as stores do that do not know them."""


@dataclasses.dataclass(frozen=True)
class StaleList(Effect):
    """Repeat what the same listing answered last through this proxy; the first time, answer truly."""


SLOW_DOWN = Refuse(503, "SlowDown")
INTERNAL_ERROR = Refuse(500, "InternalError")
ACCESS_DENIED = Refuse(403, "AccessDenied")
CLOCK_SKEW = Refuse(403, "RequestTimeTooSkewed")
WRONG_REGION = Refuse(301, "PermanentRedirect", (("x-amz-bucket-region", "eu-central-1"),))
BAD_REQUEST = Refuse(400, "InvalidRequest")


@dataclasses.dataclass
class Fault:
    """An effect on the requests whose S3 operation and key match; the first fault that matches takes effect.

    `operation` and `key` are patterns of fnmatch: "GetObject", "*Object", "UploadPart"; a listing's key is
    its prefix. The first `skip` matching requests pass; then `times` are hit, None: all.
    """

    effect: Effect
    operation: str = "*"
    key: str = "*"
    times: int | None = 1
    skip: int = 0

    def hits(self, operation: str, key: str) -> bool:
        """Whether this request is hit; counts it."""
        if not (fnmatchcase(operation, self.operation) and fnmatchcase(key, self.key)) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclasses.dataclass(frozen=True)
class Seen:
    """A request that was handled: what it asked, its status (0: cut before any), the answer's body bytes."""

    operation: str
    key: str
    status: int
    answer_bytes: int
    effect: Effect | None


class FaultProxy(ThreadingHTTPServer):
    """The proxy; `faults` may be changed at any time."""

    daemon_threads = False  # closing waits for the handlers, so that nothing outlives the test

    def __init__(self, server: Server, faults: list[Fault]) -> None:
        super().__init__((HOST, 0), _Handler)
        self.upstream, self.faults = server, faults
        self.seen: list[Seen] = []
        self.errors: list[Exception] = []
        self.listings: dict[str, Answer] = {}
        self.closing, self.released = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    def count(self, operation: str = "*", key: str = "*") -> int:
        """How many requests of this kind were handled."""
        with self.lock:
            return sum(fnmatchcase(s.operation, operation) and fnmatchcase(s.key, key) for s in self.seen)

    def effect_on(self, operation: str, key: str) -> Effect | None:
        """The effect of the first fault that hits."""
        with self.lock:
            return next((fault.effect for fault in self.faults if fault.hits(operation, key)), None)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):  # clients may leave
            self.errors.append(error)

    def close(self) -> None:
        """Cut what is open, wait for the handlers, and raise what went wrong in them."""
        self.closing.set()
        self.released.set()
        self.shutdown()
        with self.lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        if self.errors:
            raise ExceptionGroup("the proxy itself failed", self.errors)


@contextlib.contextmanager
def open_proxy(server: Server, *faults: Fault) -> Iterator[FaultProxy]:
    """Run a proxy on a free port for the length of the block."""
    proxy = FaultProxy(server, list(faults))
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultProxy

    def handle_any(self) -> None:
        self.operation, self.key = operation_and_key(self.command, self.path)
        self.effect = effect = self.server.effect_on(self.operation, self.key)
        self.sent_status = self.sent_bytes = 0
        try:
            match effect:
                case _ if "Transfer-Encoding" in self.headers:  # S3 itself wants to know an upload's length
                    self.close_connection = True
                    self._refuse(Refuse(411, "MissingContentLength"))
                case Refuse():
                    self._refuse(effect)
                case PretendToStore():
                    self._pretend(effect)
                case IgnoreConditions():
                    self._answer(self._resign(self._body(), without=CONDITIONS))
                case CutRequest():
                    self._cut_request(effect)
                case StaleList() | None if self.operation.startswith("List"):
                    self._list(stale=effect is not None)
                case Delay():
                    self.server.closing.wait(effect.seconds)
                    self._pass(None)
                case Hold():
                    self.server.released.wait()
                    self._pass(None)
                case _:
                    self._pass(effect)
        finally:
            seen = Seen(self.operation, self.key, self.sent_status, self.sent_bytes, effect)
            with self.server.lock:
                self.server.seen.append(seen)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _refuse(self, refusal: Refuse) -> None:
        self._body()
        message = str(dict(self.headers)) if refusal.echoes else "made up by the fault proxy"
        xml = f"<Error><Code>{refusal.code}</Code><Message>{html.escape(message)}</Message></Error>"
        headers = [("Content-Type", "application/xml"), *refusal.headers]
        self._answer(Answer(refusal.status, headers, xml.encode()))

    def _pretend(self, lie: PretendToStore) -> None:
        body = self._body()
        if lie.keep_bytes is not None:
            stored = self._resign(body[: lie.keep_bytes], without=("content-md5", "x-amz-checksum-"))
            assert stored.status == 200, stored
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self._answer(Answer(200, [("ETag", f'"{etag}"')], b""))

    def _list(self, *, stale: bool) -> None:
        known = self.server.listings.get(self.path) if stale else None
        if known is not None:
            self._body()
            self._answer(known)
            return
        with self._forwarded() as response:
            answer = Answer(response.status, response.getheaders(), response.read())
        self.server.listings[self.path] = answer
        self._answer(answer)

    def _cut_request(self, cut: CutRequest) -> None:
        with contextlib.closing(self._connect()) as upstream:
            upstream.send(self.rfile.read(min(cut.after_bytes, self._length())))
        self._hang_up()

    def _pass(self, effect: Effect | None) -> None:
        cut = effect.after_bytes if isinstance(effect, CutAnswer) else None
        flip = effect.at_byte if isinstance(effect, FlipBit) else -1
        with self._forwarded() as response:
            body: IO[bytes] = response
            length = response.headers.get("Content-Length", "0")
            if response.length is None:  # sent in chunks
                body = io.BytesIO(response.read())
                length = str(len(body.getvalue()))
            self._start(response.status, response.getheaders(), length)
            while block := bytearray(body.read(BLOCK if cut is None else min(BLOCK, cut - self.sent_bytes))):
                if 0 <= flip - self.sent_bytes < len(block):
                    block[flip - self.sent_bytes] ^= 1
                self.wfile.write(block)
                self.sent_bytes += len(block)
        if cut is not None:
            self._hang_up()

    @contextlib.contextmanager
    def _forwarded(self) -> Iterator[http.client.HTTPResponse]:
        with contextlib.closing(self._connect()) as upstream:
            left = self._length()
            while left:
                block = self.rfile.read(min(BLOCK, left))
                if not block:
                    raise ConnectionAbortedError("the client left in the middle of its upload")
                upstream.send(block)
                left -= len(block)
            yield upstream.getresponse()

    def _connect(self) -> http.client.HTTPConnection:
        """A connection to the server on which the request's line and headers were sent, as they came."""
        upstream = http.client.HTTPConnection(HOST, self.server.upstream.port, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                upstream.putheader(name, value)
        upstream.endheaders()
        return upstream

    def _resign(self, body: bytes, *, without: tuple[str, ...]) -> Answer:
        dropped = (*RESIGNED, *without)
        headers = {n: v for n, v in self.headers.items() if not n.lower().startswith(dropped)}
        return self.server.upstream.request(self.command, self.path, body, headers)

    def _length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def _body(self) -> bytes:
        return self.rfile.read(self._length())

    def _answer(self, answer: Answer) -> None:
        self._start(answer.status, answer.headers, str(len(answer.body)))
        if self.command != "HEAD":
            self.wfile.write(answer.body)
            self.sent_bytes = len(answer.body)

    def _start(self, status: int, headers: list[tuple[str, str]], length: str) -> None:
        self.sent_status = status
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in (*HOP_BY_HOP, "content-length"):
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
