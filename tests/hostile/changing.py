"""A file changed a little at random: a place of its JSON, or a few of its bytes."""

import json
import random
from typing import Any

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**99, 10**30, 0.5, 1e308, 5e-324,
    "", "x", "..", "../../x", "/", "a\0b", "a\nb", "\ud800", "\u202e", "NaN", "Infinity", "nan", "1e999",
    "x" * 5000, "ü" * 300, [], {}, [[]], [None], {"": None}, [0] * 50, {"a": {"b": {"c": []}}}, "runs/x/..",
    "file:///etc/passwd", "http://127.0.0.1/", "s3://../..", "s3://bucket/key", "2026-13-45T99:99:99Z", -0.0,
)  # fmt: skip


def changed(data: bytes, rng: random.Random) -> bytes:
    """Return a file changed a little: its JSON where it has some, else its bytes."""
    if rng.random() < 0.6:
        start = 8 if data[8:9] == b"{" else 0
        end = 8 + int.from_bytes(data[:8], "little") if start else len(data)
        try:
            text = json.dumps(_mutated(json.loads(data[start:end]), rng)).encode()
        except (ValueError, RecursionError):
            return _bytes_changed(data, rng)
        length = len(text).to_bytes(8, "little") if start else b""
        return length + text + data[end:]
    return _bytes_changed(data, rng)


def _mutated(value: Any, rng: random.Random) -> Any:
    """Change one to three places of a JSON value."""
    for _ in range(rng.randint(1, 3)):
        value = _mutated_once(value, rng)
    return value


def _mutated_once(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        if isinstance(value, str) and value and rng.random() < 0.5:
            return _text_changed(value, rng)
        return rng.choice(STRANGE)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    action = rng.random()
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if action < 0.7:
        copy[key] = _mutated_once(copy[key], rng)
    elif action < 0.8:
        del copy[key]
    elif action < 0.9 and isinstance(copy, dict):
        copy[str(rng.choice(STRANGE))] = copy[key]
    elif isinstance(copy, list):
        copy.insert(key, rng.choice([copy[key], rng.choice(STRANGE)]))
    else:
        copy[key] = copy[rng.choice(keys)]
    return copy


def _text_changed(text: str, rng: random.Random) -> str:
    inner = rng.random()
    try:  # JSON within JSON, as the metadata of tensor files
        if inner < 0.8:
            return json.dumps(_mutated(json.loads(text), rng))
    except (ValueError, RecursionError):
        pass
    at = rng.randrange(len(text))
    return text[:at] + str(rng.choice(STRANGE)) + text[at + rng.randint(0, 3) :]


def _bytes_changed(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = min(rng.randrange(len(out) + 1), rng.choice((len(out), 64, 600)))  # headers come first
        match rng.randrange(7):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + rng.choice((1, 2, 4, 8))] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * 4
            case 2:
                del out[at : at + rng.choice((1, 2, 7, 100))]
            case 3:
                out[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
            case 4:
                del out[at:]
            case 5:
                out[at:at] = out[at : at + rng.choice((4, 40, 512))]
            case 6:
                out[at:at] = rng.choice(
                    (b"[" * 3000, b'{"a":' * 3000, b"\xef\xbb\xbf", b"NaN", b"1e999", b"9" * 5000)
                )
    return bytes(out)
