"""Secrets are found by their look, and by what this process was given."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.spec.secrets import find, holds_secret, known, names_secret, redact, redacted

GIVEN = 'wJalr/K7MD+bPxRfi "quoted" EXAMPLEKEY'
SIGNED = "X-Amz-Credential=AKIAABCDEFGHIJKLMNOP%2F2026&X-Amz-Signature=0abc"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@host/x", "https://***@host/x"),
        ("https://host/x?X-Amz-Signature=abc&b=1#f", "https://host/x?***"),
        (f"<Resource>/b/k?{SIGNED}</Resource>", "<Resource>/b/k?***</Resource>"),
        ("X-Amz-Security-Token=abc, X-Amz-Signature=abc", "X-Amz-Security-Token=***, X-Amz-Signature=***"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=A/2/s3, Signature=0abc", "Authorization: ***"),
        ("'authorization': 'Bearer abcdef'\nnext", "'authorization': ***\nnext"),
        ("key AKIAABCDEFGHIJKLMNOP ends", "key *** ends"),
        ("token hf_abcdefghijklmnopqrstuvwxyz1234 ends", "token *** ends"),
        ("aws_secret_access_key='abc' ends", "aws_secret_access_key='***' ends"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJl.c2lnbmF0dXJl!", "***!"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nab\n-----END RSA PRIVATE KEY-----\nb", "a\n***\nb"),
        ("https://" + "a" * 2000 + ":b@host", "https://***@host"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_nothing_beside_it(text: str, shown: str) -> None:
    """Users, passwords, signatures and keys go; the place or the sentence that they stood in stays."""
    assert redact(text) == shown
    assert holds_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key",
        "https://host/x?page=2",
        "user@example.org",
        "data/hf_dataset_of_the_clinic/images@2x.png",
        "is this the token? No.",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the Pod a role",
        "0" * 64,
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Places, digests, advice and questions are what the lines are for."""
    assert redact(text) == text
    assert not holds_secret(text)


def test_what_the_process_was_given_is_hidden_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, as a URL or JSON writes it, within a text, a key, a path or an error."""
    monkeypatch.setenv("STORE_SECRET", f" {GIVEN}\n")
    assert redact(f"got {GIVEN}.") == "got ***."
    assert redact("x=wJalr%2FK7MD%2BbPxRfi%20%22quoted%22%20EXAMPLEKEY") == "x=***"
    assert redact('{"a": "wJalr/K7MD+bPxRfi \\"quoted\\" EXAMPLEKEY"}') == '{"a": "***"}'
    nested = {GIVEN: [GIVEN, 1, None, (Path("/x") / GIVEN,)], "e": ValueError(f"no {GIVEN}")}
    assert redacted(nested) == {"***": ["***", 1, None, ["/x/***"]], "e": "no ***"}


def test_passwords_of_proxies_and_places_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, and with their user; a proxy may lack its scheme."""
    monkeypatch.setenv("HTTPS_PROXY", "me:canary-proxy@proxy.example:3128")
    monkeypatch.setenv("DATABASE_URL", "postgres://me:canary-database@host/x")
    assert {"canary-proxy", "me:canary-proxy", "canary-database"} <= known()
    assert redact("407 for canary-proxy") == "407 for ***"


def test_places_of_secrets_and_short_words_may_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is to mend a missing token file needs its path; `false` and `admin` are words."""
    file = tmp_path / "credentials.json"
    file.write_text("{}")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert not known() & {"/var/run/secrets/token", str(file), "false"}


def test_a_short_key_is_hidden_but_refuses_no_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket may be called like the user of a small store."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "job-runner")
    assert redact("s3://job-runner-data") == "s3://***-data"
    assert not holds_secret("s3://job-runner-data")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sixteen-letters!")
    assert holds_secret("x/sixteen-letters!/y")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "hf_token", "api-key", "PGPASSWORD", "accountKey"])
def test_names_of_secrets_are_known(name: str) -> None:
    """Under whatever spelling."""
    assert names_secret(name)


@settings(deadline=None)
@given(st.text(alphabet="a@:/?&=.-_ \nsigeyJ", max_size=200))
def test_redaction_is_stable(text: str) -> None:
    """What was redacted once does not change again, so that channels may redact twice."""
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "part", ["?", "://", "@a", "eyJ-", "eyJabcdefgh.", "sk-", "-----BEGIN ", "signature=", "authorization "]
)
def test_redaction_takes_time_in_proportion(part: str) -> None:
    """A text of another party must not hold the job up: 200 kB in well under a second."""
    text = "://" + part * (200_000 // len(part))
    started = time.perf_counter()
    redact(text)
    assert time.perf_counter() - started < 2.0


def test_a_document_tells_where_its_secrets_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """In texts and in keys, however deep; under a key that holds one, too."""
    monkeypatch.setenv("HF_TOKEN", "canary-canary-canary")
    document = {
        "data": {"uri": "https://me:hunter2@host/x", "width": 8},
        "actions": {"prompts": ["fine", "say canary-canary-canary"]},
        "hf_abcdefghijklmnopqrst": 1,
    }
    assert list(find(document)) == [("hf_abcdefghijklmnopqrst",), ("data", "uri"), ("actions", "prompts", 1)]
