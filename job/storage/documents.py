"""Documents from elsewhere: opened only if they are plain files, read up to a limit, and checked whole."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from job.errors import IntegrityError
from job.storage import strict_json

MOST_BYTES = strict_json.MOST_BYTES
"""Of a JSON document: `manifest.json` of a run with 200,000 files."""

Model = TypeVar("Model", bound=BaseModel)


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read, without buffer; raises what opening a file raises.

    Raises `IntegrityError` for a pipe or a device, which may never end.
    """
    # A named pipe without a writer blocks whoever opens it, unless asked not to.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(opened).st_mode
    if not stat.S_ISREG(mode):
        os.close(opened)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "Is a directory", os.fspath(path))
        raise IntegrityError(f"{path} is no plain file but a pipe or a device", advice="name a plain file")
    return open(opened, "rb", buffering=0)  # noqa: PTH123


def read_bytes(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Return a document's bytes; raises `IntegrityError` for one that is larger or no plain file."""
    with open_plain(path) as file:
        require_small(str(path), os.fstat(file.fileno()).st_size, most_bytes=most_bytes)
        return file.read()


def parse_as(model: type[Model], data: bytes, where: str, *, advice: str, what: str = "") -> Model:
    """Return the document as its model.

    Raises `IntegrityError` that names `where` it lies and the first mistake, without values of the document.
    """
    problem = ""
    try:
        strict_json.parse(data)  # what pydantic's own reader lets pass: equal keys, NaN, any size
        return model.model_validate_json(data)
    except ValidationError as error:
        problem = first_mistake(error)
        raise _refused(where, what, problem, advice) from error
    except ValueError as error:
        raise _refused(where, what, str(error), advice) from error


def first_mistake(error: ValidationError) -> str:
    """Say in a line what is wrong with a document, without its values."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    if first["loc"] == ("schema_version",):
        return "it was written by another version of the program"
    place = ".".join(str(part)[:80] for part in first["loc"][:8])
    return f"{place}: {first['msg']}".removeprefix(": ")


def require_small(where: str, size_bytes: int, *, most_bytes: int = MOST_BYTES) -> None:
    """Raise `IntegrityError` for a document that is larger than any that is meant to be read at once."""
    if size_bytes > most_bytes:
        raise IntegrityError(
            f"{where} has {size_bytes:,} bytes; a document has at most {most_bytes:,}",
            advice="it is no document of this program: remove it, or fetch an undamaged copy",
        )


def _refused(where: str, what: str, problem: str, advice: str) -> IntegrityError:
    return IntegrityError(
        f"{where} is not {what or 'what this version of the program writes'}: {problem}", advice=advice
    )
