"""Python and libraries against what the program asks for."""

import platform
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from job import __version__
from job.doctor.findings import Finding

DISTRIBUTION = "segmenter-rl-job"
CHECKOUT = Path(__file__).parents[2]


def software() -> Iterator[Finding]:
    """Compare Python and every library with the versions that the program asks for."""
    asked = required()
    if asked is None:
        what = "the program is neither installed nor in its checkout: what it asks for is not known"
        yield Finding("warning", "software", what, "install it with pip")
        return
    python, requirements = asked
    here = platform.python_version()
    wrong = list(_compared("Python", here, python))
    for requirement in requirements:
        version = installed(requirement.name)
        if version is None:
            what, advice = f"{requirement.name} is not installed", f"pip install '{requirement}'"
            wrong.append(Finding("error", "software", what, advice))
        else:
            wrong += _compared(requirement.name, version, requirement.specifier)
    yield from wrong
    if not wrong:
        libraries = f"{len(requirements)} libraries as required"
        yield Finding("ok", "software", f"{DISTRIBUTION} {__version__}, Python {here}, {libraries}")


def required(checkout: Path = CHECKOUT) -> tuple[SpecifierSet, list[Requirement]] | None:
    """Return what Python and which libraries the program asks for, None where nothing says so.

    A checkout's pyproject.toml comes first: what was installed may be older than it.
    """
    pyproject = checkout / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        return _parsed(project["requires-python"], project["dependencies"])
    try:
        python = metadata.metadata(DISTRIBUTION)["Requires-Python"]
        return _parsed(python, metadata.requires(DISTRIBUTION) or ())
    except metadata.PackageNotFoundError:
        return None


def installed(name: str) -> str | None:
    """Return the version of a library, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _parsed(python: str, lines: Sequence[str]) -> tuple[SpecifierSet, list[Requirement]]:
    requirements = [Requirement(line) for line in lines]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return SpecifierSet(python), needed


def _compared(name: str, version: str, asked: SpecifierSet) -> Iterator[Finding]:
    if asked.contains(version, prereleases=True):
        return
    what = f"{name} {version} is not {asked}"
    is_too_old = any(
        one.operator in (">=", ">", "==", "~=") and not one.contains(version, prereleases=True)
        for one in asked
    )
    if is_too_old:
        yield Finding("error", "software", what, f"install {name} {asked}")
    else:
        advice = (
            f"it is newer than what the program was tested with: install {name} {asked} if anything fails"
        )
        yield Finding("warning", "software", what, advice)
