"""What errors mean to a user."""

import errno
import re
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from job import errors
from job.errors import DeviceError, InputError, JobError, TryAgain, meaning


def raised(do: Callable[[], object]) -> BaseException:
    """Return what it raises."""
    with pytest.raises(BaseException) as caught:
        do()
    return caught.value


def from_cause(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        raised(lambda: np.empty(1 << 60, dtype=np.uint8)),
        raised(lambda: torch.empty(1 << 55)),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        from_cause(ValueError("the table cannot be made"), MemoryError()),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:50],
)  # fmt: skip
def test_memory_that_cannot_be_had_ends_with_10(error: BaseException) -> None:
    """Whoever it is that asks the system in vain; the advice names what needs the memory."""
    told = meaning(error)
    assert type(told) is TryAgain
    assert "memory limit" in told.advice
    assert "data.width" in told.advice


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ..."), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("No CUDA GPUs are available"), False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_accelerator_that_fails_ends_with_11(error: BaseException, is_memory: bool) -> None:
    """Out of memory or broken: one has advice about sizes, the other about another machine."""
    told = meaning(error)
    assert isinstance(told, DeviceError)
    assert ("batch_size" in told.advice) == is_memory
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA error: in a text of somebody else"),
        RuntimeError("size mismatch"),
        KeyError("x"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        FileExistsError("two of a name"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
    ids=repr,
)
def test_what_says_nothing_to_a_user_is_a_defect(error: BaseException) -> None:
    """An error without a place is nothing that a user could mend, whatever its class."""
    assert meaning(error) is None


def test_places_and_full_disks_are_the_users(tmp_path: Path) -> None:
    """A file in the way is named; a full disk may be better later, also in a library's own words."""
    file = tmp_path / "file"
    file.touch()
    for do in (file.mkdir, lambda: list(file.iterdir()), lambda: tmp_path.open("w")):
        told = meaning(raised(do))
        assert isinstance(told, InputError)
        assert str(tmp_path) in str(told)
    for error in (
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EDQUOT, "x"),
        RuntimeError("No space left on device"),
    ):
        assert type(meaning(error)) is TryAgain


def test_an_error_of_the_job_means_itself() -> None:
    """Also below another one that was raised from it."""
    error = InputError("x", advice="y")
    assert meaning(error) is error
    assert meaning(from_cause(RuntimeError("in a library"), error)) is error


def test_the_page_shows_every_error_with_its_code() -> None:
    """The tree at the top of the module is what the module holds."""
    shown = dict(re.findall(r"-- (\w+)\s+(\d+)", errors.__doc__ or ""))
    held = {
        name: str(kind.exit_code)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, JobError) and kind is not JobError
    }
    assert shown == held


@pytest.mark.parametrize("limited", [True, False])
def test_python_fails_without_a_word_where_memory_is_limited(
    limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocation failed within C code that does not say so; without any limit it is a defect."""
    limit = 60_000_000 if limited else resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, resource.RLIM_INFINITY))
    for silence in ("error return without exception set", "f returned NULL without setting an exception"):
        assert isinstance(meaning(SystemError(silence)), TryAgain) == limited
    assert meaning(SystemError("bad argument to internal function")) is None


def test_of_a_page_about_memory_the_line_that_says_so_is_told() -> None:
    """numpy's errors of import open with advice that has nothing to do with it."""
    page = "\nIMPORTANT: PLEASE READ\n\nOriginal error was: x.so: failed to map segment from shared object\n"
    told = str(meaning(ImportError(page)))
    assert told == "out of memory: Original error was: x.so: failed to map segment from shared object"
