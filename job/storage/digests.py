"""Digests of arrays: equal values give equal digests, whatever file they came from."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.storage.local import canonical_json


def tensors_digest(tensors: Mapping[str, NDArray[np.generic]], facts: Any = None) -> str:
    """Return a sha256 over names, dtypes, shapes and bytes of `tensors`, and over `facts` as canonical JSON.

    NaN and -0.0 are made canonical first: they are equal values with several bit patterns.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        if np.issubdtype(array.dtype, np.floating):
            array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array + 0)
        digest.update(canonical_json([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(array.tobytes())
    digest.update(canonical_json(facts).encode())
    return digest.hexdigest()
