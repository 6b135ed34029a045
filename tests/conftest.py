"""What every test starts from: an environment without the developer's own settings."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("JOB_", "AWS_", "S3_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def chase_db1() -> Path:
    """The CHASE_DB1 dataset folder, where the environment names it."""
    place = os.environ.get("CHASE_DB1_DIR")
    if not place:
        pytest.skip("CHASE_DB1_DIR is not set: it names the folder of the real photographs (docs/data.md)")
    return Path(place)
