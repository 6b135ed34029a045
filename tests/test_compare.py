"""`compare`: the verb of the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from job.cli import main
from tests.evaluation.made_up_runs import write_run

BASE = np.linspace(0.7, 0.9, 8)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(write_run(tmp_path / name, BASE + gain)) for name, gain in (("a", 0.0), ("b", 0.03))]


def test_compare_answers_and_writes_a_page(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer as text, and where the page is."""
    page = tmp_path / "new" / "page.html"
    assert main(["compare", *runs, "--output", str(page)]) == 0
    answer = capsys.readouterr().out
    assert answer.startswith("b is better\n")
    assert answer.rstrip().endswith(str(page))
    assert page.read_text().startswith("<!doctype html>")


def test_compare_speaks_json(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The standard output is one JSON object and nothing else."""
    assert main(["compare", *runs, "--format", "json", "--output", str(tmp_path / "p.html")]) == 0
    assert json.loads(capsys.readouterr().out)["headline"] == "b is better"


def test_errors_have_their_exit_codes(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run is a usage error, a missing one is a missing input; neither writes a page."""
    page = ["--output", str(tmp_path / "page.html")]
    assert main(["compare", runs[0], *page]) == 2
    assert main(["compare", runs[0], runs[0], *page]) == 2
    assert main(["compare", runs[0], str(tmp_path / "nowhere"), *page]) == 3
    assert "nowhere: no such run" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_compare_needs_no_torch(runs: list[str], tmp_path: Path) -> None:
    """It reads and counts: seconds of imports would be most of its time."""
    code = (
        "import sys; from job.cli import main;"
        f"code = main({['compare', *runs, '--output', str(tmp_path / 'p.html')]!r});"
        "sys.exit(code or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
