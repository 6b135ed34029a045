"""The manifests and the Dockerfile agree: user, working folder, and every folder that is written to."""

import re

import pytest

from tests.k8s.house_rules import WORKING_DIRECTORY
from tests.k8s.manifests import JOBS, ROOT, load, works

FINAL = (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
"""The stage that runs."""
VARIABLES = dict(re.findall(r"^(?:ENV|   ) +(\w+)=(\S+?)(?: \\)?$", FINAL, re.MULTILINE))
READ = {"PATH", "PYTHONPATH"}
"""Name what is in the image."""


def test_user_and_working_folder_are_those_of_the_image() -> None:
    """A Pod may have any user; the manifests name the image's own, and the folder in which specs/ lies."""
    (user,) = re.findall(r"^USER (\d+):(\d+)$", FINAL, re.MULTILINE)
    (folder,) = re.findall(r"^WORKDIR (\S+)$", FINAL, re.MULTILINE)
    assert folder == WORKING_DIRECTORY
    for name in JOBS:
        for work in works(load(name)):
            security = work.pod["securityContext"]
            assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user
            assert security["fsGroup"] == security["runAsGroup"]


@pytest.mark.parametrize("name", JOBS)
def test_what_libraries_write_to_is_a_volume(name: str) -> None:
    """HOME and the caches of every library lie on a disk of the Pod's, as the image is read-only."""
    folders = {key: value for key, value in VARIABLES.items() if value.startswith("/") and key not in READ}
    assert {"HOME", "HF_HOME", "TORCH_HOME", "TRITON_CACHE_DIR", "MPLCONFIGDIR"} <= folders.keys()
    (work,) = works(load(name))
    for key, folder in folders.items():
        mounted = work.volume(folder)
        assert mounted is not None, f"{key}={folder}"
        assert "emptyDir" in mounted[1], f"{key}={folder}"
