"""The content key of a Sa2VA checkpoint: what it computes, known without loading it. No torch here."""

import hashlib
import json
from pathlib import Path

from job.errors import InputError
from job.segmenters.file_digests import file_digests
from job.segmenters.remote_code import read_code
from job.segmenters.sa2va.options import Sa2vaOptions

REVISION = 3
"""Raised when the same checkpoint and options give other logits than before."""

_CONTENT = (".json", ".safetensors", ".model", ".txt", ".jinja")


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
        "files": dict(zip(names, file_digests(files, memory), strict=True)),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
