"""k8s/: every manifest is accepted at the oldest and newest supported version, and agrees with the code."""

import json

import pytest

from job.spec.loading import load as load_spec
from tests.k8s.checking import problems
from tests.k8s.manifests import COMMON, FOLDER, JOBS, ROOT, found, load, parse, works


def test_every_file_is_looked_at() -> None:
    """A manifest that these tests do not know would be kept by nobody."""
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml")}
    known = {COMMON, *JOBS, "alerts.yaml", "models/model-volume.yaml"}
    assert files - {name for name in files if name.endswith("kustomization.yaml")} == known


def test_what_jobs_have_in_common_is_accepted() -> None:
    """Namespace, service account, ConfigMaps, Secret and network policy."""
    assert list(problems(load(COMMON), [])) == []


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_accepted_and_agrees_with_the_code(name: str) -> None:
    """Schemas of both versions, what a server refuses beyond them, and what the program expects."""
    others = load(COMMON, "models/model-volume.yaml")
    others.append(
        {"kind": "ConfigMap", "metadata": {"name": "segmenter-rl-job-fill"}, "data": {"fill.py": ""}}
    )
    assert list(problems(load(name), others)) == []


def test_jobs_differ_only_in_what_they_do() -> None:
    """What holds for one holds for all: policy, security, labels, volumes for scratch."""
    jobs = [work for name in JOBS for work in works(load(name))]
    for part in ("podFailurePolicy", "podReplacementPolicy"):
        assert all(work.job[part] == jobs[0].job[part] for work in jobs)
    for part in ("securityContext", "serviceAccountName", "restartPolicy", "enableServiceLinks"):
        assert all(work.pod[part] == jobs[0].pod[part] for work in jobs)
    assert all(work.container["securityContext"] == jobs[0].container["securityContext"] for work in jobs)


def test_the_secret_is_a_template_without_keys() -> None:
    """Keys would be in a repository, and applying the file again would overwrite those of the cluster."""
    (secret,) = found(load(COMMON), "Secret")
    assert not secret.keys() & {"data", "stringData"}


def test_the_nightly_spec_of_the_cluster_is_the_shipped_one() -> None:
    """specs/nightly.json and the ConfigMap say the same, but for the editors' schema."""
    (config,) = found(load(COMMON), "ConfigMap", "segmenter-rl-job-spec")
    shipped = json.loads((ROOT / "specs" / "nightly.json").read_text())
    assert json.loads(config["data"]["nightly.json"]) == {
        key: shipped[key] for key in shipped if key != "$schema"
    }
    assert load_spec(str(ROOT / "specs" / "nightly.json")).spec.promote.when == "better"


def test_a_field_that_is_given_twice_is_refused() -> None:
    """The last one would silently win."""
    with pytest.raises(Exception, match="duplicate field"):
        parse("kind: Job\nspec: {suspend: true, suspend: false}\n")
