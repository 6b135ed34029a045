"""Versions of the program and its libraries, read from their metadata: nothing is imported."""

import platform
from importlib import metadata

from job import __version__

LIBRARIES = (
    "torch", "transformers", "stable-baselines3", "gymnasium", "numpy", "scipy", "pillow",
    "safetensors", "pydantic", "structlog",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions that shape results."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {"segmenter-rl-job": __version__, "python": platform.python_version(), **found}
