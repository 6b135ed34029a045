"""How arguments of the command line are read."""

import argparse

import pytest

from job.arguments import Parser, natural, positive
from job.errors import SpecError


def test_a_mistake_is_an_error_of_the_spec(capsys: pytest.CaptureFixture[str]) -> None:
    """With the usage on standard error, and the advice to ask for help; no process is ended."""
    parser = Parser(prog="x")
    parser.add_argument("--n", type=positive)
    with pytest.raises(SpecError, match="x: argument --n: must be at least 1, got 0") as caught:
        parser.parse_args(["--n", "0"])
    assert caught.value.advice == "`x --help` says more"
    assert capsys.readouterr().err.startswith("usage: x")


def test_numbers_are_within_bounds() -> None:
    """From 1, and from 0."""
    assert (positive("1"), natural("0")) == (1, 0)
    for read, text in ((positive, "0"), (natural, "-1")):
        with pytest.raises(argparse.ArgumentTypeError, match="got"):
            read(text)
    with pytest.raises(ValueError, match="invalid literal"):
        natural("x")
