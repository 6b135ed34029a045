"""README and docs: what they name is there, and what is there is named."""

import re
from pathlib import Path

import pytest

from job.checks import CANDIDATE, VALIDITY
from job.evaluation.verdict import LEAST_PATIENTS_TO_IMPROVE
from job.verbs import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBERS = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link names a file or folder of the repository."""
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_specs_and_benchmarks_that_pages_name_exist(page: Path) -> None:
    """`specs/x.json` and `benchmarks/x.py` are files, or patterns of files."""
    named = re.findall(r"(?:specs|benchmarks)/[\w*]+\.(?:json|py)", page.read_text(encoding="utf-8"))
    assert [name for name in named if not list(ROOT.glob(name))] == []


def test_every_check_is_explained() -> None:
    """docs/numbers.md lists each check by the name that the report gives it."""
    names = [check.__name__ for check in (*VALIDITY, *CANDIDATE)] + ["ladder", "oracle_gap"]
    assert len(names) == 13
    assert [name for name in names if f"`{name}` |" not in NUMBERS] == []


def test_the_fewest_patients_are_stated() -> None:
    """Six, in words, in the README and on the page of the numbers."""
    assert LEAST_PATIENTS_TO_IMPROVE == 6
    assert "six patients or more" in " ".join(README.split())
    assert "six patients or more" in NUMBERS


def test_every_verb_is_shown() -> None:
    """The README shows how each verb is called; `run` by its short form, `validate` is what it does first."""
    shown = set(re.findall(r"python -m job (\w+)", README))
    assert set(VERBS) - {"run", "validate"} <= shown


def test_decisions_are_numbered_without_gaps() -> None:
    """File and heading carry the same number, from 1 on."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    headings = [page.read_text(encoding="utf-8").split(".")[0] for page in pages]
    assert headings == [f"# {i}" for i in range(1, len(pages) + 1)]
