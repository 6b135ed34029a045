"""The code that a checkpoint brings along: what it consists of, and whether the user vouches for it.

A Hugging Face checkpoint may need Python files of its own (`trust_remote_code`), which can do whatever this
program can. They run only when the spec names the digest of exactly these files, so that nobody who can write
to the bucket can make the job run something else. Reading and hashing needs bytes and JSON alone; what runs
later are the bytes that were hashed, never the files read a second time.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from job.errors import InputError, IntegrityError

PREFIX = "sha256:"


@dataclass(frozen=True)
class RemoteCode:
    """The code files of a checkpoint by their path in its folder, and which class does what."""

    files: Mapping[str, bytes]
    auto_maps: Mapping[str, Mapping[str, Any]]
    """By configuration file: the class of which code file stands for `AutoModel`, `AutoConfig` and others."""

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over all code files and class references: equal for equal code."""
        hashed = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        document = {"files": hashed, "auto_maps": self.auto_maps}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return PREFIX + hashlib.sha256(text.encode()).hexdigest()

    def reference(self, auto_class: str, config: str = "config.json") -> str | None:
        """Return the `file.Class` that a configuration names for `auto_class`; None where it names none."""
        found = self.auto_maps.get(config, {}).get(auto_class)
        if isinstance(found, list):  # tokenizers: [slow, fast], either of which may be null
            found = next((one for one in found if one), None)
        return found if isinstance(found, str) else None


def matters(name: str) -> bool:
    """Return whether a file of a checkpoint counts as code: Python files anywhere, and the configurations.

    `name` is the path in the folder. Hidden files and folders (`.git`, `.cache`) never do: they never run.
    """
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__pycache__" for part in path.parts):
        return False
    return path.suffix == ".py" or (len(path.parts) == 1 and name.endswith("config.json"))


def code_of(files: Mapping[str, bytes]) -> RemoteCode:
    """Return the code among `files`, given by path in the checkpoint; what does not matter is left out.

    Raises `InputError` for a configuration that is no JSON object, `IntegrityError` for a class reference to
    code of another repository, which no digest of this folder could vouch for.
    """
    maps = {}
    for name in sorted(filter(matters, files)):
        if not name.endswith(".py") and (auto_map := _auto_map(name, files[name])):
            maps[name] = auto_map
    code = {name: files[name] for name in sorted(files) if matters(name) and name.endswith(".py")}
    return RemoteCode(code, maps)


def read_code(folder: Path) -> RemoteCode:
    """Return the code of a checkpoint folder; raises what `code_of` raises."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if matters(name) and path.is_file():
            files[name] = path.read_bytes()
    return code_of(files)


def trust_digest(folder: Path) -> str:
    """Return the `sha256:...` that a spec's `trust_code` must name for this checkpoint folder."""
    return read_code(folder).digest


def trusted_code(folder: Path, trust_code: str | None, uri: str | None = None) -> RemoteCode:
    """Return the code of a folder that the user vouches for; raises `IntegrityError` where he does not.

    `uri` is what the user calls the folder.
    """
    code = read_code(folder)
    require_trusted(code, trust_code, uri or str(folder))
    return code


def require_trusted(
    code: RemoteCode, trust_code: str | None, place: str, setting: str = "segmenter.trust_code"
) -> None:
    """Raise `IntegrityError`, which says how to vouch for it, where `trust_code` is not the code's digest.

    `setting` is what the user sets to do so. Raises `InputError` where there is no code to vouch for.
    """
    if not code.files:
        raise InputError(
            f"{place}: no checkpoint that runs by its own code: it holds no Python files",
            advice="name the folder of a Sa2VA checkpoint with the Python files that it came with, or set"
            " segmenter.kind",
        )
    needed = code.digest
    if trust_code == needed:
        return
    look = f"look at the files that `python -m job trust {place}` lists; if you trust them, set"
    if trust_code is None:
        raise IntegrityError(
            f"{place}: the checkpoint brings {len(code.files)} code files, which run only if you vouch for"
            " them",
            advice=f'{look} {setting} to "{needed}"',
        )
    raise IntegrityError(
        f"{place}: the code of the checkpoint has digest {needed}, {setting} is {trust_code}",
        advice=f'the code was changed, or it is another checkpoint: {look} it to "{needed}"',
    )


def _auto_map(name: str, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InputError(
            f"{name} of the checkpoint is no JSON: {error}", advice="fetch an undamaged copy of it"
        ) from error
    if not isinstance(document, dict):
        raise InputError(
            f"{name} of the checkpoint is no JSON object", advice="fetch an undamaged copy of it"
        )
    auto_map = document.get("auto_map")
    if not isinstance(auto_map, dict):
        return {}
    for auto_class, reference in auto_map.items():
        for one in reference if isinstance(reference, list) else [reference]:
            if isinstance(one, str) and "--" in one:
                raise IntegrityError(
                    f"{name} of the checkpoint takes {auto_class} from another repository ({one})",
                    advice="put the code files into the checkpoint's folder and name them there",
                )
    return auto_map
