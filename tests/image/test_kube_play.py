"""The quick Job's Pod runs to its end in podman, as confined as the manifest says.

Of a cluster only what a kubelet gets from elsewhere is missing: the GPU, and the label with the Job's name.
"""

import json
import tomllib
import uuid
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from tests.image.engine import Engine
from tests.k8s.manifests import IMAGE, ROOT, Document, load, works

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]  # building the image counts


@pytest.fixture(scope="module")
def podman(built: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """podman, with an image for what holds a Pod's namespaces, as no registry is asked for one."""
    if built.name != "podman":
        pytest.skip(f"only podman plays a Pod, and the image was built with {built.name}: BUILDER=podman")
    given = tomllib.loads((ROOT / "docker" / "containers.conf").read_text(encoding="utf-8"))
    pause = f"localhost/pause-{uuid.uuid4().hex[:12]}"
    given.setdefault("engine", {})["infra_image"] = pause
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(
        "".join(
            f"[{section}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
            for section, values in given.items()
        ),
        encoding="utf-8",
    )
    (folder / "Dockerfile").write_text(f'FROM {built.image}\nENTRYPOINT ["sleep", "infinity"]\n')
    environment = {**built.environment, "CONTAINERS_CONF": str(folder / "containers.conf")}
    engine = Engine(built.name, built.image, environment, folder)
    done(engine, "build", "--quiet", "--tag", pause, str(folder))
    yield engine
    done(engine, "rmi", "--force", pause)


def done(engine: Engine, *words: str) -> str:
    """Return the output of a command of podman's, which must succeed."""
    ended = engine.call(*words)
    assert ended.code == 0, f"podman {' '.join(words)}: {ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture
def pod(built: Engine) -> Document:
    """The quick Job's Pod, as its controller makes it, for a node without a GPU.

    It tells its progress every second: a fast machine is done with each loop before the usual ten.
    """
    (work,) = works(load("quick-job.yaml"))
    spec = deepcopy(work.pod)
    assert spec["containers"][0]["image"] == IMAGE
    spec["containers"][0]["image"] = built.image
    spec["containers"][0]["args"].append("--set=runtime.progress_every_s=1")
    for amounts in spec["containers"][0]["resources"].values():
        del amounts["nvidia.com/gpu"]
    labels = {**work.template["metadata"]["labels"], "batch.kubernetes.io/job-name": work.name}
    name = f"quick-{uuid.uuid4().hex[:5]}"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


@pytest.fixture
def played(podman: Engine, pod: Document, tmp_path: Path) -> Iterator[str]:
    """The name of the Pod's container, which is at work."""
    name = pod["metadata"]["name"]
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod), encoding="utf-8")
    done(podman, "kube", "play", "--network", "none", str(tmp_path / "pod.yaml"))
    yield f"{name}-job"
    done(podman, "pod", "rm", "--force", name)
    for volume in pod["spec"]["volumes"]:
        done(podman, "volume", "rm", "--force", volume["name"])


def test_the_quick_job_runs_to_its_end(podman: Engine, played: str) -> None:
    """It ends with 0 and an answer, under the Job's name, in a container that is confined."""
    (container,) = json.loads(done(podman, "inspect", played))
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    assert container["Config"]["User"].partition(":")[0] == "10001"
    assert container["EffectiveCaps"] in (None, [])
    assert container["HostConfig"]["Memory"] == 8 * 2**30
    assert done(podman, "wait", played).strip() == "0", podman.call("logs", "--tail", "5", played)
    lines = [json.loads(line) for line in done(podman, "logs", played).splitlines() if line.startswith("{")]
    events = {line["event"]: line for line in lines}
    assert events["job.started"]["run_id"] == "quick"
    assert events["job.started"]["device"] == "cpu"
    assert events["evaluate.verdict"]["verdict"] == "improved"
    assert events["job.finished"]["exit_code"] == 0
    assert events["progress"]["eta_s"] is not None
