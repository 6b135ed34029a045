"""The client that carries bulk data: obstore, whose loops run outside of Python.

On objects of 50 KB it takes a sixth of boto3's processor time, and its memory does not grow with an object's
size. It reads variables of its own unless told otherwise, so it is told everything: boto3's endpoint, region,
credentials, certificates and proxy (docs/decisions/0011-obstore-for-bulk.md).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import botocore.session
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, SSLError
from botocore.httpsession import ProxyConfiguration
from botocore.utils import get_environ_proxies
from obstore import exceptions as bulk
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from job.errors import InputError, JobError, Missing, StoreFailure
from job.storage import s3_client
from job.storage.s3_client import authorities, is_aws, pause, place_of, session, translated
from job.storage.s3_piece import BrokenBody, Place, open_bucket
from job.storage.store import Advance, Changed

if TYPE_CHECKING:
    from obstore.store import S3Credential

ATTEMPTS = 4
"""Of what obstore has tried again so often that it gave up."""
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"returned non-2xx status code: (\d{3})\b")
_REDIRECTED = "Received redirect without LOCATION"

T = TypeVar("T")


@dataclass(frozen=True)
class Bulk:
    """A bucket's client, and what another process needs to make one like it."""

    place: Place
    credentials: "Callable[[], S3Credential]"
    client: S3Store


def bucket_client(bucket: str) -> S3Store:
    """Return the process's bulk client of a bucket; to be called where errors are `explained`."""
    return bulk_of(bucket).client


def bulk_of(bucket: str) -> Bulk:
    """Return that client with how it was made; to be called where errors are `explained`."""
    return _made(bucket, session())


def persistently(what: str, move: Callable[[], T], advance: Advance) -> T:
    """Move some bytes of the object `what`; tries again what may succeed, and raises our errors.

    `move` must not open files: an absence on this machine would be taken for one in the store.
    """
    for attempt in range(ATTEMPTS):
        advance(0)  # a stop is not waited out
        try:
            return move()
        except (bulk.BaseError, FileNotFoundError, BrokenBody) as error:
            meaning = _meaning(error, what)
            if not isinstance(meaning, StoreFailure) or attempt == ATTEMPTS - 1:
                raise meaning from None  # its text quotes the answer, where stores repeat the access key
            pause(attempt)
    raise AssertionError("unreachable")


@lru_cache(maxsize=16)
def _made(bucket: str, session: botocore.session.Session) -> Bulk:
    endpoint, region = place_of(bucket)
    if session.get_credentials() is None:
        raise NoCredentialsError
    # The certificate of AWS is for hosts one below its own.
    by_host = is_aws(endpoint) and "." not in bucket
    place = Place(
        bucket,
        endpoint=endpoint.replace("://", f"://{bucket}.", 1) if by_host else endpoint,
        by_host=by_host,
        region=region,
        connections=_connections(endpoint),
        certificates=None if endpoint.startswith("http://") else str(authorities()),
        first_pause_s=s3_client.FIRST_PAUSE_S,
    )
    # boto3 renews what has ten minutes left, so that nothing ends within these five.
    credentials = Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
    return Bulk(place, credentials, open_bucket(place, credentials))


def _connections(endpoint: str) -> Any:
    options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": "10s",
        "read_timeout": "60s",
        "timeout": "1h",
    }
    if not getproxies():
        return options
    proxies = get_environ_proxies(endpoint)
    if urlsplit(endpoint).scheme in proxies:
        return options | {"proxy_url": ProxyConfiguration(proxies).proxy_url_for(endpoint)}
    # Left alone it would look for a proxy itself, and read NO_PROXY in a way of its own.
    return options | {"proxy_url": endpoint, "proxy_excludes": urlsplit(endpoint).hostname}


def _meaning(error: Exception, what: str) -> JobError | Changed:
    text = str(error)  # holds the answer's body; never shown, for it is long and quotes the request
    status = _STATUS.search(text)
    code = _CODE.search(
        text, status.end() if status else 0
    )  # before it stands the key, which may be anything
    if code or status or _REDIRECTED in text:
        answer: Any = {
            "Error": {"Code": code[1] if code else ""},
            "ResponseMetadata": {"HTTPStatusCode": int(status[1]) if status else 0 if code else 301},
        }
        return translated(ClientError(answer, "transfer"), what)
    if "InvalidCertificate" in text:
        return translated(SSLError(endpoint_url="", error=error), what)
    if "kind: Connect," in text:
        return translated(EndpointConnectionError(endpoint_url=""), what)
    if isinstance(error, FileNotFoundError):
        return Missing(f"{what}: does not exist", advice="check the place, and its upper and lower case")
    if isinstance(error, bulk.InvalidPathError):
        return InputError(f"{what}: no object can be called so", advice="rename it: one / between its parts")
    return StoreFailure(
        f"{what}: the transfer failed in spite of every retry ({type(error).__name__})",
        advice="check that the store can be reached, then run the same command: what has arrived is kept",
    )
