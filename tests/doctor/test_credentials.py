"""Who this process is, told without a secret."""

from pathlib import Path

import pytest

from job.doctor import credentials
from job.doctor.findings import to_text
from job.errors import Denied

KEY, SECRET, TOKEN = "CANARYKEYID0123456789", "canary-secret-value", "canary-token-value"


def test_the_environments_credentials_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider and the last letters of the key's id are told, nothing of the secret or the token."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    text = to_text([*credentials.credentials(), *credentials.environment()])
    assert "from the environment: access key ***6789, temporary" in text
    assert "AWS_SECRET_ACCESS_KEY is set" in text
    assert not any(secret in text for secret in (KEY, SECRET, TOKEN))
    assert {KEY, SECRET, TOKEN} <= credentials.secrets(ask_chain=False)


def test_a_short_key_is_masked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a short one would be most of it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "admin")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (found,) = credentials.credentials()
    assert found.what == "from the environment: access key ***"


def test_the_files_credentials_are_known_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where boto3's chain finds them elsewhere, they are hidden too."""
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    (found,) = credentials.credentials()
    assert found.what == "from the credentials file: access key ***6789"
    assert SECRET in credentials.secrets(ask_chain=True)
    assert SECRET not in credentials.secrets(ask_chain=False)


def test_none_is_an_error_with_advice() -> None:
    """The ways to give some are named."""
    (found,) = credentials.credentials()
    assert found.severity == "error"
    assert "AWS_ACCESS_KEY_ID" in found.advice


def test_half_a_pair_and_an_unknown_profile_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3's chain stumbles over is an error of the user's world."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    with pytest.raises(Denied):
        list(credentials.credentials())
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "surely-not-there")
    with pytest.raises(Denied, match="credentials"):
        list(credentials.credentials())
    assert credentials.secrets(ask_chain=True) == set()


def test_passwords_within_settings_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints and proxies may hold some, with or without a scheme."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://me:canary-endpoint@store.example:9000")
    monkeypatch.setenv("HTTPS_PROXY", "me:canary-proxy@proxy.example:3128")
    (found,) = credentials.environment()
    assert "AWS_ENDPOINT_URL_S3=https://***@store.example:9000" in found.what
    assert "HTTPS_PROXY=***@proxy.example:3128" in found.what
    assert "canary" not in found.what
    assert "me:canary-endpoint" in credentials.secrets(ask_chain=False)


def test_an_endpoint_without_a_scheme_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 takes no bare host."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "store.example:9000")
    _, found = credentials.environment()
    assert found.severity == "error"
    assert "http://HOST:PORT" in found.advice
