"""The client that carries bulk data: obstore, whose loops run outside of Python.

On objects of 50 KB it takes a sixth of boto3's processor time, and its memory does not grow with an object's
size. It reads variables of its own unless told otherwise, so it is told everything: boto3's endpoint, region,
credentials, certificates and proxy (docs/decisions/0011-obstore-for-bulk.md).
"""

import re
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar
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
from job.storage.store import Advance, Changed

ATTEMPTS = 4
"""Of what obstore has tried again so often that it gave up."""
RETRIES = 8
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"returned non-2xx status code: (\d{3})\b")
_REDIRECTED = "Received redirect without LOCATION"

T = TypeVar("T")


def bucket_client(bucket: str) -> S3Store:
    """Return the process's bulk client of a bucket; to be called where errors are `explained`."""
    return _made(bucket, session())


class BrokenBody(Exception):
    """A body ended before, or went on after, the length that the store had promised."""


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
def _made(bucket: str, session: botocore.session.Session) -> S3Store:
    endpoint, region = place_of(bucket)
    if session.get_credentials() is None:
        raise NoCredentialsError
    # boto3 renews what has ten minutes left, so that nothing ends within these five.
    credentials = Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
    # The certificate of AWS is for hosts one below its own.
    by_host = is_aws(endpoint) and "." not in bucket
    return S3Store(
        bucket,
        endpoint=endpoint.replace("://", f"://{bucket}.", 1) if by_host else endpoint,
        virtual_hosted_style_request=by_host,
        region=region,
        credential_provider=credentials,
        skip_signature=False,
        s3_express=False,
        request_payer=False,
        unsigned_payload=True,  # what was written is read back where it matters
        client_options=_connections(endpoint),
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(minutes=2),
            "backoff": {
                "init_backoff": timedelta(seconds=s3_client.FIRST_PAUSE_S),
                "max_backoff": timedelta(seconds=20),
                "base": 2,
            },
        },
    )


def _connections(endpoint: str) -> Any:
    options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": "10s",
        "read_timeout": "60s",
        "timeout": "1h",
    }
    if not options["allow_http"]:
        options["root_certificate"] = authorities().read_bytes()
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
