"""Whether the installed libraries can run a checkpoint: said before anything is loaded, with what to do."""

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from job.errors import InputError
from job.segmenters.remote_code import RemoteCode
from job.segmenters.sa2va.options import Sa2vaOptions

TRANSFORMERS_AT_LEAST = {
    "Qwen2ForCausalLM": (4, 49),
    "Qwen3ForCausalLM": (4, 56),
    "InternLM2ForCausalLM": (4, 49),
    "qwen2_5_vl": (4, 49),
    "qwen3_vl": (4, 57),
}
"""By language model: what its checkpoints need. The code of the first three lies in InternVL checkpoints."""

_PREDICT_FORWARD_BELOW = {"InternLM2ForCausalLM": (4, 50)}
"""InternLM2's own code keeps its cache in tuples, which `generate` gave up after 4.49."""
_PACKAGES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "qwen_vl_utils": "qwen-vl-utils",
    "yaml": "pyyaml",
}


def language_model(config: Mapping[str, Any]) -> str:
    """Return a key of `TRANSFORMERS_AT_LEAST` for a checkpoint's config.json.

    Raises `InputError` for language models that this adapter was never tried with.
    """
    inner = config.get("llm_config")
    if isinstance(inner, dict):
        name = (inner.get("architectures") or ["?"])[0]
    else:
        name = str((config.get("text_config") or {}).get("model_type", "?")).removesuffix("_text")
    if name not in TRANSFORMERS_AT_LEAST:
        known = ", ".join(TRANSFORMERS_AT_LEAST)
        raise InputError(
            f"config.json names the language model {name}, which this segmenter does not know",
            advice=f"use a checkpoint with one of {known}, or masks made elsewhere: kind precomputed",
        )
    return str(name)


def check_requirements(code: RemoteCode, config: Mapping[str, Any], options: Sa2vaOptions) -> None:
    """Raise `InputError`, which names the fix, where the checkpoint cannot run with what is installed."""
    name = language_model(config)
    installed = importlib.metadata.version("transformers")
    version = _numbers(installed)
    least, below = TRANSFORMERS_AT_LEAST[name], _PREDICT_FORWARD_BELOW.get(name)
    if version < least:
        wanted = ".".join(map(str, least))
        raise InputError(
            f"a checkpoint with {name} needs transformers {wanted} or later; {installed} is installed",
            advice=f'pip install --upgrade "transformers>={wanted}"',
        )
    if options.path == "generate" and below is not None and version >= below:
        raise InputError(
            f"predict_forward of a checkpoint with {name} runs with transformers 4.49.0 alone;"
            f" {installed} is installed",
            advice='set segmenter.path to "shared": it calls the same modules and runs with this version',
        )
    if missing := sorted(missing_packages(code)):
        raise InputError(
            f"the checkpoint's code needs Python packages that are not installed: {', '.join(missing)}",
            advice=f"pip install {' '.join(_PACKAGES.get(one, one) for one in missing)}",
        )


def missing_packages(code: RemoteCode) -> set[str]:
    """Return the packages that loading would import and that are not installed.

    Only imports that must succeed count: at the top of a file that the auto_maps lead to, outside of `try`.
    """
    references = [code.reference(kind, name) for name, kinds in code.auto_maps.items() for kind in kinds]
    pending = [f"{one.rpartition('.')[0].replace('.', '/')}.py" for one in references if one]
    seen: set[str] = set()
    wanted: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name not in code.files:
            continue
        seen.add(name)
        for level, module in _imports(code.files[name], name):
            if level:
                base = PurePosixPath(name).parents[level - 1]
                pending.append((base / f"{module.replace('.', '/')}.py").as_posix())
            else:
                wanted.add(module.partition(".")[0])
    return {package for package in wanted if importlib.util.find_spec(package) is None}


def _imports(source: bytes, name: str) -> Iterator[tuple[int, str]]:
    """Yield (level, module) of the import statements at a file's top; level 0 is absolute."""
    try:
        tree = ast.parse(source, name)
    except SyntaxError as error:
        raise InputError(
            f"{name} of the checkpoint is no Python that this version reads: {error}",
            advice="fetch an undamaged copy of it",
        ) from error
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split(".")[:3]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)
