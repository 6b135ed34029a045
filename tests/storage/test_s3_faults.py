"""The S3 store while the server, or the way to it, fails: what is tried again, and what it is called."""

import hashlib
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.httpsession import URLLib3Session
from botocore.retries.standard import ExponentialBackoff

from job.errors import Denied, InputError, IntegrityError, Interrupted, Missing, StoreFailure
from job.storage import preflight, s3_client, s3_transfer, s3_upload
from job.storage.s3 import S3Store
from job.storage.s3_client import client
from job.storage.store import Changed, Download, Upload
from job.storage.uris import split_s3
from tests.fault_proxy import (
    ACCESS_DENIED,
    CLOCK_SKEW,
    INTERNAL_ERROR,
    SLOW_DOWN,
    WRONG_REGION,
    CutAnswer,
    CutRequest,
    Effect,
    Fault,
    FaultProxy,
    FlipBit,
    IgnoreConditions,
    PretendToStore,
    Refuse,
    Seen,
    open_proxy,
)
from tests.s3_server import HOST, Server
from tests.tls import Authority, make_authority

MB = 1 << 20
PART = 5 * MB
Place = tuple[S3Store, FaultProxy]
Opener = Callable[..., AbstractContextManager[Place]]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many attempts as ever, without the pauses between them; parts as small as S3 takes them."""
    for module in (s3_transfer, s3_upload):
        monkeypatch.setattr(module, "PART", PART)
    monkeypatch.setattr(s3_client, "FIRST_PAUSE_S", 0.0005)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)


@pytest.fixture
def faulty(s3_server: Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens the store of this test through a proxy with faults."""

    @contextmanager
    def opened(*faults: Fault, conditional: bool = True) -> Iterator[Place]:
        with open_proxy(s3_server, *faults) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
            s3_client.forget()
            yield S3Store(*split_s3(s3_prefix), conditional), proxy
            client().close()

    yield opened
    s3_client.forget()


def healthy(s3_server: Server, s3_prefix: str) -> Callable[..., Any]:
    """Put an object past the proxy."""
    bucket, prefix = split_s3(s3_prefix)
    raw = s3_server.client()
    return lambda key, data: raw.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=data)


def noise(size: int) -> bytes:
    return hashlib.shake_256(b"noise").digest(min(size, MB)) * (size // MB) + b"x" * (size % MB)


def seen(proxy: FaultProxy, operation: str, at_least: int, effect: Effect | None = None) -> list[Seen]:
    """What the proxy let pass, or did an effect to: it notes a request when the client has its answer."""
    deadline = time.monotonic() + 5
    while True:
        with proxy.lock:
            found = [
                one for one in proxy.seen if fnmatchcase(one.operation, operation) and one.effect is effect
            ]
        if len(found) >= at_least or time.monotonic() > deadline:
            return found
        time.sleep(0.005)


def brought(store: S3Store, key: str, target: Path) -> str:
    found = store.stat(key)
    assert found is not None
    return store.download([Download(found, target)])[0]


def sent(store: S3Store, key: str, data: bytes, tmp_path: Path) -> str:
    source = tmp_path / "source"
    source.write_bytes(data)
    return store.upload([Upload(source, key)])[0]


# What passes when it is tried again


@pytest.mark.parametrize("effect", [SLOW_DOWN, INTERNAL_ERROR], ids=["503", "500"])
@pytest.mark.parametrize("size", [1000, 13 * MB])
def test_what_a_busy_store_refuses_is_asked_for_again(
    faulty: Opener, tmp_path: Path, effect: Effect, size: int
) -> None:
    """Three refusals of every kind of request go by unnoticed, in small objects and in parts."""
    data = noise(size)
    operations = ["PutObject", "GetObject", "HeadObject", "List*", "UploadPart", "C*MultipartUpload"]
    faults = [Fault(effect, operation, times=3) for operation in operations]
    with faulty(*faults) as (store, proxy):
        digest = sent(store, "a", data, tmp_path)
        assert digest == hashlib.sha256(data).hexdigest()
        assert [found.key for found in store.entries()] == ["a"]
        assert brought(store, "a", tmp_path / "t") == digest
        assert (tmp_path / "t").read_bytes() == data
        store.write("b", b"small")
        assert store.read("b")[0] == b"small"
        assert len(seen(proxy, "*", 3 * 4, effect)) >= 3 * 4


def test_a_small_body_that_breaks_off_is_read_again(
    faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str
) -> None:
    """Both clients notice a body that is too short, and bring the whole one."""
    healthy(s3_server, s3_prefix)("a", b"0123456789" * 100)
    cut = CutAnswer(10)
    with faulty(Fault(cut, "GetObject", times=2)) as (store, proxy):
        assert store.read("a")[0] == b"0123456789" * 100
        proxy.faults[0].times = 2
        brought(store, "a", tmp_path / "t")
        assert (tmp_path / "t").read_bytes() == b"0123456789" * 100
        assert len(seen(proxy, "GetObject", 2)) == 2
        assert len(seen(proxy, "GetObject", 4, cut)) == 4


def test_of_a_large_download_only_the_cut_part_is_fetched_again(
    faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str
) -> None:
    """A cut after 2 MB of one of four parts costs no byte twice but those on their way when it came."""
    data = noise(4 * PART)  # any of them may be the second to be asked for
    healthy(s3_server, s3_prefix)("big", data)
    cut = CutAnswer(2 * MB)
    with faulty(Fault(cut, "GetObject", skip=1)) as (store, proxy):
        assert brought(store, "big", tmp_path / "t") == hashlib.sha256(data).hexdigest()
        answers = [*seen(proxy, "GetObject", 4), *seen(proxy, "GetObject", 1, cut)]
        assert len(answers) == 5
        fetched = sum(one.answer_bytes for one in answers)
        assert len(data) <= fetched <= len(data) + 2 * MB


def test_what_a_failed_download_brought_is_not_fetched_again(
    faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str
) -> None:
    """A store that dies after three of six parts: nothing under the name; the next call fetches the rest."""
    data = noise(6 * PART)
    healthy(s3_server, s3_prefix)("big", data)
    dies = Fault(Refuse(400, "InvalidRequest"), "GetObject", times=None, skip=3)
    with faulty(dies) as (store, proxy):
        with pytest.raises(InputError):
            brought(store, "big", tmp_path / "t")
        assert not (tmp_path / "t").exists()
        dies.times = 0
        assert brought(store, "big", tmp_path / "t") == hashlib.sha256(data).hexdigest()
        assert len(seen(proxy, "GetObject", 6)) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_new_version_is_not_mixed_with_what_was_brought_of_the_old(
    faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str
) -> None:
    """What was kept of a version is of no use to the next one, though it is as long."""
    put = healthy(s3_server, s3_prefix)
    put("big", b"a" * 3 * PART)
    dies = Fault(Refuse(400, "InvalidRequest"), "GetObject", times=None, skip=2)
    with faulty(dies) as (store, proxy):
        with pytest.raises(InputError):
            brought(store, "big", tmp_path / "t")
        dies.times = 0
        put("big", b"b" * 3 * PART)
        assert brought(store, "big", tmp_path / "t") == hashlib.sha256(b"b" * 3 * PART).hexdigest()
        assert len(seen(proxy, "GetObject", 5)) == 5


@pytest.mark.parametrize(
    ("size", "operation"), [(1 * MB, "PutObject"), (13 * MB, "UploadPart"), (13 * MB, "Complete*")]
)
def test_an_upload_that_breaks_off_is_sent_again(
    faulty: Opener, tmp_path: Path, size: int, operation: str
) -> None:
    """Half a body, or half a request to put the parts together: the object is whole in the end."""
    data, moved = noise(size), []
    (tmp_path / "s").write_bytes(data)
    cut = CutRequest(100)
    with faulty(Fault(cut, operation, times=2)) as (store, proxy):
        (digest,) = store.upload([Upload(tmp_path / "s", "a")], moved.append)
        assert len(seen(proxy, operation, 2, cut)) == 2
        assert seen(proxy, operation, 1)
        assert digest == hashlib.sha256(data).hexdigest() == brought(store, "a", tmp_path / "t")
    assert sum(moved) == size


def test_an_upload_that_is_begun_anew_is_not_reported_twice(faulty: Opener, tmp_path: Path) -> None:
    """The store forgets the parts: everything is sent again, counted once, digested anew."""
    data, moved = noise(13 * MB), []
    (tmp_path / "s").write_bytes(data)
    with faulty(Fault(Refuse(404, "NoSuchUpload"), "Complete*")) as (store, proxy):
        (digest,) = store.upload([Upload(tmp_path / "s", "a")], moved.append)
        assert len(seen(proxy, "CreateMultipartUpload", 2)) == 2
        assert digest == hashlib.sha256(data).hexdigest() == brought(store, "a", tmp_path / "t")
    assert sum(moved) == len(data)


def test_a_store_that_never_recovers_is_a_store_failure(faulty: Opener, tmp_path: Path) -> None:
    """After every retry: exit code 10, by either client, and the message names the object."""
    with faulty(Fault(SLOW_DOWN, times=None)) as (store, _):
        for ask in (
            lambda: store.read("a"),
            lambda: list(store.entries()),
            lambda: sent(store, "a", b"1", tmp_path),
            lambda: sent(store, "a", noise(PART + 1), tmp_path),
        ):
            with pytest.raises(StoreFailure, match=r"s3://.*: the store asks to slow down") as caught:
                ask()
            assert caught.value.exit_code == 10


# Stops


def test_a_stopped_upload_leaves_nothing_and_says_so(faulty: Opener, tmp_path: Path) -> None:
    """`Interrupted` comes out as such, at once, and the parts that were sent are removed."""
    (tmp_path / "s").write_bytes(noise(60 * MB))
    moved = 0

    def stop(n_bytes: int) -> None:
        nonlocal moved
        moved += n_bytes
        if moved > 20 * MB:
            raise Interrupted("stop")

    with faulty() as (store, _):
        with pytest.raises(Interrupted, match=r"^stop$"):
            store.upload([Upload(tmp_path / "s", "a")], stop)
        assert store.stat("a") is None
    assert moved < 60 * MB


def test_a_stop_is_not_waited_out(faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str) -> None:
    """While a store fails again and again, a stop ends the attempts."""
    healthy(s3_server, s3_prefix)("big", noise(PART + 1))
    with faulty(Fault(SLOW_DOWN, "GetObject", times=None)) as (store, proxy):
        found = store.stat("big")
        assert found is not None

        def stop(n_bytes: int) -> None:
            if proxy.count("GetObject"):
                raise Interrupted("stop")

        with pytest.raises(Interrupted):
            store.download([Download(found, tmp_path / "t")], stop)
        assert proxy.count("GetObject") <= 2 * 9  # the retries of one attempt at each of the two parts


# Stores that lie


@pytest.mark.parametrize(("keep", "stored"), [(None, None), (7, 7)])
def test_an_upload_that_was_not_stored_is_seen_by_looking(
    faulty: Opener, tmp_path: Path, keep: int | None, stored: int | None
) -> None:
    """The answer is 200; stat and read tell what is really there."""
    with faulty(Fault(PretendToStore(keep), "PutObject", times=None)) as (store, _):
        sent(store, "a", b"0123456789", tmp_path)
        found = store.stat("a")
        assert (found.size if found else None) == stored
        with pytest.raises(IntegrityError, match=r"took 19 bytes and gave back [07]") as caught:
            preflight.check(store)
        assert caught.value.exit_code == 4


def test_bytes_that_change_on_the_way_change_the_digest(
    faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str
) -> None:
    """download returns the digest of what arrived, for its caller to compare."""
    data = noise(PART + 5)
    put = healthy(s3_server, s3_prefix)
    put("big", data)
    put("small", data[:1000])
    with faulty(Fault(FlipBit(500), "GetObject", times=None)) as (store, _):
        for key, size in (("big", len(data)), ("small", 1000)):
            digest = brought(store, key, tmp_path / "t")
            assert digest == hashlib.sha256((tmp_path / "t").read_bytes()).hexdigest()
            assert digest != hashlib.sha256(data[:size]).hexdigest()


@pytest.mark.parametrize("size", [10, 13 * MB])
def test_another_version_is_noticed_where_if_match_is_ignored(
    faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str, size: int
) -> None:
    """The version that an answer names is compared, and the download ends."""
    put = healthy(s3_server, s3_prefix)
    put("x", b"a" * size)
    with faulty(Fault(IgnoreConditions(), "GetObject", times=None)) as (store, _):
        old = store.stat("x")
        assert old is not None
        put("x", b"b" * size)
        with pytest.raises(Changed):
            store.download([Download(old, tmp_path / "t")])
        assert not (tmp_path / "t").exists()


# Conditional writes


def lose_answers(times: int) -> None:
    """Send PutObject, and throw away what the server answers."""
    left = [times]
    connections = URLLib3Session()

    def send(request: Any, **_: Any) -> None:
        if left[0]:
            left[0] -= 1
            answer = connections.send(request)
            assert answer.status_code == 200
            raise boto.ConnectionClosedError(endpoint_url=request.url)

    client().meta.events.register("before-send.s3.PutObject", send)


def test_a_create_whose_answer_was_lost_is_known_to_be_ours(faulty: Opener) -> None:
    """The server stored it and boto3's second request found it: create returns the etag of what we wrote."""
    with faulty() as (store, proxy):
        lose_answers(1)
        etag = store.create("lease", b"mine")
        assert [one.status for one in seen(proxy, "PutObject", 2)] == [200, 412]
        assert store.read("lease") == (b"mine", etag)
        with pytest.raises(Changed):
            store.create("lease", b"yours")


def test_a_replace_whose_answer_was_lost_is_known_to_be_ours(faulty: Opener) -> None:
    """As with create; the old version is then nobody's to replace."""
    with faulty() as (store, proxy):
        first = store.write("pointer", b"1")
        lose_answers(1)
        second = store.replace("pointer", b"2", first)
        assert [one.status for one in seen(proxy, "PutObject", 3)] == [200, 200, 412]
        assert store.read("pointer") == (b"2", second)
        with pytest.raises(Changed):
            store.replace("pointer", b"3", first)


def test_a_conflict_that_nobody_won_is_tried_again(faulty: Opener) -> None:
    """409 says that another writer is at it: create and replace find out whether it came to anything."""
    conflict = Refuse(409, "ConditionalRequestConflict")
    with faulty(Fault(conflict, "PutObject", times=2)) as (store, proxy):
        first = store.create("a", b"1")
        proxy.faults.append(Fault(conflict, "PutObject", times=2))
        second = store.replace("a", b"2", first)
        assert store.read("a") == (b"2", second)
        proxy.faults.append(Fault(conflict, "PutObject", times=None))
        with pytest.raises(Changed):
            store.create("b", b"1")


def test_an_unconditional_write_never_finds_changed(faulty: Opener, tmp_path: Path) -> None:
    """409 without a condition is a busy store."""
    with faulty(Fault(Refuse(409, "OperationAborted"), "Put*", times=None)) as (store, _):
        with pytest.raises(StoreFailure):
            store.write("a", b"1")
        with pytest.raises(StoreFailure):
            sent(store, "a", b"1", tmp_path)


def test_a_store_that_ignores_conditions_is_found_out_and_looked_at_first(faulty: Opener) -> None:
    """The preflight says so; without conditions, create and replace look before they write."""
    with faulty(Fault(IgnoreConditions(), "PutObject", times=None), conditional=False) as (store, _):
        assert not preflight.check(S3Store(store.bucket, store.prefix)).conditional_writes
        first = store.create("a", b"1")
        with pytest.raises(Changed):
            store.create("a", b"2")
        second = store.replace("a", b"2", first)
        with pytest.raises(Changed):
            store.replace("a", b"3", first)
        assert store.read("a") == (b"2", second)


def test_a_store_without_conditions_may_say_so(faulty: Opener) -> None:
    """501 NotImplemented to a header counts as not honoured, and the probe is gone."""
    with faulty(Fault(Refuse(501, "NotImplemented"), "PutObject", times=1, skip=1)) as (store, _):
        assert not preflight.check(store).conditional_writes
        assert list(store.entries()) == []


# What every wrong thing is called


def asked(store: S3Store, how: str, tmp_path: Path) -> None:
    match how:
        case "preflight":
            preflight.check(store)
        case "read":
            store.read("there")
        case "stat":
            store.stat("there")
        case "list":
            list(store.entries())
        case "delete":
            store.delete(["there"])
        case "download":
            brought(store, "there", tmp_path / "t")
        case "upload":
            sent(store, "new", b"1", tmp_path)
        case _:
            sent(store, "new", noise(PART + 1), tmp_path)


REFUSALS = {
    "denied": (ACCESS_DENIED, Denied, "access denied", "s3:ListBucket"),
    "clock": (CLOCK_SKEW, Denied, "clock", "NTP"),
    "region": (WRONG_REGION, Denied, "another region", "AWS_REGION"),
    "expired": (Refuse(400, "ExpiredToken"), Denied, "expired", "new credentials"),
    "token": (Refuse(400, "InvalidToken"), Denied, "session token is not valid", "new credentials"),
    "bucket": (Refuse(404, "NoSuchBucket"), Missing, "no such bucket", "check its name"),
    "lacking": (Refuse(501, "NotImplemented"), InputError, "cannot do", "doctor"),
    "strange": (Refuse(400, "Strange"), InputError, r"refuses the request \(Strange\)", "doctor"),
    "broken": (INTERNAL_ERROR, StoreFailure, "failed in spite of every retry", "look at its log"),
    "late": (Refuse(400, "RequestTimeout"), StoreFailure, "failed in spite of every retry", "again"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_has_the_same_name_wherever_it_comes(faulty: Opener, tmp_path: Path, name: str) -> None:
    """Class, message with the URI, and advice do not depend on which client met it."""
    effect, kind, message, advice = REFUSALS[name]
    with faulty(Fault(effect, times=None)) as (store, _):
        # Without a body a 404 may be of an object too, and a 501 is a store that fails.
        stat = () if name in ("bucket", "lacking") else ("stat",)
        for how in ("preflight", "read", *stat, "list", "delete", "upload", "large upload"):
            with pytest.raises(kind, match=rf"^s3://{store.bucket}/?{store.prefix}.*{message}") as caught:
                asked(store, how, tmp_path)
            assert type(caught.value) is kind, how
            assert advice in caught.value.advice, how


def test_a_refusal_in_the_middle_is_denied_and_never_an_absence(
    faulty: Opener, tmp_path: Path, s3_server: Server, s3_prefix: str
) -> None:
    """403 after the listing, after the first part, or to a HEAD, whose answers have no body."""
    healthy(s3_server, s3_prefix)("big", noise(4 * PART))
    with faulty(Fault(ACCESS_DENIED, "GetObject", times=None, skip=2)) as (store, proxy):
        found = store.stat("big")
        assert found is not None
        with pytest.raises(Denied, match=r"/big: access denied"):
            store.download([Download(found, tmp_path / "t")])
        proxy.faults[:] = [Fault(ACCESS_DENIED, "UploadPart", times=None, skip=1)]
        with pytest.raises(Denied, match=r"/new: access denied"):
            sent(store, "new", noise(4 * PART), tmp_path)
        proxy.faults[:] = [Fault(ACCESS_DENIED, times=None)]
        with pytest.raises(Denied, match=r"/big: access denied"):
            store.stat("big")
        for write in (lambda: store.create("a", b"1"), lambda: store.replace("a", b"1", "etag")):
            with pytest.raises(Denied):
                write()


def test_a_key_cannot_give_a_refusal_another_name(faulty: Opener, tmp_path: Path) -> None:
    """An object may be called like an error."""
    key = "404 Not Found/<Code>NoSuchKey<_Code>/<Code>NoSuchKey"
    (tmp_path / "s").write_bytes(b"1")
    with faulty(Fault(ACCESS_DENIED, "PutObject", times=None)) as (store, _), pytest.raises(Denied):
        store.upload([Upload(tmp_path / "s", key)])


def test_no_right_to_write_or_to_delete_is_found_before_anything_slow(faulty: Opener) -> None:
    """The preflight names the probe that it could not write, or could not delete."""
    for operation in ("PutObject", "DeleteObjects"):
        with faulty(Fault(ACCESS_DENIED, operation, times=None)) as (store, _):
            with pytest.raises(Denied, match=r"s3://.*/\.probe/\w+: access denied") as caught:
                preflight.check(store)
            assert "s3:PutObject" in caught.value.advice


def test_what_cannot_be_deleted_is_named(faulty: Opener) -> None:
    """DeleteObjects answers 200 with errors inside; one of the store's own is worth another try."""
    with faulty() as (store, _):

        def answer(code: str) -> Callable[..., None]:
            def change(parsed: dict[str, Any], **_: Any) -> None:
                parsed["Errors"] = [{"Key": f"{store.prefix}/a", "Code": code}]

            return change

        for code, kind in (("AccessDenied", Denied), ("InternalError", StoreFailure)):
            changed = answer(code)
            client().meta.events.register("after-call.s3.DeleteObjects", changed)
            with pytest.raises(kind, match=f"^s3://{store.bucket}/{store.prefix}/a: "):
                store.delete(["a", "b"])
            client().meta.events.unregister("after-call.s3.DeleteObjects", changed)
        client().meta.events.register("after-call.s3.DeleteObjects", answer("NoSuchKey"))
        store.delete(["a"])


# Set-ups that are wrong


@pytest.fixture
def untrusted(tmp_path: Path) -> Authority:
    return make_authority(tmp_path)


@pytest.fixture
def wrong(
    request: pytest.FixtureRequest, s3_server: Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Store]:
    """A store that is set up wrongly."""
    place, prefix = split_s3(s3_prefix)
    with open_proxy(s3_server) as proxy:
        match request.param:
            case "wrong key":
                monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACANARY0000000001")
            case "wrong secret":
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary/secret/0123456789")
            case "missing bucket":
                place = "no-such-bucket"
            case "refused connection":
                with socket.create_server((HOST, 0)) as free:
                    port = free.getsockname()[1]
                monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://someone:canary-password@{HOST}:{port}")
            case "no credentials":
                monkeypatch.delenv("AWS_ACCESS_KEY_ID")
                monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            case "half of the credentials":
                monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            case "no such profile":
                monkeypatch.setenv("AWS_PROFILE", "nobody")
            case "no URL":
                monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "localhost:8333")
            case "no port":
                monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:canary")
            case "no bundle":
                monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/file.pem")
            case "untrusted certificate":
                authority: Authority = request.getfixturevalue("untrusted")
                proxy.socket = authority.context.wrap_socket(proxy.socket, server_side=True)
                monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://{HOST}:{proxy.server_port}")
        s3_client.forget()
        yield S3Store(place, prefix)
    s3_client.forget()


SET_UPS = {
    "wrong key": (Denied, "does not know the access key", "AWS_ACCESS_KEY_ID"),
    "wrong secret": (Denied, "secret key does not fit", "AWS_SECRET_ACCESS_KEY"),
    "missing bucket": (Missing, "no such bucket", "check its name"),
    "refused connection": (StoreFailure, "cannot be reached", f"http://{HOST}:"),
    "no credentials": (Denied, "no credentials", "AWS_PROFILE"),
    "half of the credentials": (Denied, "no credentials", "AWS_SECRET_ACCESS_KEY"),
    "no such profile": (Denied, "credentials could not be had", "profile"),
    "no URL": (InputError, "endpoint of the store is no URL", "http://HOST:PORT"),
    "no port": (InputError, "endpoint of the store is no URL", "http://HOST:PORT"),
    "no bundle": (InputError, "there is no file /no/such/file.pem of trusted certificates", "AWS_CA_BUNDLE"),
    "untrusted certificate": (Denied, "certificate of https://.* is not trusted", "AWS_CA_BUNDLE"),
}


@pytest.mark.parametrize(("wrong", "name"), [(name, name) for name in SET_UPS], indirect=["wrong"])
def test_a_wrong_set_up_is_called_by_its_name(
    wrong: S3Store, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Class, exit code, URI and advice, by whichever client; no credential anywhere, not in a traceback."""
    caplog.set_level(logging.INFO)
    kind, message, advice = SET_UPS[name]
    for how in ("preflight", "read", "upload"):
        with pytest.raises(kind, match=rf"^s3://{wrong.bucket}/?{wrong.prefix}.*{message}") as caught:
            asked(wrong, how, tmp_path)
        assert type(caught.value) is kind, how
        assert advice in caught.value.advice, how
        told = "".join(traceback.format_exception(caught.value)) + caught.value.advice + caplog.text
        for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert os.environ.get(secret, "(none)") not in told, how
        assert "canary-password" not in told, how
        assert "Authorization" not in told, how


@pytest.mark.parametrize(
    ("wrong", "name"), [(name, name) for name in ("wrong key", "wrong secret")], indirect=["wrong"]
)
def test_a_refused_head_is_explained_by_a_get(wrong: S3Store, name: str) -> None:
    """Its own answer has no body that would tell the credentials from their rights."""
    kind, message, advice = SET_UPS[name]
    with pytest.raises(kind, match=message) as caught:
        wrong.stat("there")
    assert advice in caught.value.advice


def test_a_refused_head_stays_one_where_a_get_is_not(
    faulty: Opener, s3_server: Server, s3_prefix: str
) -> None:
    """What no second question explains is still no absence."""
    healthy(s3_server, s3_prefix)("a", b"1")
    with (
        faulty(Fault(ACCESS_DENIED, "HeadObject", times=None)) as (store, _),
        pytest.raises(Denied, match=r"/a: access denied \(403\)"),
    ):
        store.stat("a")
