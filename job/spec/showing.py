"""Paths and values as messages show them: short, printable, and without secrets."""

import json
import re

from job.spec.positions import JSON, Path
from job.spec.secrets import names_secret, redact

MAX_SHOWN = 60
_LONGEST_PATH = 160

_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]{0,59}", re.ASCII)


def show_path(path: Path) -> str:
    """Return `path` as users write it, `finetune.net_arch.pi[0]`; odd keys as `data["my key"]`.

    A very long one has dots in its middle: no spec has such a field.
    """
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step) and redact(step) == step:
            shown += f".{step}" if shown else step
        else:
            shown += f"[{_quoted(redact(step))}]"
    if len(shown) > _LONGEST_PATH:
        return f"{shown[: _LONGEST_PATH // 2]}...{shown[-_LONGEST_PATH // 2 :]}"
    return shown


def show_value(value: JSON, path: Path = ()) -> str:
    """Return `value`, found at `path`, in at most 60 characters; secrets and containers are only named."""
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if is_secret(path):
        return "a hidden value"
    return _quoted(redact(value)) if isinstance(value, str) else shorten(json.dumps(value))


def is_secret(path: Path) -> bool:
    """Return whether a key on `path` names a secret."""
    return any(isinstance(step, str) and names_secret(step) for step in path)


def show_line(text: str, column: int, path: Path) -> str:
    """Return the part of a line around `column` (from 1), nothing where the line may hold a secret."""
    if is_secret(path) or is_secret((text,)) or redact(text) != text:
        return ""
    start = max(0, min(column - 1 - MAX_SHOWN // 2, len(text) - MAX_SHOWN))
    end = start + MAX_SHOWN
    shown = ("…" if start else "") + text[start:end].strip() + ("…" if end < len(text) else "")
    return printable(shown)


def printable(text: str) -> str:
    """Return `text` with everything escaped that could steer a terminal or break a line."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def shorten(text: str, limit: int = MAX_SHOWN) -> str:
    """Return `text` cut to `limit` characters, the last an ellipsis where something is missing."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _quoted(text: str) -> str:
    # Cut before escaping, so that a long text costs nothing, and again after, as escapes lengthen it.
    cut = printable(json.dumps(shorten(text), ensure_ascii=False)[1:-1])
    return f'"{shorten(cut, MAX_SHOWN - 2)}"'
