"""One safetensors file with a JSON document in its header: tensors and what they mean never part."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from job.errors import IntegrityError
from job.storage.digests import tensors_digest
from job.storage.local import write_atomic

Tensors = dict[str, NDArray[Any]]


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], document: Mapping[str, Any], *, flush: bool = True
) -> None:
    """Write tensors and a JSON document, replacing `path` in one step: readers see the old or the new.

    Without `flush` the disk is not waited for: a crash of the machine, not of the program, may leave a file
    that `read_tensors` refuses.
    """
    # safetensors writes a view's memory as it lies, which is another array than the view.
    contiguous = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    # One key: safetensors writes several in a random order, and equal content should be equal bytes.
    described = {"document": document, "sha256": tensors_digest(contiguous)}
    data = save(contiguous, {"description": json.dumps(described)})
    if flush:
        write_atomic(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what `write_tensors` wrote; IntegrityError when the file is damaged or of another kind."""
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        described = json.loads(metadata["description"])
        document = described["document"]
        is_whole = described["sha256"] == tensors_digest(tensors)
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise IntegrityError(
            f"{path}: not a readable tensor file of this program ({type(error).__name__})",
            advice="Remove the file, or fetch an undamaged copy of it.",
        ) from error
    if not isinstance(document, dict) or not is_whole:
        raise IntegrityError(
            f"{path}: its tensors differ from their digest, or its document is no JSON object",
            advice="Fetch an undamaged copy of the file.",
        )
    return tensors, document
