"""One safetensors file with a JSON document in its header: tensors and what they mean never part."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from job.errors import IntegrityError
from job.storage import strict_json
from job.storage.digests import tensors_digest
from job.storage.documents import open_plain
from job.storage.local import write_atomic
from job.storage.tensor_header import UnsafeFile, read_array, read_header

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
    data = save(contiguous, {"description": json.dumps(described, allow_nan=False)})
    if flush:
        write_atomic(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def read_tensors(path: Path, *, most_bytes: int | None = None) -> tuple[Tensors, dict[str, Any]]:
    """Read what `write_tensors` wrote; IntegrityError when the file is damaged or of another kind.

    With `most_bytes` also when it is larger: for files from elsewhere, whose honest size is known.
    """
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if most_bytes is not None and size > most_bytes:
                raise UnsafeFile(f"it has {size:,} bytes, more than {most_bytes:,}")
            header = read_header(file)
            document, sha256 = _described(header.metadata)
            tensors = {name: read_array(file, facts) for name, facts in header.tensors.items()}
        is_whole = sha256 == tensors_digest(tensors)
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:
        raise IntegrityError(
            f"{path}: not a readable tensor file of this program: {error}",
            advice="Remove the file, or fetch an undamaged copy of it.",
        ) from error
    if not is_whole:
        raise IntegrityError(
            f"{path}: its tensors differ from their digest", advice="Fetch an undamaged copy of the file."
        )
    return tensors, document


def _described(metadata: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    described = strict_json.parse(metadata.get("description", "null"))
    if not isinstance(described, dict) or described.keys() != {"document", "sha256"}:
        raise UnsafeFile("its metadata are not those of this program")
    if not isinstance(described["document"], dict):
        raise UnsafeFile("its document is no JSON object")
    return described["document"], str(described["sha256"])
