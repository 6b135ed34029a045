"""docs/operations.md and README.md: their commands for clusters do what they say."""

import os
import re
import subprocess
from pathlib import Path

from job.errors import DeviceError, Interrupted, JobError, TryAgain
from tests.k8s.checking import OLDEST, problems
from tests.k8s.house_rules import COMES_AGAIN
from tests.k8s.manifests import COMMON, FOLDER, ROOT, load, parse, works

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CLUSTER = PAGE.partition("## On a cluster")[2]


def test_n_jobs_from_n_specs_are_n_good_jobs() -> None:
    """The loop makes a Job a spec, each with a name and a run of its own."""
    (loop,) = re.findall(r"^for spec in .*?^done$", CLUSTER, re.DOTALL | re.MULTILINE)
    made = subprocess.run(
        ["sh", "-euc", loop.replace("kubectl apply -f -", "{ cat; echo ---; }")],
        cwd=ROOT, env={**os.environ, "IMAGE": "registry.example.org/job:1"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    documents = parse(made)
    assert list(problems(documents, load(COMMON))) == []
    assert len({work.name for work in works(documents)}) == len(documents) == 3
    assert len({work.container["args"][0] for work in works(documents)}) == 3
    for work in works(documents):
        assert work.container["image"] == "registry.example.org/job:1"
        for labels in (work.document["metadata"]["labels"], work.template["metadata"]["labels"]):
            assert labels["app.kubernetes.io/component"] == work.name


def test_no_job_is_applied_with_an_image_that_no_registry_has() -> None:
    """A command that applies a manifest with Pods puts the name of the image in first."""
    texts = [PAGE, (ROOT / "README.md").read_text(encoding="utf-8")]
    texts += [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.yaml")]
    for line in "\n".join(texts).splitlines():
        if "kubectl" in line:
            assert not re.search(r"-f k8s/[\w-]*job\.yaml", line), line


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    """What the page says of a code, the manifests do, and errors.py means."""
    rows = re.findall(r"^\| with (.*?) \| (.*?) \|", CLUSTER, re.MULTILINE)
    codes = {
        action: {int(code) for code in re.findall(r"\b\d+\b", text.partition("(")[0])}
        for text, action in rows
    }
    assert codes["Ignore"] == {Interrupted.exit_code}
    assert codes["FailJob"] == COMES_AGAIN
    assert codes["counts"] == {TryAgain.exit_code, DeviceError.exit_code, JobError.exit_code}


def test_the_figures_on_the_page_are_those_of_the_manifests() -> None:
    """Deadlines, grace, retries, and the oldest version of Kubernetes."""
    full, night = (next(iter(works(load(name)))) for name in ("full-job.yaml", "nightly-cronjob.yaml"))
    for work in (full, night):
        assert f"`terminationGracePeriodSeconds` ({work.pod['terminationGracePeriodSeconds']} s)" in CLUSTER
        assert f"`runtime.interrupt_grace_s` ({work.environment([])['INTERRUPT_GRACE_S']} s)" in CLUSTER
        assert f"`runtime.deadline_s` ({int(work.environment([])['DEADLINE_S']) // 3600} h from" in CLUSTER
        assert f"`backoffLimit: {work.job['backoffLimit']}`" in CLUSTER
    hours = [work.job["activeDeadlineSeconds"] // 3600 for work in (full, night)]
    assert f"{hours[0]} h, a night {hours[1]} h" in CLUSTER
    assert f"(Kubernetes {OLDEST} or newer)" in CLUSTER


def test_alerts_on_the_page_are_those_of_the_file() -> None:
    """Each has a row that says what to do."""
    (document,) = load("alerts.yaml")
    names = {rule["alert"] for group in document["spec"]["groups"] for rule in group["rules"]}
    assert set(re.findall(r"^\| `(Segmenter\w+)`", CLUSTER, re.MULTILINE)) == names


def test_files_and_names_in_commands_exist() -> None:
    """In the pages and in the manifests' own comments."""
    texts = [PAGE, (ROOT / "README.md").read_text(encoding="utf-8")]
    texts += [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.yaml")]
    for text in texts:
        for name in re.findall(r"\bk8s/[\w./-]*\w", text):
            assert (ROOT / name).exists(), name
        for name in re.findall(r"cronjobs?[/ ]nightl\w+", text):
            assert name.endswith("nightly")
        for name in re.findall(r"kubectl -n ([\w-]+)", text):
            assert name == "segmenter-rl-job"
    assert Path(ROOT / "specs" / "full.json").exists()
