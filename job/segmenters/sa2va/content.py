"""The content key of a Sa2VA checkpoint: what it computes, known without loading it. No torch here."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from job.errors import InputError
from job.segmenters.remote_code import read_code
from job.segmenters.sa2va.options import Sa2vaOptions

REVISION = 1
"""Raised when the same checkpoint and options give other logits than before."""

_CONTENT = (".json", ".safetensors", ".model", ".txt", ".jinja")
_MEMORY = "sa2va_digests.json"
_AT_ONCE = 4


def content_key(folder: Path, options: Sa2vaOptions, memory: Path | None = None) -> str:
    """Return 64 hex digits over weights, configurations, code, this adapter's revision and the options.

    Files are hashed whole, several at once (16 GB take about 4 s on four cores). The folder `memory`, where
    given, remembers a file's digest for as long as its size and time of change stay. Raises `InputError`
    when `folder` holds no checkpoint.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in _CONTENT and path.is_file())
    names = [path.name for path in files]
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InputError(
            f"{folder} holds no checkpoint: config.json and *.safetensors are looked for",
            advice="name the folder of a Sa2VA checkpoint (convert *.bin files to safetensors first)",
        )
    document = {
        "adapter": ["sa2va", REVISION],
        "options": options.identity(),
        "code": read_code(folder).digest,
        "files": dict(zip(names, _digests(files, memory), strict=True)),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _digests(files: list[Path], memory: Path | None) -> list[str]:
    known = _remembered(memory)
    facts = {path: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    new = [path for path in files if known.get(str(path.resolve()), [None])[:2] != facts[path]]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashlib lets other threads run
        for path, digest in zip(new, pool.map(_sha256, new), strict=True):
            known[str(path.resolve())] = [*facts[path], digest]
    if memory is not None and new:
        memory.mkdir(parents=True, exist_ok=True)
        partial = memory / f".{_MEMORY}.{os.getpid()}.tmp"
        partial.write_text(json.dumps(known))
        partial.replace(memory / _MEMORY)
    return [str(known[str(path.resolve())][2]) for path in files]


def _remembered(memory: Path | None) -> dict[str, list[int | str]]:
    if memory is None:
        return {}
    try:
        known = json.loads((memory / _MEMORY).read_text())
        return {
            str(path): [int(size), int(time), str(digest)] for path, (size, time, digest) in known.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # nothing remembered, or damaged: files are hashed again


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
