"""The one boto3 client of a process: how it is set up, and what its errors mean to a user.

Credentials come from boto3's own chain and are refreshed by the session that holds them: it lives as long as
the process, and nothing here ever reads or stores a key.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore import exceptions as boto
from botocore.config import Config
from botocore.httpsession import get_cert_path

from job.errors import Denied, InputError, JobError, Missing, StoreFailure
from job.storage.s3_listing import parse_time, read_objects
from job.storage.store import Changed

CONNECTIONS = 64
BUSY = 503
FIRST_PAUSE_S = 0.2
"""Before whatever failed is tried again; every further pause is twice as long."""
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")


@lru_cache(maxsize=1)
def session() -> botocore.session.Session:
    """Return the process's session: it holds the credentials, and renews those that end."""
    made = botocore.session.Session()
    # Of a listing, most of the time would go into times of any format.
    made.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    return made


@lru_cache(maxsize=1)
def client() -> Any:
    """Return the process's S3 client; to be called where errors are `explained`."""
    bundle = authorities()
    if not bundle.is_file():
        raise _NoBundle(path=bundle)
    made = _made_client(_config())
    if not _has_a_port_or_none(made.meta.endpoint_url):
        raise ValueError("Invalid endpoint")  # as boto3 says of what else is none
    if is_aws(made.meta.endpoint_url):
        return made
    # Other stores: buckets in the path (names of buckets are no hosts there), and no checksums that only
    # AWS knows; our own sha256 says whether what came back is what was sent.
    theirs = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return _made_client(_config().merge(theirs))


def place_of(bucket: str) -> tuple[str, str]:
    """Return the URL of the store that has a bucket, and the region that requests for it are signed for."""
    url = str(client().meta.endpoint_url)
    if not is_aws(url):
        return url, _region()
    try:
        answer = client().head_bucket(Bucket=bucket)
    except boto.ClientError as error:
        answer = error.response  # it tells the region of a bucket even to those who may not look at it
        if "x-amz-bucket-region" not in answer["ResponseMetadata"].get("HTTPHeaders", {}):
            raise
    region = str(answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region") or _region())
    return str(_made_client(_config(), region).meta.endpoint_url), region


def is_aws(url: str) -> bool:
    """Return whether a URL is one of AWS, where buckets have hosts of their own."""
    return (urlsplit(url).hostname or "").endswith(_AWS_HOSTS)


def authorities() -> Path:
    """Return the file of the certificates that boto3 trusts: AWS_CA_BUNDLE, a profile's, or its own."""
    named: str | None = session().get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return Path(named or str(get_cert_path(True)))


def forget() -> None:
    """Make the next call read the environment again: for tests, whose servers come and go."""
    session.cache_clear()
    client.cache_clear()


def pause(attempt: int) -> None:
    """Wait before attempt number `attempt` + 2 (they count from 1)."""
    time.sleep(FIRST_PAUSE_S * 2**attempt)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn boto3's errors within the block into ours; `what` is the URI that they are about."""
    try:
        yield
    except (boto.BotoCoreError, boto.ClientError, boto.HTTPClientError) as error:
        raise translated(error, what) from None  # it may quote the endpoint, with a password
    except ValueError as error:
        if "endpoint" not in str(error):
            raise
        raise InputError(
            f"{what}: the endpoint of the store is no URL",
            advice="write AWS_ENDPOINT_URL_S3 as http://HOST:PORT or https://HOST, and none for AWS",
        ) from None


def translated(error: Exception, what: str) -> JobError | Changed:
    """Return what an error of boto3 means for `what`, with advice; never a header or a key."""
    if isinstance(error, boto.ClientError):
        return _answered(error, what)
    for kinds, make in _UNANSWERED:
        if isinstance(error, kinds):
            return make(what, error)
    return StoreFailure(
        f"{what}: the store cannot be reached ({type(error).__name__})",
        advice=f"check that {_shown_endpoint()} is up and reachable from here, then run the same command",
    )


def status_and_code(error: boto.ClientError) -> tuple[int, str]:
    """Return the HTTP status and the S3 error code of an answer."""
    answer: Any = error.response
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status, str(answer.get("Error", {}).get("Code", ""))


def _config() -> Config:
    return Config(
        retries={"mode": "standard", "max_attempts": 8},
        max_pool_connections=CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        tcp_keepalive=True,
        user_agent_extra="segmenter-rl-job",
    )


class _NoBundle(boto.BotoCoreError):
    fmt = "{path}"


def _made_client(config: Config, region: str | None = None) -> Any:
    made = session().create_client("s3", config=config, region_name=region or _region())
    made.meta.events.register("before-parse.s3.ListObjectsV2", read_objects)
    return made


def _region() -> str:
    # boto3 reads AWS_DEFAULT_REGION alone, every other SDK AWS_REGION.
    configured: str | None = session().get_config_variable("region")
    return configured or os.environ.get("AWS_REGION") or "us-east-1"


def _has_a_port_or_none(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _shown_endpoint() -> str:
    with suppress(Exception):  # it may be the client itself that could not be made
        url = str(client().meta.endpoint_url)
        parts = urlsplit(url)  # of which a user's name and password are not shown
        shown = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        return "AWS S3" if is_aws(url) else shown
    return "the store"


def _answered(error: boto.ClientError, what: str) -> JobError | Changed:
    status, code = status_and_code(error)
    if status == 412:
        return Changed(what)
    if code in _CODES:
        make, message, advice = _CODES[code]
        return make(f"{what}: {message}", advice=advice.format(endpoint=_shown_endpoint()))
    if status == 404:
        return Missing(f"{what}: does not exist", advice="check the place, and its upper and lower case")
    if status in (401, 403):
        advice = (
            f"{_KEYS.format(endpoint=_shown_endpoint())}; {_RIGHTS}"  # the answer does not say which it is
        )
        return Denied(f"{what}: access denied ({code or status})", advice=advice)
    if status in (301, 307):
        return Denied(f"{what}: the bucket is in another region", advice=_REGION)
    if status >= 500 or status in (408, 409, 429) or code in _TRANSIENT:
        advice = "run the same command again later: finished work is taken over"
        if status >= 500 and status != BUSY:
            advice = (
                "something is wrong with the store itself: look at its log and its disks, and at what"
                f" `python -m job doctor` says of it; then {advice.replace(' later', '')}"
            )
        return StoreFailure(
            f"{what}: the store failed in spite of every retry ({code or status})", advice=advice
        )
    return InputError(
        f"{what}: the store refuses the request ({code or status})",
        advice="`python -m job doctor` examines the store; its own documentation explains the code",
    )


_TRANSIENT = (
    "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException", "OperationAborted",
    "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException",
    "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch",
)  # fmt: skip
"""Codes that come with status 400 or 200 too: what AWS says to try again, and bytes lost on the way."""

_REGION = "set AWS_REGION to the region of the bucket"
_KEYS = (
    "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the Pod's role),"
    " and that they are those of {endpoint}"
)
_RIGHTS = (
    "the job needs s3:ListBucket on the bucket, s3:GetObject on its inputs, and s3:PutObject and"
    " s3:DeleteObject too below output.uri (docs/storage.md)"
)
_RENEW = "get new credentials: temporary ones end after a while"

_CODES: dict[str, tuple[Callable[..., JobError], str, str]] = {
    "NoSuchBucket": (Missing, "there is no such bucket", "create it, or check its name and {endpoint}"),
    "NoSuchKey": (Missing, "does not exist", "check the place, and its upper and lower case"),
    "InvalidAccessKeyId": (Denied, "the store does not know the access key", _KEYS),
    "SignatureDoesNotMatch": (Denied, "the secret key does not fit the access key", _KEYS),
    "ExpiredToken": (Denied, "the credentials have expired", _RENEW),
    "ExpiredTokenException": (Denied, "the credentials have expired", _RENEW),
    "InvalidToken": (Denied, "the session token is not valid", _RENEW),
    "AccessDenied": (
        Denied,
        "access denied",
        f"the credentials are known, but may not do this: {_RIGHTS}",
    ),
    "RequestTimeTooSkewed": (
        Denied,
        "the clock of this machine and the store's differ by too much",
        "set the clock of this machine (NTP)",
    ),
    "AuthorizationHeaderMalformed": (Denied, "the request was signed for another region", _REGION),
    "PermanentRedirect": (Denied, "the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": (Denied, "the bucket is in another region", _REGION),
    "NotImplemented": (
        InputError,
        "the store cannot do what was asked of it",
        "the store lacks a part of the S3 API that the job needs (`python -m job doctor` says more)",
    ),
    "NoSuchUpload": (
        StoreFailure,
        "the store has lost the parts of an upload",
        "run the same command again; a rule of the bucket may remove unfinished uploads too early",
    ),
    "SlowDown": (
        StoreFailure,
        "the store asks to slow down, in spite of every retry",
        "run the same command again later: finished work is taken over",
    ),
}


def _no_credentials(what: str, error: Exception) -> JobError:
    return Denied(
        f"{what}: there are no credentials",
        advice="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the Pod a role",
    )


def _bad_credentials(what: str, error: Exception) -> JobError:
    return Denied(
        f"{what}: the credentials could not be had ({type(error).__name__})",
        advice="check the profile, or log in again",
    )


def _bad_tls(what: str, error: Exception) -> JobError:
    return Denied(
        f"{what}: the certificate of {_shown_endpoint()} is not trusted",
        advice="set AWS_CA_BUNDLE to the file of its authority, or http:// in the endpoint if it has no TLS",
    )


def _no_bundle(what: str, error: Exception) -> JobError:
    return InputError(
        f"{what}: there is no file {error} of trusted certificates",
        advice="set AWS_CA_BUNDLE to the file of the authorities, or unset it",
    )


def _bad_name(what: str, error: Exception) -> JobError:
    return InputError(f"{what}: no store would take this name", advice="check bucket and key")


_UNANSWERED: tuple[tuple[Any, Callable[[str, Exception], JobError]], ...] = (
    ((boto.NoCredentialsError, boto.PartialCredentialsError), _no_credentials),
    (
        (
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
            boto.UnauthorizedSSOTokenError,
            boto.ProfileNotFound,
            boto.ConfigNotFound,
        ),
        _bad_credentials,
    ),
    ((boto.SSLError,), _bad_tls),
    ((_NoBundle,), _no_bundle),
    ((boto.ParamValidationError,), _bad_name),
)
