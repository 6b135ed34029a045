import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from job.doctor import software
from job.doctor.software import required

ROOT = Path(__file__).parents[2]


def test_this_environment_is_as_required() -> None:
    """What the tests run on satisfies pyproject.toml."""
    (found,) = software.software()
    assert found.severity == "ok"
    n = len(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert f"{n} libraries" in found.what


@pytest.mark.parametrize(
    ("version", "severity"), [("1.9.9", "error"), ("2.0", None), ("2.0rc1", "error"), ("3.0", "warning")]
)
def test_a_version_outside_what_was_asked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, severity: str | None
) -> None:
    """Below the floor is an error, above the ceiling a warning; both say what to install."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.11"\ndependencies = ["torch>=2.0,<3"]\n'
    )
    asked = required(tmp_path)
    monkeypatch.setattr(software, "required", lambda: asked)
    monkeypatch.setattr(software, "installed", lambda name: version)
    (found,) = software.software()
    assert found.severity == (severity or "ok")
    assert (f"torch {version} is not" in found.what) == (severity is not None)


def test_a_missing_library_and_an_old_python_are_both_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finding each; what another platform needs is not missed."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.99"\n'
        'dependencies = ["surely-not-installed>=1", "nor-this; sys_platform == \'nowhere\'"]\n'
    )
    asked = required(tmp_path)
    monkeypatch.setattr(software, "required", lambda: asked)
    python, library = software.software()
    assert (python.severity, library.severity) == ("error", "error")
    assert python.what.startswith("Python 3.")
    assert library.what == "surely-not-installed is not installed"
    assert "surely-not-installed>=1" in library.advice


def test_an_installed_program_tells_by_its_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkout the distribution says what it asks for; without either nothing is known."""
    monkeypatch.setattr(software, "DISTRIBUTION", "pytest")
    asked = required(tmp_path)
    assert asked is not None
    assert {one.name for one in asked[1]} >= {"pluggy", "iniconfig"}
    assert "hypothesis" not in {one.name for one in asked[1]}  # of the extra `dev`
    assert any("hypothesis" in line for line in metadata.requires("pytest") or ())
    monkeypatch.setattr(software, "DISTRIBUTION", "surely-not-installed")
    assert required(tmp_path) is None
    monkeypatch.setattr(software, "required", lambda: None)
    (found,) = software.software()
    assert found.severity == "warning"
