"""Verbs of the command line, told apart before anything is imported."""

import subprocess
import sys

import pytest

from job.verbs import is_run, with_verb


@pytest.mark.parametrize(
    ("words", "full", "starts_a_job"),
    [
        (["spec.json", "--set", "a=1"], ["run", "spec.json", "--set", "a=1"], True),
        (["run", "status"], ["run", "status"], True),
        (["./status"], ["run", "./status"], True),
        (["status", "run"], ["status", "run"], False),
        (["--version"], ["--version"], False),
        ([], [], True),
    ],
)
def test_a_spec_alone_is_run(words: list[str], full: list[str], starts_a_job: bool) -> None:
    """A first word that is neither a verb nor an option is a spec; no word at all is a run without one."""
    assert with_verb(words) == full
    assert is_run(words) is starts_a_job


def test_asking_imports_nothing() -> None:
    """It is asked before the stop handler's process has done anything else."""
    code = "import sys, job; before = set(sys.modules); import job.verbs; print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'job.verbs'}"
