"""k8s/follow.sh: it waits as long as there is no log, says for what, and no longer."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.k8s.manifests import FOLDER

SCRIPT = FOLDER / "follow.sh"
FAKE = """#!/bin/sh
printf '%s\\n' "$*" >> "$0.calls"
case "$*" in
  *"get job/none "*) echo 'jobs.batch "none" not found' >&2; exit 1 ;;
  *"get pods"*) sed -n 1p "$0.states"; sed -i 1d "$0.states" ;;
  *" logs "*) echo the log ;;
esac
"""


def follow(folder: Path, states: list[str], *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run it with a kubectl that tells of states, one a call; return the calls as well."""
    for name, text in (("kubectl", FAKE), ("sleep", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "kubectl.states").write_text("".join(f"{state}\n" for state in states))
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    return done, (folder / "kubectl.calls").read_text()


@pytest.mark.parametrize("last", ["Running ", "Failed ", "Succeeded ", "Failed Pending ContainerCreating"])
def test_the_log_comes_as_soon_as_there_is_one(last: str, tmp_path: Path) -> None:
    """Also that of a Pod that was over before anybody looked."""
    states = [" ", "Pending ", "Pending ContainerCreating", "Pending ContainerCreating", last]
    done, calls = follow(tmp_path, states, "quick")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the log\n"
    assert done.stderr.count("ContainerCreating") == 1  # what stays the same is said once
    assert calls.count("get pods") == len(states)
    assert calls.splitlines()[-1] == "-n segmenter-rl-job logs -f job/quick"


def test_a_job_that_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    """In any namespace."""
    done, calls = follow(tmp_path, [], "none", "retina")
    assert done.returncode != 0
    assert "not found" in done.stderr
    assert calls.splitlines() == ["-n retina get job/none -o name"]
