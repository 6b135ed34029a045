"""`python -m job`: installs the stop handler before anything slow is imported, then runs the command line."""

import os
import sys

from job import stopping, verbs


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        exit_code = _run()
    except Exception as error:  # an installation that is not whole, a machine without memory
        from job import last_words

        exit_code = last_words.say(error)
    return stopping.leave(exit_code)


def _run() -> int:
    _open_standard_streams()
    stopping.install()
    if verbs.is_run(sys.argv[1:]):
        stopping.limit(say=_say)
    # OpenMP's threads spin while they wait. On a machine that is shared, or in a container with a CPU quota,
    # that made small convolutions 3 to 25 times slower; waiting asleep costs nothing that could be measured.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numpy's small products gain nothing from threads, and their bits would depend on how many there are.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from job import channels, cli

    channels.guard()
    return cli.main(sys.argv[1:])


def _open_standard_streams() -> None:
    """Open those that the process was started without to nowhere: else the next file would become one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            stream = os.fdopen(number, "w" if number else "r", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # who replaces the stream must not be the end of this one


def _say(error: Exception) -> object:
    from job import last_words

    return last_words.say(error)


if __name__ == "__main__":
    sys.exit(main())
