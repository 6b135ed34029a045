"""Every error that the job ends with, on one page, each with its exit code.

    JobError
    |-- SpecError           2   the spec or the command line is wrong
    |-- InputError          3   an input is missing, denied or unusable
    |   |-- Missing         3   a store has no such object, or there is no such bucket
    |   `-- Denied          3   a store refuses the credentials, or what they ask for
    |-- IntegrityError      4   a digest differs, or a file is not safe to load
    |-- InvalidResult       5   a validity check failed, or training diverged
    |-- DeadlineReached     6   the deadline came; progress is saved
    |-- TryAgain           10   the store failed, the disk is full, another attempt holds the run
    |   `-- StoreFailure    10   a store failed, or could not be reached, in spite of every retry
    |-- DeviceError        11   CUDA failed or ran out of memory
    `-- Interrupted        75   SIGTERM or SIGINT; progress is saved

Anything else that escapes is a defect of the program and ends with 70. Kubernetes manifests rely on these
numbers (`podFailurePolicy`): changing one is a breaking change. docs/operations.md says what to do about
each.
"""

import errno
import resource

from job import container

EXIT_OK = 0
EXIT_UNCAUGHT = 70


class JobError(Exception):
    """An error whose message says what is wrong, where, and (in `advice`) what to do about it."""

    exit_code = EXIT_UNCAUGHT

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class SpecError(JobError):
    """The spec or the command line is wrong."""

    exit_code = 2


class InputError(JobError):
    """An input is missing, denied or unusable."""

    exit_code = 3


class Missing(InputError):
    """A store has no such object or bucket: it answered so, which a refusal or a failure never means."""


class Denied(InputError):
    """A store refuses the credentials, or what they ask for."""


class IntegrityError(JobError):
    """A digest differs from what was promised, or a file is not safe to load."""

    exit_code = 4


class InvalidResult(JobError):
    """A validity check failed or training diverged: there is no result that could be trusted."""

    exit_code = 5


class DeadlineReached(JobError):
    """The in-process deadline came; progress is saved."""

    exit_code = 6


class TryAgain(JobError):
    """A transient failure: the same command may succeed later."""

    exit_code = 10


class StoreFailure(TryAgain):
    """A store failed, or could not be reached, in spite of every retry."""


class DeviceError(JobError):
    """The accelerator failed or ran out of memory."""

    exit_code = 11


class Interrupted(JobError):
    """The process was asked to stop; progress is saved and the same command goes on from there."""

    exit_code = 75


def meaning(error: BaseException) -> JobError | None:
    """Return what an error means for the user, None for a defect of the program.

    Errors that libraries raise are told by type, module and words: torch is not imported for that. What an
    error was raised from is asked too.
    """
    if isinstance(error, JobError):
        return error
    told = _device_error(error) or _memory_error(error) or storage_error(error)
    if told is None and error.__cause__ is not None:
        return meaning(error.__cause__)
    return told


def storage_error(error: BaseException) -> JobError | None:
    """Return what an error of the operating system means for the user, None where it is something else.

    A full disk is `TryAgain`; a place that cannot be written or read, or where a file is in a folder's place
    or a folder in a file's, is `InputError`. Libraries wrap the first in errors of their own, so that
    its words are looked for too.
    """
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(
        error
    ):
        return TryAgain(f"the disk is full: {error}", advice="free space, then run the same command")
    place = getattr(error, "filename", None)
    if place and isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError):
        place = error.filename2 or place  # of a renaming that which is in its way
        return InputError(
            f"cannot use {place}: {error.strerror}",
            advice=f"move {container.nearest(place)} away, or set output.uri to another folder",
        )
    # Without a place it is about a socket or a process: nothing that a user could look at.
    if place and (isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS):
        advice = "check the owner and the mode of the folder, or set output.uri to one that can be written"
        if container.is_image():
            advice = f"{container.writable_at(place)}, or {advice}"
        return InputError(
            f"cannot use {place}: {getattr(error, 'strerror', error)}{container.whose(place)}", advice=advice
        )
    return None


_DEVICE_TYPES = ("OutOfMemoryError", "AcceleratorError")
_DEVICE_WORDS = (
    "CUDA error", "CUDA out of memory", "CUDA driver", "No CUDA GPUs", "cuDNN error", "CUDNN_STATUS",
    "CUBLAS_STATUS", "CUSOLVER_STATUS", "CUFFT_", "CUSPARSE_STATUS", "NCCL error", "NVRTC",
)  # fmt: skip
_MEMORY_WORDS = (
    "can't allocate memory", "not enough memory", "Cannot allocate memory", "std::bad_alloc",
    "failed to map segment",  # a library that is loaded
    "can't start new thread",
)  # fmt: skip
_NO_PRIMITIVE = "could not create a primitive"
"""All that oneDNN says; what it cannot do at all is "... a primitive descriptor for ..."."""
_SILENT_WORDS = ("without exception set", "without setting an exception")
_MEMORY_TYPES = (RuntimeError, OSError, ImportError)


def _device_error(error: BaseException) -> DeviceError | None:
    kind, text = type(error), str(error)
    is_torchs = kind.__module__.partition(".")[0] == "torch" and kind.__name__ in _DEVICE_TYPES
    if not is_torchs and not (isinstance(error, RuntimeError) and _has(text, _DEVICE_WORDS)):
        return None
    if kind.__name__ == "OutOfMemoryError" or "out of memory" in text.lower() or "ALLOC_FAILED" in text:
        advice = (
            "make sure that nothing else uses the device, lower data.width, segmenter.batch_size,"
            " reward.network.batch_size or finetune.batch_size, or take a device with more memory"
        )
        return DeviceError(f"the accelerator is out of memory: {_first_line(text)}", advice=advice)
    advice = "run the same command again, and if it fails again, on another machine: it goes on from here"
    return DeviceError(f"the accelerator failed: {_first_line(text)}", advice=advice)


def _memory_error(error: BaseException) -> TryAgain | None:
    is_known = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    is_told = _has(str(error), _MEMORY_WORDS) or _first_line(str(error)) == _NO_PRIMITIVE
    # Python's own words where an allocation failed and nobody said so; a defect where memory has no limit.
    is_silent = isinstance(error, SystemError) and _has(str(error), _SILENT_WORDS) and _is_limited()
    if not is_known and not is_silent and not (isinstance(error, _MEMORY_TYPES) and is_told):
        return None
    return TryAgain(
        f"out of memory: {_telling_line(str(error)) or 'no more can be had'}",
        advice="raise the memory limit (of a Pod: resources.limits.memory), or lower data.width,"
        " segmenter.batch_size, reward.network.batch_size or finetune.batch_size; then run the same command:"
        " it goes on from what is saved",
    )


def _is_limited() -> bool:
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word.lower() in text.lower() for word in words)


def _telling_line(text: str) -> str:
    """Return the line that says that memory ran out (numpy's errors are pages), else the first."""
    return next((line.strip() for line in text.splitlines() if _has(line, _MEMORY_WORDS)), _first_line(text))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
