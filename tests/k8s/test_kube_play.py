"""The quick Job's Pod runs to its end in podman, as confined as the manifest says.

Of a cluster only what a kubelet gets from elsewhere is missing: the GPU, and the label with the Job's name.
"""

import json
import os
import shutil
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import IMAGE, ROOT, Document, load, works

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
RUN_S = 600.0


@dataclass(frozen=True)
class Podman:
    """podman with a configuration of its own."""

    environment: dict[str, str]

    def __call__(self, *words: str, input: str | None = None, timeout: float = 120.0) -> str:  # noqa: A002
        """Return the output of a command; it must succeed."""
        done = subprocess.run(
            ["podman", *words],
            env=self.environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"podman {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """Return the output of a command as JSON."""
        return json.loads(self(*words))


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman, with an image for what holds a Pod's namespaces, as no registry is asked for one."""
    if shutil.which("podman") is None:
        reason = "no podman: apt-get install podman runc"
        (pytest.fail if os.environ.get("CI") or os.environ.get("SYSTEM_TESTS") else pytest.skip)(reason)
    given = tomllib.loads((ROOT / "docker" / "containers.conf").read_text(encoding="utf-8"))
    pause = f"localhost/pause-{uuid.uuid4().hex[:12]}"
    given["engine"]["infra_image"] = pause
    configuration = tmp_path_factory.mktemp("podman") / "containers.conf"
    configuration.write_text(
        "".join(
            f"[{section}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
            for section, values in given.items()
        ),
        encoding="utf-8",
    )
    run = Podman({**os.environ, "CONTAINERS_CONF": str(configuration)})
    assert run("images", "--quiet", IMAGE), f"there is no image {IMAGE}: make image"
    run("build", "--quiet", "--tag", pause, "-", input=f'FROM {IMAGE}\nENTRYPOINT ["sleep", "infinity"]\n')
    yield run
    run("rmi", "--force", pause)


@pytest.fixture
def pod() -> Document:
    """The quick Job's Pod, as its controller makes it, for a node without a GPU."""
    (work,) = works(load("quick-job.yaml"))
    spec = deepcopy(work.pod)
    for amounts in spec["containers"][0]["resources"].values():
        del amounts["nvidia.com/gpu"]
    labels = {**work.template["metadata"]["labels"], "batch.kubernetes.io/job-name": work.name}
    name = f"quick-{uuid.uuid4().hex[:5]}"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


@pytest.fixture
def played(podman: Podman, pod: Document, tmp_path: Path) -> Iterator[str]:
    """The name of the Pod's container, which is at work."""
    name = pod["metadata"]["name"]
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod), encoding="utf-8")
    podman("kube", "play", "--network", "none", str(tmp_path / "pod.yaml"))
    yield f"{name}-job"
    podman("pod", "rm", "--force", name)
    for volume in pod["spec"]["volumes"]:
        podman("volume", "rm", "--force", volume["name"])


def test_the_quick_job_runs_to_its_end(podman: Podman, played: str) -> None:
    """It ends with 0 and an answer, under the Job's name, in a container that is confined."""
    (container,) = podman.json("inspect", played)
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    assert container["Config"]["User"].partition(":")[0] == "10001"
    assert container["EffectiveCaps"] in (None, [])
    assert container["HostConfig"]["Memory"] == 8 * 2**30
    assert podman("wait", played, timeout=RUN_S).strip() == "0", podman("logs", "--tail", "5", played)
    lines = [json.loads(line) for line in podman("logs", played).splitlines() if line.startswith("{")]
    events = {line["event"]: line for line in lines}
    assert events["job.started"]["run_id"] == "quick"
    assert events["job.started"]["device"] == "cpu"
    assert events["evaluate.verdict"]["verdict"] == "improved"
    assert events["job.finished"]["exit_code"] == 0
    assert events["progress"]["eta_s"] is not None
