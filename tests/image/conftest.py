"""The image, built once for all tests of this folder."""

import os
from collections.abc import Iterator

import pytest

from tests.image.engine import Engine, build, building

TAG = "segmenter-rl-job:test"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine with the image; without one a failure where everything is to be tested."""
    script = building()
    try:
        name = script.find_builder(os.environ.get("BUILDER"), runs=True)
    except script.NoBuilder as error:
        asked = os.environ.get("CI") or os.environ.get("SYSTEM_TESTS")
        (pytest.fail if asked else pytest.skip)(str(error))
    build(TAG, name)
    # podman names what it built here so; docker knows both.
    tag = f"localhost/{TAG}" if name == "podman" else TAG
    return Engine(name, tag, script.environment(), tmp_path_factory.mktemp("containers"))


@pytest.fixture
def engine(built: Engine) -> Iterator[Engine]:
    """The engine; the containers of a test end with it."""
    yield built
    built.stop_all()
    built.started.clear()
