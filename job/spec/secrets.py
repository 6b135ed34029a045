"""Secrets, by their look, by the name that they stand under, and those that this process was given.

Credentials reach the job through its environment alone. Texts of others (an error of a library, a document of
a store, a command line) may repeat them all the same, so that whatever is written passes through `redact`.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 8
"""A shorter one could be any word: hiding it would spoil the text and hide nothing."""
SHORTEST_SURE = 16
"""A spec is refused for one of this length or more: a bucket may well be called like a short key."""

_NAME = re.compile(
    r"passw|secret|token|credential|signature|(?:access|api|private|account)[_-]?key", re.IGNORECASE
)
_PLACE = re.compile(r"_(?:FILE|PATH|DIR|HOME|URI|URL)S?$", re.IGNORECASE)
"""How variables end that name where a secret is: that may be told."""
_LOOKS = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}"  # AWS
    r"|\b(?:hf|gh[opsur])_[0-9A-Za-z]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"  # hubs of models and code
    r"|\bsk_(?:live|test)_\w{8,}|\bsk-(?:proj-|ant-)?[0-9A-Za-z]{16,}[\w-]*"
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # a JSON web token, as Kubernetes gives to Pods
    r"|-----BEGIN [\s\S]*?(?:-----END [^-\n]*-----|\Z)"
)
_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*@")
_SIGNED = re.compile(r"(AWS4-HMAC-SHA256[ ,]|authorization[\"']?\s*[:=]\s*)[^\r\n<]+", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:signature|credential|security-token|secret_?access_?key|session_?token|passwo?r?d)[\"']?=[\"']?)"
    r"[^\s&\"',;<>]+",
    re.IGNORECASE,
)
_QUERY = re.compile(r"\?([^\s\"'<>]+)")
_QUERY_KEY = re.compile(r"sig|key|token|credential|secret|passw", re.IGNORECASE)


def names_secret(name: str) -> bool:
    """Return whether what stands under this name is a secret."""
    return _NAME.search(name) is not None


def known() -> set[str]:
    """Return the secrets that this process was given: of the environment, 8 characters or more."""
    return {value for value in map(str.strip, _of_environment()) if len(value) >= SHORTEST}


def redact(text: str) -> str:
    """Return `text` with `***` for what looks like a secret, and for each that this process was given.

    Takes time in proportion to the text, whatever it holds.
    """
    if len(text) < SHORTEST:
        return text
    for secret in sorted(known(), key=len, reverse=True):
        for spelling in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            text = text.replace(spelling, HIDDEN)
    return _by_look(text)


def redacted(value: object) -> object:
    """Return a value of JSON's kinds with every text in it redacted, keys, paths and errors too."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(key) if isinstance(key, str) else key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return redact(str(value)) if isinstance(value, PurePath | BaseException) else value


def holds_secret(text: str) -> bool:
    """Return whether a text surely holds a secret: by its look, or one that this process was given."""
    return next(find(text), None) is not None


def find(document: object) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every text in a document, and of every key, that surely holds a secret."""
    given = {secret for secret in known() if len(secret) >= SHORTEST_SURE}

    def holds(text: str) -> bool:
        return len(text) >= SHORTEST and (_by_look(text) != text or any(one in text for one in given))

    return _find(document, (), holds)


def _find(
    value: object, path: tuple[str | int, ...], holds: Callable[[str], bool]
) -> Iterator[tuple[str | int, ...]]:
    members: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, str) and holds(value):
        yield path
    elif isinstance(value, dict):
        members = value.items()
        yield from ((*path, key) for key in value if holds(key))
    elif isinstance(value, list):
        members = enumerate(value)
    for step, inner in members:
        yield from _find(inner, (*path, step), holds)


def _by_look(text: str) -> str:
    text = _LOOKS.sub(HIDDEN, text)
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(lambda m: f"?{HIDDEN}" if _QUERY_KEY.search(m[1]) else m[0], text)
    text = _SIGNED.sub(rf"\1{HIDDEN}", text)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text)


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if names_secret(name) and not _PLACE.search(name) and not _is_place(value):
            yield value
        if "@" in value:
            # A proxy may be written without a scheme.
            start = r"(?:://|^)" if name.upper().endswith("_PROXY") else "://"
            for user_info in re.findall(rf"{start}([^/?#@\s]+)@", value):
                yield user_info
                yield user_info.partition(":")[2]


def _is_place(value: str) -> bool:
    return value.startswith(("/", "~")) and os.path.exists(os.path.expanduser(value))  # noqa: PTH110, PTH111
