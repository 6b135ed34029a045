"""The real program, on specs/tiny.json."""

from pathlib import Path

import pytest

from tests.e2e.child import PATIENCE_S, TINY, Finished, Job, run_here, run_job


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test here is whole processes: it hangs later than others do."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(2 * PATIENCE_S))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Run the program in a folder of the test's own; given options of `python`, as a process of its own."""

    def run(*arguments: str, cwd: Path = tmp_path, python: tuple[str, ...] = ()) -> Finished:
        return run_job(*arguments, cwd=cwd, python=python) if python else run_here(*arguments, cwd=cwd)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A finished run of specs/tiny.json, shared by tests that only read it: its folder and its end."""
    place = tmp_path_factory.mktemp("tiny")
    done = run_job(TINY, "--set", "runtime.threads=1", cwd=place)
    assert done.code == 0, done.stderr
    return place, done
