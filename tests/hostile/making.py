"""What hostile files are made with, by all of the modules that make them."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Make = Callable[[Path, Path], Path]
"""Writes a file or folder below the first path and returns it; code in it would make the second one."""


@dataclass(frozen=True)
class Hostile:
    """What comes to a door (`tests/hostile/doors.py`), and how that must end."""

    name: str
    door: str
    exit_code: int
    make: Make
    names: str = ""
    """What the message must name instead of the path."""


class Touch:
    """Makes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def of(door: str, exit_code: int, kinds: Mapping[str, Make | tuple[Make, str]]) -> Iterator[Hostile]:
    """Yield hostile files of one door: by name how each is made, and what is named if not its path."""
    for name, made in kinds.items():
        make, names = made if isinstance(made, tuple) else (made, "")
        yield Hostile(name, door, exit_code, make, names)


def file(name: str, data: bytes) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def pickled(name: str) -> Make:
    return lambda folder, marker: written(folder / name, pickle.dumps(Touch(marker)))


def torch_zip(name: str, *, legacy: bool = False) -> Make:
    def make(folder: Path, marker: Path) -> Path:
        torch.save({"x": Touch(marker)}, folder / name, _use_new_zipfile_serialization=not legacy)
        return folder / name

    return make


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def sparse(name: str, start: bytes, size: int) -> Make:
    """Return a file that claims much and takes nothing on the disk."""

    def make(folder: Path, marker: Path) -> Path:
        with (folder / name).open("wb") as file:
            file.write(start)
            file.truncate(size)
        return folder / name

    return make


def deep(n: int = 100_000) -> bytes:
    return b"[" * n + b"]" * n
