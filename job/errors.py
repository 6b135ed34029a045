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
numbers (`podFailurePolicy`): changing one is a breaking change.
"""

import errno

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


def storage_error(error: BaseException) -> JobError | None:
    """Return what an error of the operating system means for the user, None where it is something else.

    A full disk is `TryAgain`; a place that cannot be written or read is `InputError`. Libraries wrap the
    former in errors of their own, so that its words are looked for too.
    """
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(
        error
    ):
        return TryAgain(f"the disk is full: {error}", advice="free space, then run the same command")
    refused = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
    if isinstance(error, refused) or getattr(error, "errno", None) == errno.EROFS:
        return InputError(
            f"cannot use {getattr(error, 'filename', None) or 'a file'}: {getattr(error, 'strerror', error)}",
            advice="check the owner and the mode of the folder, or set output.uri to one that can be written",
        )
    return None
