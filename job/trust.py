"""`trust`: what code a checkpoint brings along, and the digest with which a spec vouches for it.

Only code and JSON are read, whatever the size of the weights beside them, and none of it is run.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from job.errors import InputError, IntegrityError
from job.segmenters.checkpoint_kind import CONFIG, goes_by_config, require_kind
from job.segmenters.plugin import entry_point
from job.segmenters.remote_code import RemoteCode, code_of, matters, read_code, require_trusted
from job.spec.segmenter import AnySegmenterSpec, PluginSpec, Sa2vaSpec
from job.spec.showing import printable
from job.storage.documents import read_bytes
from job.storage.fetch import Listing, listing
from job.storage.local import local_path
from job.storage.uris import is_remote

MOST_BYTES_OF_A_FILE = 16 << 20


def code_at(uri: str) -> RemoteCode:
    """Return the code of a checkpoint folder, also in a store; raises `InputError` for what is none."""
    if is_remote(uri):
        found = listing(uri)
        code, is_checkpoint = code_in(found), any(one.key == CONFIG for one in found.objects)
    else:
        folder = local_path(uri)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder", advice="name a checkpoint's folder")
        code, is_checkpoint = read_code(folder), (folder / CONFIG).is_file()
    if code.files and not is_checkpoint:
        raise InputError(
            f"{uri} holds code, and no {CONFIG}: it is no checkpoint's folder",
            advice="name the folder that config.json lies in",
        )
    return code


def code_in(found: Listing) -> RemoteCode:
    """Return the code among the objects of a store; raises `IntegrityError` for a file too large for code."""
    wanted = [one for one in found.objects if matters(one.key)]
    for one in wanted:
        if one.size > MOST_BYTES_OF_A_FILE:
            raise IntegrityError(
                f"{found.uri}/{one.key} has {one.size:,} bytes, too many for code",
                advice="fetch an undamaged copy of the checkpoint",
            )
    return code_of({one.key: found.store.read(one.key)[0] for one in wanted})


def require_vouched(
    spec: AnySegmenterSpec, found: Path | Listing, setting: str = "segmenter.trust_code"
) -> None:
    """Look at kind and code of a segmenter before its weights are fetched, running none of it.

    `setting` is what the user vouches with. Raises `IntegrityError` for a checkpoint's code that nobody
    vouches for, `InputError` for a checkpoint of another kind, `SpecError` for a plug-in that is not
    installed.
    """
    if goes_by_config(spec) and (config := _config(found)) is not None:
        require_kind(spec, config, spec.uri)
    if isinstance(spec, Sa2vaSpec):
        code = code_in(found) if isinstance(found, Listing) else read_code(found)
        require_trusted(code, spec.trust_code, spec.uri, setting)
    elif isinstance(spec, PluginSpec):
        entry_point(spec.name)


def _config(found: Path | Listing) -> bytes | None:
    if isinstance(found, Path):
        path = found / CONFIG
        return read_bytes(path, most_bytes=MOST_BYTES_OF_A_FILE) if path.is_file() else None
    stat = next((one for one in found.objects if one.key == CONFIG), None)
    if stat is None or stat.size > MOST_BYTES_OF_A_FILE:
        return None
    return found.store.read(CONFIG)[0]


def vouched_by(spec: AnySegmenterSpec, trust_code: str | None) -> AnySegmenterSpec:
    """Return a candidate's segmenter as somebody vouches for it: what its own file says counts for nothing.

    Whoever can write a candidate to a bucket could else have any code run by whoever predicts with it.
    """
    return spec.model_copy(update={"trust_code": trust_code}) if isinstance(spec, Sa2vaSpec) else spec


def trust_code_of(spec: AnySegmenterSpec) -> str | None:
    """Return the digest that a spec vouches for; None where it vouches for none."""
    return spec.trust_code if isinstance(spec, Sa2vaSpec) else None


def to_json(uri: str, code: RemoteCode) -> dict[str, Any]:
    """Return what `trust --format json` prints."""
    files = [
        {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in code.files.items()
    ]
    return {"uri": uri, "trust_code": code.digest, "files": files, "classes": _classes(code)}


def to_text(uri: str, code: RemoteCode) -> str:
    """Return the files to look at, then what to write into a spec once one trusts them."""
    if not code.files:
        return f"{printable(uri)} brings no code: there is nothing to vouch for"
    lines = [
        f"{hashlib.sha256(data).hexdigest()[:16]} {len(data):>9,} bytes  {printable(name)}"
        for name, data in code.files.items()
    ]
    lines += [f"{config}: {kind} is {printable(name)}" for config, kind, name in _flat(code)]
    section = {"kind": "sa2va", "uri": uri, "trust_code": code.digest}
    return "\n".join(
        [
            *lines,
            f"{len(code.files)} code files, which can do whatever the job can. If you trust them:",
            f'"segmenter": {json.dumps(section)}',
        ]
    )


def _classes(code: RemoteCode) -> dict[str, dict[str, str]]:
    classes: dict[str, dict[str, str]] = {}
    for config, kind, name in _flat(code):
        classes.setdefault(config, {})[kind] = name
    return classes


def _flat(code: RemoteCode) -> list[tuple[str, str, str]]:
    return [
        (config, kind, name)
        for config, kinds in code.auto_maps.items()
        for kind in kinds
        if (name := code.reference(kind, config)) is not None
    ]
