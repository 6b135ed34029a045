"""How arguments of the command line are read: mistakes are errors of the spec, numbers are within bounds."""

import argparse
import sys
from typing import NoReturn

from job.errors import SpecError


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are `SpecError`s."""

    def error(self, message: str) -> NoReturn:
        """Raise `SpecError` with what is wrong."""
        self.print_usage(sys.stderr)
        raise SpecError(f"{self.prog}: {message}", advice=f"`{self.prog} --help` says more")


def positive(text: str) -> int:
    """Read a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def natural(text: str) -> int:
    """Read a number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value
