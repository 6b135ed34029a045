"""Importing a checkpoint's code from memory: the bytes that were vouched for are the bytes that run.

`transformers` would copy the files below `HF_HOME` and read them from there, where a stale or changed copy
could run, and which a read-only container lacks. Prints of the code, and its progress bars, go to the debug
log: the standard output belongs to the job's own log.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

from transformers.utils import logging as transformers_logging

from job.errors import InputError
from job.segmenters.chatter import CHATTER, kept_out
from job.segmenters.remote_code import RemoteCode


def load_class(code: RemoteCode, reference: str) -> type:
    """Return the class that a `file.Class` of an auto_map names.

    Raises `InputError` where there is no such class, or where the code asks for something that the installed
    libraries do not offer.
    """
    module_name, _, class_name = reference.rpartition(".")
    try:
        with quiet():
            module = importlib.import_module(f"{_package(code)}.{module_name}")
    except ImportError as error:
        raise InputError(
            f"the checkpoint's code cannot be imported: {error}",
            advice="install what it names, or a version of it that the checkpoint was made for",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise InputError(
            f"the checkpoint's {module_name}.py holds no class {class_name}",
            advice="its config.json and code are of different versions: fetch both anew",
        )
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Within: what is printed goes to the debug log, and `transformers` advises nobody."""
    shown = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with kept_out():
            yield
    finally:
        transformers_logging.set_verbosity(shown)


def _package(code: RemoteCode) -> str:
    name = f"checkpoint_code_{code.digest.removeprefix('sha256:')[:16]}"
    if name not in sys.modules:
        sys.meta_path.insert(0, _Finder(name, code))
    return name


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, package: str, code: RemoteCode) -> None:
        self._package = package
        self._sources = {"": b""} | {_dotted(name): data for name, data in code.files.items()}
        folders = {
            _dotted(parent.as_posix()) for name in code.files for parent in PurePosixPath(name).parents
        }
        self._packages = folders | {""}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._package and not fullname.startswith(f"{self._package}."):
            return None
        inner = fullname[len(self._package) + 1 :]
        if inner not in self._sources and inner not in self._packages:
            return None
        loader = _Loader(self._sources.get(inner, b""), is_package=inner in self._packages)
        return importlib.machinery.ModuleSpec(
            fullname, loader, origin=f"{fullname.replace('.', '/')}.py", is_package=inner in self._packages
        )


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, source: bytes, *, is_package: bool) -> None:
        self._source = source
        self._is_package = is_package

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._source)

    def is_package(self, fullname: str) -> bool:
        return self._is_package

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__file__ = module.__spec__.origin
        module.__dict__["print"] = _print
        exec(compile(self._source, module.__spec__.origin or "", "exec"), module.__dict__)  # noqa: S102
        if "tqdm" in module.__dict__:
            module.__dict__["tqdm"] = _no_bar


def _dotted(name: str) -> str:
    if name == ".":
        return ""
    return name.removesuffix(".py").removesuffix("/__init__").removeprefix("__init__").replace("/", ".")


def _print(*values: object, sep: str | None = None, **_: Any) -> None:
    CHATTER.debug("%s", (sep or " ").join(map(str, values)))


def _no_bar(iterable: Iterable[Any] | None = None, *_: Any, **__: Any) -> Iterable[Any]:
    return iterable if iterable is not None else ()
