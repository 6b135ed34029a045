"""Every error that the job ends with, on one page, each with its exit code.

    JobError
    |-- SpecError           2   the spec or the command line is wrong
    |-- InputError          3   an input is missing, denied or unusable
    |-- IntegrityError      4   a digest differs, or a file is not safe to load
    |-- InvalidResult       5   a validity check failed, or training diverged
    |-- DeadlineReached     6   the deadline came; progress is saved
    |-- TryAgain           10   the store failed, the disk is full, another attempt holds the run
    |-- DeviceError        11   CUDA failed or ran out of memory
    `-- Interrupted        75   SIGTERM or SIGINT; progress is saved

Anything else that escapes is a defect of the program and ends with 70. Kubernetes manifests rely on these
numbers (`podFailurePolicy`): changing one is a breaking change.
"""

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


class DeviceError(JobError):
    """The accelerator failed or ran out of memory."""

    exit_code = 11


class Interrupted(JobError):
    """The process was asked to stop; progress is saved and the same command goes on from there."""

    exit_code = 75
