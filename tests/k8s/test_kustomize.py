"""k8s/kustomization.yaml: what it builds, with any of its components, is accepted and fits the code."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.k8s.checking import problems
from tests.k8s.manifests import COMMON, FOLDER, Document, Work, found, load, parse, works

SPOT, MODELS = "spot", "models"
SELECTIONS = ([], [SPOT], [MODELS], [SPOT, MODELS])


def built(kubectl: str, folder: Path, *edits: tuple[str, str]) -> list[Document]:
    """Return what kustomize makes of the folder when texts of the page are replaced."""
    copy = folder / "k8s"
    shutil.copytree(FOLDER, copy)
    page = copy / "kustomization.yaml"
    text = page.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    page.write_text(text, encoding="utf-8")
    done = subprocess.run([kubectl, "kustomize", str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # a field that is deprecated, for example
    return parse(done.stdout)


def chosen(components: list[str]) -> tuple[str, str]:
    """Return the edit that takes components in."""
    return "\ncomponents:\n", f"\ncomponents: [{', '.join(components)}]\n"


def nightly(documents: list[Document]) -> Work:
    """Return the nightly job among documents."""
    return next(work for work in works(documents) if work.name == "nightly")


@pytest.mark.parametrize("components", SELECTIONS, ids="+".join)
def test_every_selection_of_components_is_accepted(
    components: list[str], kubectl: str, tmp_path: Path
) -> None:
    """By both schemas, by the rules of a server, and by the code."""
    documents = built(kubectl, tmp_path, chosen(components))
    assert list(problems(documents, [])) == []
    assert {one["kind"] for one in documents} >= {one["kind"] for one in load(COMMON)}


def test_namespace_image_and_bucket_are_named_once(kubectl: str, tmp_path: Path) -> None:
    """All objects move; the Pods take the image and its digest; the bucket is that of the page."""
    digest = f"sha256:{'0' * 64}"
    documents = built(
        kubectl, tmp_path, chosen([MODELS]), ("namespace: segmenter-rl-job", "namespace: retina"),
        ('newTag: "0.1.0"', f"digest: {digest}"), ("s3://my-bucket/results", "s3://b/r"),
    )  # fmt: skip
    spaces = {one["metadata"].get("namespace", one["metadata"]["name"]) for one in documents}
    assert spaces == {"retina"}
    for work in works(documents):
        assert work.container["image"] == f"registry.example.org/segmenter-rl-job@{digest}"
    (store,) = found(documents, "ConfigMap", "segmenter-rl-job-store")
    (spec,) = found(documents, "ConfigMap", "segmenter-rl-job-spec")
    assert store["data"]["OUTPUT_URI"] == "s3://b/r"
    assert json.loads(spec["data"]["nightly.json"])["output"]["uri"] == "s3://b/r"


def test_the_page_changes_nothing_else(kubectl: str, tmp_path: Path) -> None:
    """The nightly job of the page is that of nightly-cronjob.yaml, but for the image."""
    (plain,) = works(load("nightly-cronjob.yaml"))
    made = nightly(built(kubectl, tmp_path))
    made.job["template"]["spec"]["containers"][0]["image"] = plain.container["image"]
    assert made.document["spec"] == plain.document["spec"]


def test_what_the_page_offers_in_comments_is_accepted(kubectl: str, tmp_path: Path) -> None:
    """With the comment signs gone: both components, a port, a registry's password, a runtime."""
    lines = (FOLDER / "kustomization.yaml").read_text(encoding="utf-8").splitlines()
    edits = [(line, line[1:]) for line in lines if line.startswith("#  - ")]
    start = next(number for number, line in enumerate(lines) if line.startswith("#   - target"))
    edits.append(("\n".join(lines[start:]), "\n".join(line[2:] for line in lines[start:])))
    documents = built(kubectl, tmp_path, *edits)
    assert list(problems(documents, [])) == []
    (policy,) = found(documents, "NetworkPolicy")
    assert {"ports": [{"protocol": "TCP", "port": 8333}]} in policy["spec"]["egress"]
    (account,) = found(documents, "ServiceAccount")
    assert account["imagePullSecrets"] == [{"name": "my-registry"}]
    night = nightly(documents)
    assert night.pod["runtimeClassName"] == "nvidia"
    assert night.pod["terminationGracePeriodSeconds"] == 25
    assert night.volume("/models/x") is not None


def test_who_applies_common_yaml_again_is_warned_of_what_the_page_sets() -> None:
    """It holds what the page patches, and says that it would set that back."""
    page = parse((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))[0]
    for patch in page["patches"]:
        assert found(load(COMMON), patch["target"]["kind"], patch["target"]["name"])
    assert "never again then" in (FOLDER / COMMON).read_text(encoding="utf-8").partition("apiVersion")[0]


def test_spot_nodes_are_tolerated_and_left_in_time(kubectl: str, tmp_path: Path) -> None:
    """Within the 30 s that the shortest notice gives, by arguments that the component does not repeat."""
    before, after = (
        nightly(built(kubectl, tmp_path / which, chosen(one))) for which, one in (("a", []), ("b", [SPOT]))
    )
    taints = {one["key"] for one in after.pod["tolerations"]}
    assert {one["key"] for one in before.pod["tolerations"]} < taints
    assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} < taints
    terms = after.pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert taints - {"nvidia.com/gpu"} <= {
        one["key"] for term in terms for one in term["preference"]["matchExpressions"]
    }
    (fill,) = works(load("models/fill-models-job.yaml"))
    assert fill.pod["tolerations"] == after.pod["tolerations"]
    assert after.pod["terminationGracePeriodSeconds"] <= 25
    assert "--set=runtime.interrupt_grace_s=19" in after.arguments([])
    assert after.job["podFailurePolicy"] == before.job["podFailurePolicy"]
    assert len(after.container["env"]) == len(before.container["env"])


def test_models_are_read_from_one_volume_by_all(kubectl: str, tmp_path: Path) -> None:
    """The nightly Pods mount it read-only, and the Job that fills it names a folder on it."""
    documents = built(kubectl, tmp_path, chosen([MODELS]))
    night = nightly(documents)
    mount, volume = night.volume("/models/sa2va-vessels") or ({}, {})
    assert mount["readOnly"] is True
    assert volume["persistentVolumeClaim"] == {"claimName": "segmenter-rl-job-models", "readOnly": True}
    (claim,) = found(documents, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    fill = next(work for work in works(documents) if work.name == "fill-models")
    target = fill.container["command"][-1]
    mount, volume = fill.volume(target) or ({}, {})
    assert "readOnly" not in mount
    assert volume["persistentVolumeClaim"] == {"claimName": "segmenter-rl-job-models"}
    assert fill.volume(fill.container["command"][-2]) is not None
    assert f"MODEL_URI, and {target}" in (FOLDER / "models" / "kustomization.yaml").read_text()
