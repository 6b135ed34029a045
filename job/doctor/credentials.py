"""Who this process is to a store, and which settings steer it: told without a secret."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from job.doctor.findings import Finding
from job.spec.secrets import HIDDEN, SHORTEST, known, redact

STEERING = (
    "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE",
    "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN", "AWS_CA_BUNDLE", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "JOB_CACHE_DIR", "JOB_RUN_ID", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
)  # fmt: skip
"""Variables whose value is shown; of those that hold a secret only the name is."""
SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

PROVIDERS = {
    "env": "from the environment",
    "shared-credentials-file": "from the credentials file",
    "config-file": "from the configuration file",
    "assume-role": "of an assumed role",
    "assume-role-with-web-identity": "of the Pod's role (web identity)",
    "container-role": "of the container's role",
    "iam-role": "of the machine's role",
    "sso": "from a login (SSO)",
    "custom-process": "from a process that the configuration names",
}
"""boto3's names of where it found credentials."""

SHOWN = 4

_USER_INFO = re.compile(r"[^/\s]*@")


def environment() -> Iterator[Finding]:
    """Tell the variables that steer stores, caches and devices, and which of those with secrets are set."""
    shown = [f"{name}={_shown(value)}" for name in STEERING if (value := _variable(name))]
    shown += [f"{name} is set" for name in SECRET if os.environ.get(name)]
    yield Finding("ok", "environment", ", ".join(shown) or "no variable steers stores or devices")
    for name in STEERING[:2]:
        endpoint = os.environ.get(name, "")
        if endpoint and not endpoint.startswith(("http://", "https://")):
            advice = "write it as http://HOST:PORT or https://HOST"
            yield Finding("error", "environment", f"{name} is no URL: {_shown(endpoint)}", advice)


def credentials() -> Iterator[Finding]:
    """Tell which credentials boto3's chain finds; raises `Denied` where it stumbles."""
    found = _from_chain()
    if found is None:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the Pod a role"
        yield Finding("error", "credentials", "there are none, and a place is in a store", advice)
        return
    where = PROVIDERS.get(found.provider, f"from {found.provider}")
    temporary = ", temporary" if found.token else ""
    yield Finding("ok", "credentials", f"{where}: access key {_masked(found.access_key)}{temporary}")


def secrets(*, ask_chain: bool) -> set[str]:
    """Return what a finding must not repeat: secrets of the environment and, if asked, of boto3's chain."""
    values = known()
    if ask_chain:
        with suppress(Exception):  # whatever is wrong with them has been said, and then there is none to hide
            found = _from_chain()
            values |= {found.access_key, found.secret_key, found.token} if found is not None else set()
    return {value for value in values if len(value) >= SHORTEST}


@dataclass(frozen=True)
class _Keys:
    provider: str
    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(repr=False)


def _from_chain() -> _Keys | None:
    import boto3

    from job.storage.s3_client import explained

    with explained("credentials"):
        found = boto3.session.Session().get_credentials()
        if found is None:
            return None
        keys = found.get_frozen_credentials()
        return _Keys(found.method, keys.access_key or "", keys.secret_key or "", keys.token or "")


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.lower(), "")


def _shown(value: str) -> str:
    # A proxy may be written without a scheme, which leaves redact no URI to find a password in.
    return redact(_USER_INFO.sub(f"{HIDDEN}@", value))


def _masked(key: str) -> str:
    return HIDDEN + key[-SHOWN:] if len(key) >= 3 * SHOWN else HIDDEN
