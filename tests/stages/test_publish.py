"""What the record says of the program's own version."""

import os
import subprocess
from pathlib import Path

import pytest

from job.publish.versions import LIBRARIES, versions
from job.stages.publish import git_commit


def git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
                "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}  # fmt: skip
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], env={**os.environ, **identity}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "job").mkdir(parents=True)
    git(root, "init")
    return root


def test_a_checkout_of_the_program_has_its_commit(checkout: Path) -> None:
    """Its own folder, also through a link."""
    git(checkout, "commit", "--allow-empty", "-m", "one")
    assert git_commit(checkout / "job") == git(checkout, "rev-parse", "HEAD")
    (checkout.parent / "link").symlink_to(checkout)
    assert git_commit(checkout.parent / "link" / "job") == git(checkout, "rev-parse", "HEAD")


def test_a_package_installed_inside_another_checkout_has_none(checkout: Path) -> None:
    """The commit of a project that merely holds a virtual environment says nothing of this program."""
    git(checkout, "commit", "--allow-empty", "-m", "one")
    installed = checkout / ".venv" / "lib" / "site-packages" / "job"
    installed.mkdir(parents=True)
    assert git_commit(installed) is None


def test_an_image_was_told_its_commit_when_it_was_built(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no checkout and no git; one that was built without its commit has none."""
    monkeypatch.setenv("JOB_REVISION", "abc-dirty")
    assert git_commit(checkout / "job") == "abc-dirty"
    monkeypatch.setenv("JOB_REVISION", "unknown")
    assert git_commit(checkout / "job") is None


def test_no_repository_no_commit_and_no_git_are_no_error(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has none of them."""
    assert git_commit(checkout / "job") is None
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "job").mkdir()
    assert git_commit(tmp_path / "job") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(checkout / "job") is None


def test_versions_name_the_program_python_and_every_library() -> None:
    """What equal digests depend on."""
    assert set(versions()) == {"segmenter-rl-job", "python", *LIBRARIES}
