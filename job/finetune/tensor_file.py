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
from job.storage.local import write_atomic

Tensors = dict[str, NDArray[Any]]


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], document: Mapping[str, Any]) -> None:
    """Write tensors and a JSON document, replacing `path` in one step: readers see the old or the new."""
    contiguous = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    data = save(contiguous, {"document": json.dumps(document)})
    write_atomic(path, data)


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read what `write_tensors` wrote; IntegrityError when the file is damaged or of another kind."""
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        document = json.loads(metadata["document"])
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise IntegrityError(
            f"{path}: not a readable tensor file of this program ({type(error).__name__})",
            advice="Remove the file, or fetch an undamaged copy of it.",
        ) from error
    if not isinstance(document, dict):
        raise IntegrityError(
            f"{path}: its document is not a JSON object", advice="Fetch an undamaged copy of the file."
        )
    return tensors, document
